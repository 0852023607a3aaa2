"""The runner's part in offline jobs: it says when all that can come is there, and writes down how jobs stand."""

from __future__ import annotations

from distilnb.engine import events
from distilnb.engine.crew import Crew
from distilnb.engine.flow import Flow
from distilnb.engine.journal import Journal
from distilnb.engine.plan import Plan
from distilnb.engine.wire import Message

_EVENTS: dict[str, type[events.JobParked] | type[events.JobCollected]] = {
    "job_parked": events.JobParked,
    "job_collected": events.JobCollected,
}


class Parking:
    """What the workers of one run were told, and what they told."""

    def __init__(self, plan: Plan) -> None:
        self._has_stages = any(stage.is_offline for stage in plan.stages)
        self._told: dict[str, tuple[int, bool]] = {}  # worker → its pid, and what it was told

    def tell(self, flow: Flow, crew: Crew) -> None:
        """Tell ask workers whether more can come before a job is handed over, where that has changed."""
        if not self._has_stages:
            return
        is_so = flow.is_parked()
        for name, worker in crew.workers.items():
            if worker.role == "ask" and self._told.get(name) != (worker.pid, is_so):
                self._told[name] = (worker.pid, is_so)
                worker.tell({"do": "given", "is_so": is_so})

    def hear(self, journal: Journal, message: Message) -> None:
        """Write down how the jobs stand; the journal's turn is the caller's."""
        journal.set_fact("jobs", message["jobs"])
        for one in message["news"]:
            data = dict(one)
            journal.add_event(_EVENTS[data.pop("kind")](**data))

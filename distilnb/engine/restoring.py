"""How a runner takes up its run: where the journal says that it stands, with the retries that wait."""

from __future__ import annotations

import os
import time

from distilnb.engine import events
from distilnb.engine.control import Control
from distilnb.engine.flow import Flow
from distilnb.engine.intake import Intake
from distilnb.engine.journal import Journal, JournalReader
from distilnb.engine.limits import RunLimits
from distilnb.engine.plan import Plan
from distilnb.engine.ranges import from_ranges
from distilnb.engine.retrying import Retrying


def begin_again(plan: Plan, journal: Journal, retrying: Retrying, control: Control) -> bool:
    """Note in the journal that the run goes on, and carry out the retries that wait; returns whether it is new."""
    facts = journal.reader().facts()
    is_new = "state" not in facts
    with journal.turn():
        journal.set_fact("state", "running")
        journal.set_fact("reason", "")
        journal.set_fact("error", "")
        journal.set_fact("notes", [])
        journal.set_fact("reached", {})
        if is_new:
            journal.set_fact("started_at", time.time())
            journal.add_event(events.Started(pid=os.getpid()))
        else:
            journal.add_event(events.Resumed(pid=os.getpid(), was=facts["state"]))
        retrying.take_orders()  # the flow is filled after: it need not be told what changed
    control.limits = RunLimits.of(plan, facts.get("limits"), ())
    control.ran_s = facts.get("ran_s", 0.0)
    return is_new


def refill(
    flow: Flow, plan: Plan, reader: JournalReader, retrying: Retrying, intake: Intake, *, is_new: bool
) -> None:
    """Let all that is not done flow again."""
    facts = reader.facts()
    acknowledged = reader.acknowledged()
    for batch in reader.batches():
        skip = None
        if not is_new:
            skip = {
                stage.name: retrying.through(
                    batch.id, stage.name, from_ranges(acknowledged.get((batch.id, stage.name), ()))
                )
                for stage in plan.consumers(batch.stage)
            }
        flow.arrived(batch, skip)
        intake.took_before(batch.stage)
    for stage in plan.stages:
        if stage.is_cut:
            flow.begin_parts(stage.name, *facts.get(f"parts:{stage.name}", (0, 0)))
        if facts.get(f"ended:{stage.name}"):
            flow.ended(stage.name)

"""How a run stands: what panel, command line and `run.status()` show. Plain data, read from the journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from distilnb.engine.limits import RunLimits
from distilnb.engine.traffic import Refusal

RunState = Literal["starting", "running", "paused", "stopping", "finished", "stopped", "failed", "lost"]
StepState = Literal["waiting", "running", "finished", "failed"]

GOING: frozenset[str] = frozenset({"running", "paused", "stopping"})  # as a living runner writes it
ENDED: frozenset[str] = frozenset({"finished", "stopped", "failed", "lost"})
COUNTED = (  # the figures of a step that the journal counts under the same names
    "done",
    "failed",
    "dropped",
    "made",
    "partial",
    "asked",
    "cached",
    "truncated",
    "retries",
    "reasked",
    "stood_in",
    "input_tokens",
    "output_tokens",
    "guessed",
)
ROUTED = "routed:"  # with a step's name behind it: the figure of a route, how many rows go there


@dataclass(frozen=True, slots=True)
class StepStatus:
    """Counts of one step. Rows: `done` = `made`'s input rows that ended well; costs in USD, None when unknown."""

    name: str
    kind: str  # class name of the step
    state: StepState = "waiting"
    total: int | None = None  # input rows expected, None while upstream still makes them
    done: int = 0  # input rows that ended well
    failed: int = 0  # input rows in quarantine
    dropped: int = 0  # input rows left out on purpose (filtered, ties)
    made: int = 0  # output rows
    partial: int = 0  # rows kept although a part of their reply could not be used
    asked: int = 0  # requests sent to the model in this run, retries among them
    cached: int = 0  # requests answered by the reply cache
    truncated: int = 0  # replies cut off at the token limit
    retries: int = 0  # requests sent again after a retryable error
    reasked: int = 0  # requests for a reply in place of one that did not have the shape asked for
    stood_in: int = 0  # replies that a backup gave in place of a model that failed, cached ones too
    input_tokens: int = 0
    output_tokens: int = 0
    guessed: int = 0  # replies whose provider told no tokens: they are counted by the length of their texts
    in_flight: int = 0  # requests sent and not answered, those that wait to be sent again among them
    cost_usd: float | None = 0.0
    drop_reasons: dict[str, int] = field(default_factory=dict)
    rows_per_s: float = 0.0  # recent rate of ended input rows

    @property
    def ended(self) -> int:
        """Input rows that are through, in whatever way."""
        return self.done + self.failed + self.dropped


@dataclass(frozen=True, slots=True)
class JobStatus:
    """An offline job that rows of a run wait for. Times are seconds since the epoch, 0 where they are not known."""

    id: str  # the provider's; "" before it is handed over
    model: str
    state: str  # gathering, sending, parked, collecting or cancelling
    n_total: int = 0  # requests
    n_done: int = 0
    n_failed: int = 0
    since: float = 0.0
    expires_at: float = 0.0
    note: str = ""  # what keeps it from going on
    marker: str = ""  # its name here
    run: str = ""  # that handed it over


@dataclass(frozen=True, slots=True, repr=False)
class RunStatus:
    """How a run stands. Times are seconds since the epoch."""

    id: str
    pipeline: str
    state: RunState
    steps: tuple[StepStatus, ...] = ()
    reason: str = ""  # why it stops or stopped: "user", "paused", "budget: ...", "time: ...", "row: ..."
    error: str = ""  # what failed, with the tail of the log where a process died
    started_at: float = 0.0
    ended_at: float | None = None
    is_rehearsed: bool = False  # some model was the rehearsal model
    notes: tuple[str, ...] = ()
    ran_s: float = 0.0  # seconds of running over its whole life; pauses and stops are left out
    limits: RunLimits = field(default_factory=RunLimits)
    refusals: tuple[Refusal, ...] = ()  # models that asked for fewer requests (HTTP 429)
    jobs: tuple[JobStatus, ...] = ()  # offline ones that rows wait for; of an ended run, those it left

    @property
    def is_ended(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.state in ENDED

    @property
    def is_parked(self) -> bool:
        """Whether the run goes on and waits for offline jobs at their providers."""
        return self.state == "running" and any(job.id for job in self.jobs)

    @property
    def cost_usd(self) -> float | None:
        """Money spent so far, None when the price of some model is unknown."""
        costs = [step.cost_usd for step in self.steps]
        return (
            None if any(cost is None for cost in costs) else sum(cost for cost in costs if cost is not None)
        )

    def step(self, name: str) -> StepStatus:
        """Return the counts of one step; raises KeyError."""
        return next(step for step in self.steps if step.name == name)

    def __repr__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        steps = ", ".join(
            f"{step.name} {step.ended}/{'?' if step.total is None else step.total}"
            + (f" {step.failed} failed" if step.failed else "")
            for step in self.steps
        )
        return f"<RunStatus {self.id} {self.state}{reason}: {steps}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the status as plain data."""
        return {**asdict(self), "cost_usd": self.cost_usd}


def read_jobs(facts: Mapping[str, Any]) -> tuple[JobStatus, ...]:
    """Return the offline jobs that a run's journal tells of."""
    known = {one.name for one in fields(JobStatus)}
    return tuple(
        JobStatus(**{name: value for name, value in job.items() if name in known})
        for job in facts.get("jobs", ())
    )

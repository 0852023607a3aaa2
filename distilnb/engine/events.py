"""What a run reports: one frozen class per kind, written by the runner, read by the panel, the CLI and programs.

The list is append-only: kinds and fields are added, never renamed or taken away, and a reader passes over fields
that it does not know. Events are per state change, never per row; docs/architecture/events.md has the table.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, NamedTuple


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a run."""

    kind: ClassVar[str] = ""

    id: int = 0  # its number in the journal, from 1 on; 0 as long as it is not written
    at: float = 0.0  # seconds since the epoch


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """A runner began a new run."""

    kind: ClassVar[str] = "started"

    pid: int  # of the runner


@dataclass(frozen=True, kw_only=True)
class Resumed(Event):
    """A run goes on: after a pause in the same runner, else in a new one."""

    kind: ClassVar[str] = "resumed"

    pid: int  # of the runner
    was: str = ""  # the state before: paused, stopped, failed; running or stopping when its runner was lost


@dataclass(frozen=True, kw_only=True)
class Paused(Event):
    """Nothing new is started any more; what is in flight ends and is kept."""

    kind: ClassVar[str] = "paused"


@dataclass(frozen=True, kw_only=True)
class Stopping(Event):
    """The run is to end once what is in flight has ended."""

    kind: ClassVar[str] = "stopping"

    reason: str  # user, signal, paused, "budget: ...", "time: ...", "row: ..."


@dataclass(frozen=True, kw_only=True)
class Ended(Event):
    """The run ended; only a resume brings further events."""

    kind: ClassVar[str] = "ended"

    state: str  # finished, stopped or failed
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class WorkerStarted(Event):
    """A worker process was started."""

    kind: ClassVar[str] = "worker_started"

    role: str  # rows or ask
    pid: int
    name: str = ""  # of the worker: its role, and a number where there are several


@dataclass(frozen=True, kw_only=True)
class WorkerDied(Event):
    """A worker process is gone; its rows are given again."""

    kind: ClassVar[str] = "worker_died"

    role: str
    exit: int | None = None  # exit code, minus the number of the signal; None when it hung up
    name: str = ""
    how: str = ""  # in words: how it ended, or what it was killed for
    step: str = ""  # that it was at, "" when that is not known


@dataclass(frozen=True, kw_only=True)
class WorkerStuck(Event):
    """A worker process gave no sign of life, or was at one row for too long; it is killed."""

    kind: ClassVar[str] = "worker_stuck"

    name: str
    pid: int = 0
    why: str = ""
    step: str = ""


@dataclass(frozen=True, kw_only=True)
class WorkerBusy(Event):
    """A worker process runs code that lets nothing else run; it is killed only after a long limit."""

    kind: ClassVar[str] = "worker_busy"

    name: str
    pid: int = 0
    why: str = ""
    step: str = ""


@dataclass(frozen=True, kw_only=True)
class WorkerAwake(Event):
    """A worker process that was busy gives signs of life again."""

    kind: ClassVar[str] = "worker_awake"

    name: str


@dataclass(frozen=True, kw_only=True)
class StageEnded(Event):
    """A source has no more rows, or a join or a global step has done its last work."""

    kind: ClassVar[str] = "stage_ended"

    step: str


@dataclass(frozen=True, kw_only=True)
class StepFinished(Event):
    """Nothing more will leave a step."""

    kind: ClassVar[str] = "step_finished"

    step: str


@dataclass(frozen=True, kw_only=True)
class CommandTaken(Event):
    """The runner took a command of its user."""

    kind: ClassVar[str] = "command"

    name: str  # stop, abort, pause, resume or adjust


@dataclass(frozen=True, kw_only=True)
class Adjusted(Event):
    """Limits were changed while the run lives, or before it was resumed."""

    kind: ClassVar[str] = "adjusted"

    steps: list[str] = field(default_factory=list)  # whose model got new limits
    changes: dict[str, float | int | None] = field(default_factory=dict)  # limit → new value; None: no limit


@dataclass(frozen=True, kw_only=True)
class Limited(Event):
    """A provider refused requests (HTTP 429); told at most once a second for each model."""

    kind: ClassVar[str] = "limited"

    model: str
    n_refused: int  # since the last such event
    concurrency: int  # how many requests may be in flight now


@dataclass(frozen=True, kw_only=True)
class BackedUp(Event):
    """A model failed for good, and another one is asked in its place; told once for each kind of error."""

    kind: ClassVar[str] = "backed_up"

    model: str
    backup: str  # the model that is asked instead
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Retried(Event):
    """Failed rows were opened again: they are about to be done anew."""

    kind: ClassVar[str] = "retried"

    rows: int  # how many; 0 when others had taken all of them up before
    order: str = ""  # the name of the order, as its file in the run directory has it


@dataclass(frozen=True, kw_only=True)
class JobParked(Event):
    """Requests were handed over as an offline job, or wait for one that was handed over before."""

    kind: ClassVar[str] = "job_parked"

    job: str  # its id at the provider
    model: str = ""
    requests: int = 0
    run: str = ""  # that handed it over


@dataclass(frozen=True, kw_only=True)
class JobCollected(Event):
    """An offline job has ended, and its replies are in the cache."""

    kind: ClassVar[str] = "job_collected"

    job: str
    model: str = ""
    answered: int = 0
    failed: int = 0


@dataclass(frozen=True, kw_only=True)
class UnknownEvent(Event):
    """An event that a newer version of distilnb wrote."""

    kind: ClassVar[str] = "unknown"

    name: str  # the kind that was written
    data: dict[str, Any] = field(default_factory=dict)


KINDS: dict[str, type[Event]] = {
    one.kind: one
    for one in (
        Started,
        Resumed,
        Paused,
        Stopping,
        Ended,
        WorkerStarted,
        WorkerDied,
        WorkerStuck,
        WorkerBusy,
        WorkerAwake,
        StageEnded,
        StepFinished,
        CommandTaken,
        Adjusted,
        Limited,
        BackedUp,
        Retried,
        JobParked,
        JobCollected,
    )
}

_OF_EVERY_EVENT = frozenset(one.name for one in fields(Event))


class Record(NamedTuple):
    """An event as a line of the journal."""

    kind: str
    step: str
    data: str  # JSON of the other fields


def write_event(event: Event) -> Record:
    """Return an event as the journal stores it."""
    data = {name: value for name, value in asdict(event).items() if name not in _OF_EVERY_EVENT}
    step = str(data.pop("step", ""))
    return Record(event.kind, step, json.dumps(data, ensure_ascii=False))


def read_event(id_: int, at: float, record: Record) -> Event:
    """Return the event of a line of the journal.

    A kind that is not known here comes back as an UnknownEvent; fields that are not known are left out.
    """
    data: dict[str, Any] = json.loads(record.data)
    if record.step:
        data["step"] = record.step
    kind = KINDS.get(record.kind)
    if kind is not None:
        known = {one.name for one in fields(kind)}
        try:
            return kind(id=id_, at=at, **{name: value for name, value in data.items() if name in known})
        except TypeError:  # a field is missing: it was written by a version that did not have it yet
            pass
    return UnknownEvent(id=id_, at=at, name=record.kind, data=data)

"""Offline batches: many requests handed over as one job, which a provider does within a day, mostly at half the price.

A provider implements `Batches`; who gathers, waits and collects is the engine's (`engine/offline.py`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from distilnb.errors import ModelError
from distilnb.llms.request import Answer, Request

MARK = "distilnb_job"  # under this name a job's metadata says whose it is, where a provider keeps metadata


class BatchLimits(NamedTuple):
    """The most that one job takes."""

    max_requests: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its provider tells of it. Times are seconds since the epoch.

    `failure` is why a job was refused as a whole; `is_crowded` then says that too much of the account's waits
    already, so that a smaller job, or the same one later, is taken.
    """

    id: str
    stage: Literal["going", "ended", "refused"]
    n_total: int = 0
    n_done: int = 0
    n_failed: int = 0
    created_at: float = 0.0
    expires_at: float | None = None
    is_cancelling: bool = False
    files: tuple[str, ...] = ()  # where its results are, by the provider's names
    failure: ModelError | None = None
    is_crowded: bool = False


class Outcome(NamedTuple):
    """What became of one request of a job that has ended: an answer, or why there is none."""

    name: str  # as `line` was given it
    answer: Answer | None = None
    failure: ModelError | None = None
    end: Literal["answered", "failed", "expired", "cancelled"] = "answered"


class Sought(NamedTuple):
    """What a search for a job brought whose creation was not recorded: the job, or that nobody can tell yet."""

    job: Job | None = None
    is_unsure: bool = False


class Batches(Protocol):
    """A live connection to a provider's offline batches, used from one event loop; all raise ModelError."""

    limits: BatchLimits

    def line(self, name: str, request: Request) -> bytes:
        """Return a request as one line of a job's file, without its end; `name` comes back with its outcome."""
        ...

    async def look(self) -> None:
        """Raise what every job would meet: a refused key, a server that knows no jobs."""
        ...

    async def prepare(self, path: Path, marker: str) -> str:
        """Bring a job's file to the provider, where it wants that first; returns its name there, "" without."""
        ...

    async def create(self, path: Path, prepared: str, marker: str) -> Job:
        """Hand the job over; nothing is done or paid before."""
        ...

    async def find(self, marker: str, n_requests: int, since: float, others: Collection[str]) -> Sought:
        """Look for the job with this marker among those created `since`; `others` are ids of jobs that it is not."""
        ...

    async def job(self, job_id: str) -> Job:
        """Return how a job stands."""
        ...

    async def fetch(self, job: Job, path: Path) -> None:
        """Write the results of a job that has ended to a file."""
        ...

    def outcomes(self, path: Path) -> Iterator[Outcome]:
        """Yield what `fetch` has written."""
        ...

    async def cancel(self, job_id: str) -> Job:
        """Ask for a job's end; what is done by then is paid for, and is among its results."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


def read_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a file of JSON lines; raises ValueError."""
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                data = json.loads(line)
                if not isinstance(data, Mapping):
                    raise ValueError(f"a line is a {type(data).__name__}")
                yield data

"""Which offline jobs a run has left with their providers, as it is now: another run may have collected them since."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from distilnb.engine.status import ENDED, JobStatus, RunState, read_jobs
from distilnb.home import home


def jobs_of(facts: Mapping[str, Any], state: RunState) -> tuple[JobStatus, ...]:
    """Return the jobs that rows of a run wait for; of an ended run those that it left and that have not ended since."""
    jobs = read_jobs(facts) if state != "finished" else ()
    if not jobs or state not in ENDED:
        return jobs
    ended = ended_jobs(home() / "cache", {job.marker for job in jobs})
    return tuple(job for job in jobs if job.marker not in ended)


def ended_jobs(folder: Path, markers: Collection[str]) -> set[str]:
    """Return which of some jobs were collected or dropped, by whomever; nothing is written for that."""
    path = folder / "jobs.sqlite"
    if not path.exists():
        return set()
    marks = ",".join("?" * len(markers))
    query = f"SELECT marker FROM jobs WHERE marker IN ({marks}) AND state IN ('collected', 'dropped')"
    with (
        contextlib.suppress(sqlite3.Error),  # it is busy, or of another version: then nothing is known
        contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db,
    ):
        return {marker for (marker,) in db.execute(query, (*markers,))}
    return set()

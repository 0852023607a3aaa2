"""Runs of processes as tests meet them: started, waited for, killed, and held against one that meets no fault."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import psutil

from distilnb.pipeline import Pipeline
from distilnb.run import Run
from tests.conftest import processes_of

PATIENCE_S = 120.0


def done(pipeline: Pipeline, **options: Any) -> Run:
    """Start a run and wait for its end."""
    run = pipeline.start(new=True, **options)
    run.wait(PATIENCE_S)
    return run


def wait_for(run: Run, is_so: Callable[[Run], bool], timeout_s: float = 30.0) -> None:
    """Wait until a run has come to something; fail when it ends before, or takes too long."""
    deadline = time.monotonic() + timeout_s
    while not is_so(run):
        assert time.monotonic() < deadline, f"it did not come to that: {run!r}"
        assert not run.status().is_ended, f"the run ended before: {run!r}"
        time.sleep(0.01)


def worker_pids(run: Run) -> dict[str, int]:
    """Return the pids of runner and workers by role."""
    found = {}
    for process in processes_of(Path(run.path)):
        try:
            command = " ".join(process.cmdline())
        except psutil.NoSuchProcess:  # it was killed a moment ago
            continue
        for role in ("runner", "ask_worker", "row_worker"):
            if f"engine.{role} " in command:
                found[role] = process.pid
    return found


def kill_worker(run: Run, role: str) -> None:
    """Kill a worker and wait until another has its place."""
    killed = worker_pids(run)[role]
    os.kill(killed, signal.SIGKILL)
    wait_for(run, lambda run: worker_pids(run).get(role, killed) != killed)


def states(run: Run) -> list[tuple[int, str, str]]:
    """Return of each failure the number of its row, its step, and what became of it."""
    return [(error["row"], error["step"], error["state"]) for error in run.errors().to_dict("records")]


def raise_while(fault: Path, numbers: Collection[int]) -> Callable[[int], None]:
    """Return a function that raises at some numbers as long as a file is there."""
    path, disliked = str(fault), frozenset(numbers)

    def check(number: int) -> None:
        if number in disliked and os.path.exists(path):
            raise ValueError(f"{number} is not liked")

    return check

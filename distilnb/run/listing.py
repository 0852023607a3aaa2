"""All runs of this user."""

from __future__ import annotations

from collections.abc import Iterator

from distilnb.engine.rundir import all_run_dirs
from distilnb.errors import StoreError
from distilnb.run.handle import Run


class RunList(list[Run]):
    """Runs, newest first, with a readable form."""

    def __repr__(self) -> str:
        return "\n".join(run.line() for run in self) or "no runs"


def runs() -> RunList:
    """Return all runs of this user, newest first."""
    return RunList(_readable_runs())


def _readable_runs() -> Iterator[Run]:
    for run_dir in all_run_dirs():
        try:
            yield Run(run_dir)
        except StoreError:  # a run of another version of distilnb
            continue

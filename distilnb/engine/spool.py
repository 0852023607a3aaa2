"""Rows given in the program, on their way into the run directory: the first at once, the rest from a thread.

The plan names every file beforehand, with its rows; a file appears whole, by a rename. The kernel holds a lock on
`spool.lock` until the last is there, so that the runner can tell a kernel that is busy from one that is gone.
"""

from __future__ import annotations

import fcntl
import itertools
import operator
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from distilnb.engine.digests import pages_in
from distilnb.engine.intake import LOCK, tell_reason
from distilnb.engine.plan import Plan, Stage
from distilnb.engine.rundir import RunDir
from distilnb.errors import StoreError
from distilnb.ids import DigestCounter
from distilnb.rows import Batch, IdMaker, Row, write_batch
from distilnb.spec.graph import Graph
from distilnb.spec.inline import Inline
from distilnb.steps.sources import LoadDataFromDicts

FIRST_ROWS = 64  # the first file is small, so that the first requests start early
SPOOLED_AT_ONCE_S = 0.03  # what is written before a start returns
ROWS_AT_ONCE = 2000  # so many at least: a short list is always there when `start` returns

# Locks that this process holds. A child that it forks must not keep them when it is gone.
_held: set[int] = set()
# The rows of the runs that this process is spooling: the very objects need no digest to be known again.
_here: dict[str, list[Inline]] = {}


@dataclass
class Spool:
    """The rows of one run that are given in the program; `write_first`, then `write_rest`."""

    run: RunDir
    plan: Plan
    graph: Graph
    _writers: list[_Writer] = field(init=False)
    _lock: int | None = None

    def __post_init__(self) -> None:
        self._writers = [
            _Writer(self.run, stage, step, self.plan.options.get("rows"))
            for stage in self.plan.stages
            if stage.kind == "spool" and isinstance(step := self.graph.steps[stage.name], LoadDataFromDicts)
        ]

    def files(self) -> dict[str, list[dict[str, Any]]]:
        """Return the files of each stage as the plan names them."""
        return {writer.stage.name: writer.files for writer in self._writers}

    def write_first(self, *, is_named: bool) -> bool:
        """Write what fits a moment, of each stage in turn; returns whether that was all.

        When something is left to do, be it only to name the run by its digest (not `is_named`), the lock is held.
        """
        deadline = time.monotonic() + SPOOLED_AT_ONCE_S
        for writer in self._writers:
            while not writer.is_done and (writer.n_rows < ROWS_AT_ONCE or time.monotonic() < deadline):
                writer.write_next()
        is_all = all(writer.is_done for writer in self._writers)
        if not (is_all and is_named):
            _here[self.run.run_id] = given_rows(self.graph)
            self._lock = _take_lock(self.run.path / LOCK)
        return is_all

    def write_rest(self, finish: Callable[[], None]) -> None:
        """Write what is left from a thread, then call `finish` there.

        The thread is no daemon: a program that ends after a start ends when its rows are on disk.
        """
        threading.Thread(
            target=self._write_rest, args=(finish,), name=f"spool-{self.run.run_id}", daemon=False
        ).start()

    def give_up(self) -> None:
        """Let the lock go: nothing more will come."""
        if self._lock is not None:
            _held.discard(self._lock)
            os.close(self._lock)
            self._lock = None
        _here.pop(self.run.run_id, None)

    def _write_rest(self, finish: Callable[[], None]) -> None:
        try:
            for writer in self._writers:
                while not writer.is_done:
                    writer.write_next()
            finish()
        except Exception as error:  # noqa: BLE001 - it ends the run, which tells it; nobody waits for this thread
            tell_reason(self.run, f"{type(error).__name__}: {error}")
            if self.run.path.is_dir():  # else the run was removed meanwhile, and nobody asks for its rows
                sys.stderr.write(f"The rows of {self.run.run_id} could not all be written: {error}\n")
        finally:
            self.give_up()


class _Writer:
    """The rows of one stage: named, ordered and filed as if they were written in one go."""

    def __init__(self, run: RunDir, stage: Stage, step: LoadDataFromDicts, limit: int | None) -> None:
        self.stage, self._run, self._inline = stage, run, step.data
        n_all = len(step.data.require())
        n_all = min(n_all, limit or n_all)
        self.files = [*_files(run, stage, n_all)]
        self.n_rows = 0  # written so far
        self._n_files = 0
        self._rows: Iterator[Row] = itertools.islice(
            itertools.chain.from_iterable(rows for rows, _ in step.process()), n_all
        )
        self._is_renamed = bool(
            step.output_mappings
        )  # then the digests of the list are not those of the rows
        # A long list has its rows in memory; their digests need not be there too.
        self._ids = IdMaker(stage.name, counter=DigestCounter(partial(pages_in, run.path)))

    @property
    def is_done(self) -> bool:
        return self._n_files == len(self.files)

    def write_next(self) -> None:
        file = self.files[self._n_files]
        piece = list(itertools.islice(self._rows, file["n_rows"]))
        if len(piece) < file["n_rows"]:
            raise StoreError(
                "The list of rows became shorter while it was written.",
                "Leave it as it is until the run has all.",
            )
        digests = None
        if not self._is_renamed:
            digests = self._inline.row_digests(self.n_rows, self.n_rows + len(piece))
        batch = Batch.of_source(piece, self._ids, self.n_rows, digests=digests)
        write_batch(self._run.path / file["path"], batch)
        self.n_rows += len(piece)
        self._n_files += 1


def _files(run: RunDir, stage: Stage, n_all: int) -> Iterator[dict[str, Any]]:
    folder, start = run.batches(stage.name).relative_to(run.path).as_posix(), 0
    for number in itertools.count():
        if start >= n_all:
            return
        size = stage.batch_rows if start else min(FIRST_ROWS, stage.batch_rows)
        n_rows = min(size, n_all - start)
        yield {"path": f"{folder}/{number:06d}.json", "n_rows": n_rows}
        start += n_rows


def given_rows(graph: Graph) -> list[Inline]:
    """Return the rows that are given in the program."""
    return [step.data for step in graph.steps.values() if isinstance(step, LoadDataFromDicts)]


def is_spooled_here(run: RunDir, rows: list[Inline]) -> bool:
    """Whether this process is spooling these very rows for a run: the same objects, in a list of the same length."""
    mine = _here.get(run.run_id, [])
    return bool(mine) and len(mine) == len(rows) and all(map(_are_same, mine, rows))


def _are_same(one: Inline, other: Inline) -> bool:
    is_as_long = one.n_rows == other.n_rows
    return one is other or (is_as_long and all(map(operator.is_, one.rows, other.rows)))


def _take_lock(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreError(
            f"The file {str(path)!r} cannot be made: {error}.",
            "Free some disk space, or set DISTILNB_HOME to a folder that can be written.",
        ) from error
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    _held.add(descriptor)
    return descriptor


def _let_go_in_child() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)

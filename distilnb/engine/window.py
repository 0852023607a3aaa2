"""A window on the journal of one run: open while it is read or the run lives, with its errors in words."""

from __future__ import annotations

import functools
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Concatenate, ParamSpec, TypeVar

from distilnb.engine.journal import JournalReader
from distilnb.engine.rundir import RunDir
from distilnb.errors import RunNotFoundError, StoreError

P = ParamSpec("P")
T = TypeVar("T")
W = TypeVar("W", bound="Window")


@dataclass
class Window:
    """What of a run's journal is open, and who reads it."""

    run: RunDir
    _journal: JournalReader | None = field(default=None, init=False)
    # A panel's thread and a cell read one handle, and an ended run's journal is closed.
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False)
    _n_reading: int = field(default=0, init=False)  # calls within one another

    def journal(self) -> JournalReader | None:
        """Return the journal, None as long as the runner has not made it; raises StoreError when it is damaged."""
        if self._journal is None:
            self._journal = JournalReader.open(self.run.journal)
        return self._journal

    def let_go(self) -> None:
        """Close the journal when nobody runs the run: the last look may have been while its runner still did."""
        with self._lock:
            if not self._n_reading and not self.run.is_locked():
                self.close()

    def close(self) -> None:
        """Close the journal."""
        with self._lock:
            if self._journal is not None:
                self._journal.close()
                self._journal = None


def check_journal(run: RunDir) -> None:
    """Raise StoreError when the journal of a run is damaged."""
    window = Window(run)
    window.journal()
    window.close()


def reading(method: Callable[Concatenate[W, P], T]) -> Callable[Concatenate[W, P], T]:
    """Let one thread read at a time, and keep nothing open of a run that nobody runs.

    The method raises RunNotFoundError when the run was deleted, StoreError when its journal cannot be read.
    """

    @functools.wraps(method)
    def read(self: W, /, *args: P.args, **options: P.kwargs) -> T:
        with self._lock:
            if not self.run.path.is_dir():  # a journal that is open could be read on
                raise _gone(self.run)
            self._n_reading += 1
            try:
                return method(self, *args, **options)
            except sqlite3.Error as error:
                raise StoreError(
                    f"The journal of run {self.run.run_id!r} cannot be read: {error}.",
                    "Try again; if it stays so, start the pipeline anew: what was paid for is in the reply cache.",
                ) from error
            finally:
                self._n_reading -= 1
                self.let_go()

    return read


def _gone(run: RunDir) -> RunNotFoundError:
    return RunNotFoundError(
        f"The directory of run {run.run_id!r} is gone: {str(run.path)!r}.",
        "It was deleted, perhaps by `distilnb runs prune`; start the pipeline again.",
    )

"""What a worker is at, in a few bytes of memory that it shares with its runner and that outlive it.

A pulse says that the process lives, `moves` that its work goes on, and the last words whose row it was at when it
died. Nothing is sent and nothing is written to a disk, so that a full disk or a full socket cannot silence a worker.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
import time
from typing import NamedTuple

BEAT_S = 0.25
WHOLE = -1  # as an entry: the batch as a whole, it is not known which row

# Numbers of eight bytes each: the processor writes one at a time, so none is ever seen half-written.
_PULSE, _MOVES, _DONE, _STAGE, _STEP, _ENTRY, _BATCH = range(7)
_SIZE_BYTES = 7 * 8


class LastWords(NamedTuple):
    """Where a worker was: numbers of the stage in the plan, of the step in it, of the batch, of the entry in it."""

    stage: int
    step: int
    batch: int
    entry: int


class Vitals:
    """The shared bytes, seen from either side."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _SIZE_BYTES)
        self._numbers = memoryview(self._memory).cast("q")

    # --- the worker's side ---

    def keep_beating(self) -> None:
        """Start a thread that beats as long as this process runs Python at all."""

        def beat() -> None:
            while True:
                self._numbers[_PULSE] += 1
                time.sleep(BEAT_S)

        threading.Thread(target=beat, name="pulse", daemon=True).start()

    def moved(self) -> None:
        """Note that the work goes on."""
        self._numbers[_MOVES] += 1

    def at(self, stage: int, batch: int, entry: int = WHOLE, *, finishes: bool = True) -> _At:
        """Say that the user's code works on this entry now; cleared after, or an innocent row would be blamed.

        `finishes` says that the entry is through when the code is.
        """
        return _At(self._numbers, stage, batch, entry, finishes)

    def at_step(self, step: int) -> None:
        """Say which of the steps of the stage it is."""
        self._numbers[_STEP] = step
        self._numbers[_MOVES] += 1

    # --- the runner's side ---

    @property
    def pulse(self) -> int:
        """How often it has beaten; 0 as long as it has not begun."""
        return self._numbers[_PULSE]

    @property
    def moves(self) -> int:
        """A number that grows while the work goes on."""
        return self._numbers[_MOVES]

    @property
    def n_done(self) -> int:
        """How many entries (or whole batches) this process is through with."""
        return self._numbers[_DONE]

    def words(self) -> LastWords | None:
        """Return where it is or was; None when at nobody's row."""
        numbers = self._numbers
        if not numbers[_BATCH]:
            return None
        return LastWords(numbers[_STAGE], numbers[_STEP], numbers[_BATCH], numbers[_ENTRY])

    def close(self) -> None:
        """Let the memory go."""
        self._numbers.release()
        self._memory.close()


class _At:
    """A `with` block at one entry. A class, for it is entered twice a row: a generator takes twice as long."""

    __slots__ = ("_batch", "_entry", "_finishes", "_numbers", "_stage")

    def __init__(self, numbers: memoryview, stage: int, batch: int, entry: int, finishes: bool) -> None:
        self._numbers = numbers
        self._stage, self._batch, self._entry, self._finishes = stage, batch, entry, finishes

    def __enter__(self) -> None:
        numbers = self._numbers
        numbers[_STAGE], numbers[_STEP], numbers[_ENTRY] = self._stage, 0, self._entry
        numbers[_BATCH] = self._batch  # last: it makes the others valid

    def __exit__(self, *_: object) -> None:
        numbers = self._numbers
        numbers[_BATCH] = 0
        numbers[_MOVES] += 1
        if self._finishes:
            numbers[_DONE] += 1


def shared_memory() -> int:
    """Return the descriptor of fresh memory for the vitals of one worker."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("distilnb-vitals")
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.write(descriptor, bytes(_SIZE_BYTES))
    return descriptor

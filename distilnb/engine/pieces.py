"""A batch in pieces, so that a worker comes to its orders between them: a stop waits for a few rows, not for all.

A piece goes through all fused steps before the next one begins, so what is given back was not begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from distilnb.engine.apply import Outcome, append
from distilnb.spec.registry import KINDS
from distilnb.spec.signature import signature_of
from distilnb.spec.step import Step
from distilnb.steps.function import FunctionStep

PIECE_S = 0.1  # how long a piece may take, as far as the one before it tells
GROWTH = 8  # a piece has at most so many times the rows of the one before
MOST_ROWS = 1 << 16  # more than any batch has


@dataclass
class Pieces:
    """The pieces of one stage's batches: as many rows as take PIECE_S, and `unit` at least."""

    unit: int = 1
    n_rows: int = field(init=False)  # of the next piece

    def __post_init__(self) -> None:
        self.n_rows = self.unit

    def of(self, entries: Sequence[int], is_called_off: Callable[[], bool]) -> Iterator[Sequence[int]]:
        """Yield the entries piece by piece until the rest is called off; the first piece always comes."""
        start = 0
        while start < len(entries) and not (start and is_called_off()):
            end = start + self.n_rows
            began = time.monotonic()
            yield entries if not start and end >= len(entries) else entries[start:end]
            self._note(min(end, len(entries)) - start, time.monotonic() - began)
            start = end

    def _note(self, n_rows: int, seconds: float) -> None:
        """Learn from a piece how many rows the next may have."""
        n_most = min(GROWTH * self.n_rows, max(MOST_ROWS, self.unit))
        n_wanted = n_most if seconds * n_most <= PIECE_S * n_rows else int(PIECE_S * n_rows / seconds)
        self.n_rows = max(1, n_wanted // self.unit) * self.unit


def one_by_one(
    entries: Sequence[int], n_rows: int, is_called_off: Callable[[], bool]
) -> Iterator[Sequence[int]]:
    """Yield the entries that are gone at once, then each row of the batch alone, until the rest is called off."""
    yield [index for index in entries if index >= n_rows]
    for index in entries:
        if index < n_rows:
            yield [index]
            if is_called_off():
                return


def do_pieces(
    pieces: Iterable[Sequence[int]], run: Callable[[Sequence[int]], Outcome]
) -> tuple[Outcome, list[int]]:
    """Run the pieces that come and return what became of all of them, and which entries they were."""
    total, done = Outcome(), list[int]()
    for piece in pieces:
        outcome = run(piece)
        if done:
            append(total, outcome)
        else:
            total = outcome
        done += piece
    return total, done


def unit_of(steps: Iterable[Step]) -> int:
    """Return how many rows a piece has at least: what a user's step that takes several at once is to get of them."""
    return max((max(1, step.input_batch_size) for step in steps if _takes_several(step)), default=1)


def _takes_several(step: Step) -> bool:
    if isinstance(step, FunctionStep):
        return bool(signature_of(step.function.live).batch)
    return step.kind() not in KINDS and not step.by_row

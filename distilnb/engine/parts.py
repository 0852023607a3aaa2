"""Who has which parts of a source that several workers read at once: the runner's bookkeeping, for its flow."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field


@dataclass
class Round:
    """Who has which parts of one source."""

    n_in: int = 0  # the first so many parts are let in
    n_rows_in: int = 0  # of the part behind them: it broke off in an earlier life of the runner
    given: dict[int, str] = field(
        default_factory=dict
    )  # part → the worker that reads it, or names its rows again
    _next: int = field(init=False)
    _again: list[int] = field(default_factory=list)  # those whose worker died, the first on top

    def __post_init__(self) -> None:
        self._next = self.n_in

    @property
    def n_open(self) -> int:
        """How many parts were given and are not in."""
        return self._next - self.n_in - len(self._again)

    @property
    def next_number(self) -> int:
        """The part that is to be read next."""
        return self._again[0] if self._again else self._next

    def skip_of(self, number: int) -> int:
        """Return how many of the first rows of a part are in already."""
        return self.n_rows_in if number == self.n_in else 0

    def give(self, worker: str) -> None:
        """Note that a worker was given the next part."""
        self.given[self.next_number] = worker
        if self._again:
            heapq.heappop(self._again)
        else:
            self._next += 1

    def lost_worker(self, worker: str) -> None:
        """Note that the parts of a worker must be given again."""
        for number in [number for number, holder in self.given.items() if holder == worker]:
            del self.given[number]
            heapq.heappush(self._again, number)

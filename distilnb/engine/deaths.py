"""Which rows kill their workers: counted by the runner, named to the next worker, quarantined by it.

A row worker says which batch it is at. After a death the batch is done row by row, so that the next death has a
name (after a kill from outside, which may have hit anybody, only when it comes twice). A row that was named or
suspected twice is given as poison with its batch, and the worker quarantines it as it would any row that failed, so
that counts, joins and acknowledgements are the ordinary ones.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from distilnb.engine.vitals import WHOLE, LastWords

MAX_DEATHS_OF_A_ROW = 2
# A kill from outside looks the same whatever row it hits, so it counts only where the row is named.
_FROM_OUTSIDE = frozenset({-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP})


class Poison(NamedTuple):
    """A row that killed its workers: at which step of its stage, how, and how often."""

    step: int
    how: str
    n_deaths: int


@dataclass
class _Suspect:
    """A batch at which a worker died."""

    n_whole: int = 0  # deaths by its own doing, of a row that is not known
    n_outside: int = 0  # of the same, by a kill from outside
    named: dict[int, list[str]] = field(default_factory=dict)  # entry → how its workers died
    steps: dict[int, int] = field(default_factory=dict)


@dataclass
class Deaths:
    """All suspects of one run; kept in memory: a new runner counts anew."""

    _suspects: dict[tuple[int, int], _Suspect] = field(default_factory=dict)  # by (stage number, batch)

    def note(self, words: LastWords, how: str, *, is_own_doing: bool) -> bool:
        """Note that a worker died at an entry; returns whether that entry is poison from now on."""
        suspect = self._suspects.setdefault((words.stage, words.batch), _Suspect())
        if words.entry == WHOLE:
            suspect.n_whole += is_own_doing
            suspect.n_outside += not is_own_doing
            return False
        suspect.named.setdefault(words.entry, []).append(how)
        suspect.steps[words.entry] = words.step
        return self._is_poison(suspect, words.entry)

    def forgive(self, stage: int, batch: int, entries: Iterable[int]) -> None:
        """Give rows that are done again another chance."""
        suspect = self._suspects.get((stage, batch), _Suspect())
        for entry in entries:
            suspect.named.pop(entry, None)

    def orders(self, stage: int, batch: int) -> dict[str, Any]:
        """Return what a batch's message says besides: nothing, or how to treat its suspects."""
        suspect = self._suspects.get((stage, batch))
        if suspect is None or not (suspect.n_whole or suspect.n_outside > 1 or suspect.named):
            return {}
        poison = {
            entry: Poison(suspect.steps[entry], hows[-1], self._count(suspect, entry))
            for entry, hows in suspect.named.items()
            if self._is_poison(suspect, entry)
        }
        return {"one_by_one": True, "poison": [[entry, *what] for entry, what in poison.items()]}

    def _is_poison(self, suspect: _Suspect, entry: int) -> bool:
        return self._count(suspect, entry) >= MAX_DEATHS_OF_A_ROW

    @staticmethod
    def _count(suspect: _Suspect, entry: int) -> int:
        # The whole batch died of one of its rows: of this one, as far as can be told, once.
        return len(suspect.named[entry]) + min(1, suspect.n_whole)


def poison_of(message: Mapping[str, Any]) -> dict[int, Poison]:
    """Return the poisonous entries that a batch's message names."""
    return {int(entry): Poison(*what) for entry, *what in message.get("poison", ())}


def reason_of(poison: Poison) -> str:
    """Say of a quarantined row what it did."""
    return f"The worker died {poison.n_deaths} times while it was at this row ({poison.how})."


def is_own_doing(exit_code: int | None) -> bool:
    """Whether a process ended by what it ran rather than by a signal from outside.

    >>> is_own_doing(-signal.SIGSEGV), is_own_doing(-signal.SIGKILL), is_own_doing(1)
    (True, False, True)
    """
    return exit_code is not None and exit_code not in _FROM_OUTSIDE


def last_death_text(
    role: str, how: str, n_in_a_row: int, step: str | None, busy: Sequence[str], log_tail: str
) -> str:
    """Return why a run ends with a worker that dies every time; `step` is None when it was at no row."""
    if step is None:
        of = f" of {', '.join(map(repr, busy))}" if busy else ""
        what = f"without finishing a row{of}"
    else:
        what = f"at one row after the other of step {step!r}, and finished none"
    return f"The {role} worker died {n_in_a_row} times ({how}) {what}.\n{log_tail}".rstrip()

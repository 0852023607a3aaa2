"""Which rows kill their workers: counted by the runner, named to the next worker, quarantined by it.

A row worker says which batch it is at. After a death the batch is done row by row, so that the next death has a
name (after a kill from outside, which may have hit anybody, only when it comes twice). A row that was named or
suspected often enough is given as poison with its batch, and the worker quarantines it as it would any row that
failed, so that counts, joins and acknowledgements are the ordinary ones.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from distilnb.engine.vitals import WHOLE, LastWords

MAX_DEATHS_OF_A_ROW = 2
# A kill from outside looks the same whatever row it hits, so it counts only where the row is named, and only among
# its like: twice the same row may be chance where rows take long, and what another row has done is not added to it.
MAX_KILLS_OF_A_ROW = 3
_FROM_OUTSIDE = frozenset({-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP})


class Poison(NamedTuple):
    """A row that killed its workers: at which step of its stage, how, and how often."""

    step: int
    how: str
    n_deaths: int


@dataclass
class _Named:
    """The deaths of workers that said at which entry they were."""

    n_own: int = 0
    n_outside: int = 0
    how: str = ""  # of the last death by its own doing; as long as there is none, of the last
    step: int = 0  # at which that was


@dataclass
class _Suspect:
    """A batch at which a worker died."""

    n_whole: int = 0  # deaths by its own doing, of a row that is not known
    n_outside: int = 0  # of the same, by a kill from outside
    named: dict[int, _Named] = field(default_factory=dict)  # by entry


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
        named = suspect.named.setdefault(words.entry, _Named())
        if is_own_doing or not named.n_own:
            named.how, named.step = how, words.step
        named.n_own += is_own_doing
        named.n_outside += not is_own_doing
        return _poison(suspect, words.entry) is not None

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
        poison = {entry: _poison(suspect, entry) for entry in suspect.named}
        return {
            "one_by_one": True,
            "poison": [[entry, *what] for entry, what in poison.items() if what is not None],
        }


def _poison(suspect: _Suspect, entry: int) -> Poison | None:
    """Return what an entry has done if it is to blame for it."""
    named = suspect.named[entry]
    # The whole batch died of one of its rows: of one that kills alone too, as far as can be told, and once.
    n_own = named.n_own + min(1, suspect.n_whole) if named.n_own else 0
    if n_own < MAX_DEATHS_OF_A_ROW and named.n_outside < MAX_KILLS_OF_A_ROW:
        return None
    return Poison(named.step, named.how, n_own + named.n_outside)


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

"""Where branches meet: rows are paired by id, one to one, below their last common step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from distilnb.engine.apply import Failure, Outcome, call_process
from distilnb.engine.deaths import Poison
from distilnb.engine.poison import failure_of
from distilnb.errors import MissingPartnerError
from distilnb.rows import Batch, Gone, Row
from distilnb.spec.step import Step


class Entry(NamedTuple):
    """One row, or one lost row, as it arrived at an input of the join."""

    origin: tuple[int, int]  # (batch, index in it), for the acknowledgement
    row: Row | None
    gone: Gone | None
    order: list[int]


@dataclass
class Joiner:
    """Holds rows until their partners have come."""

    step: Step
    n_inputs: int
    _waiting: dict[str, dict[int, Entry]] = field(default_factory=dict)

    def add(self, input_index: int, batch: Batch, batch_id: int, indices: Iterable[int]) -> list[str]:
        """Take entries of a batch in; returns the ids that are complete now."""
        n_rows = len(batch.rows)
        complete = []
        for index in indices:
            if index < n_rows:
                row_id, order = batch.ids[index], batch.orders[index]
                entry = Entry((batch_id, index), batch.rows[index], None, order)
            else:
                gone = batch.gone[index - n_rows]
                row_id, entry = gone.id, Entry((batch_id, index), None, gone, gone.order)
            partners = self._waiting.setdefault(row_id, {})
            partners[input_index] = entry
            if len(partners) == self.n_inputs:
                complete.append(row_id)
        return complete

    def release(self, ids: Iterable[str]) -> tuple[Outcome, dict[int, list[int]]]:
        """Join complete rows; returns what became of them and the entries used, by batch."""
        outcome = Outcome()
        used: dict[int, list[int]] = {}
        whole: list[tuple[str, list[Entry]]] = []
        for row_id in ids:
            partners = self._waiting.pop(row_id)
            entries = [partners[index] for index in range(self.n_inputs)]
            for entry in entries:
                used.setdefault(entry.origin[0], []).append(entry.origin[1])
            lost = [entry.gone for entry in entries if entry.gone is not None]
            if not lost:
                whole.append((row_id, entries))
            elif len(lost) == len(entries):
                outcome.batch.gone.append(lost[0])  # lost before the branches: counted where it was
            else:
                outcome.fail(_without_partner(self.step, row_id, lost[0]), entries[0].order)
        self._join(whole, outcome)
        return outcome, used

    def give_up(self, rows: Mapping[str, Poison]) -> tuple[Outcome, dict[int, list[int]]]:
        """Quarantine complete rows that kill their worker when they are joined."""
        outcome = Outcome()
        used: dict[int, list[int]] = {}
        for row_id, poison in rows.items():
            partners = self._waiting.pop(row_id)
            for entry in partners.values():
                used.setdefault(entry.origin[0], []).append(entry.origin[1])
            outcome.fail(failure_of(row_id, self.step.name, poison), partners[min(partners)].order)
        return outcome, used

    def release_rest(self) -> tuple[Outcome, dict[int, list[int]]]:
        """Quarantine the rows whose partners will never come, because every input has ended."""
        outcome = Outcome()
        used: dict[int, list[int]] = {}
        for row_id, partners in self._waiting.items():
            for entry in partners.values():
                used.setdefault(entry.origin[0], []).append(entry.origin[1])
            first = min(partners)
            if partners[first].gone is None:
                never = Gone(
                    row_id, partners[first].order, self.step.name, "no row of this id was made there"
                )
                outcome.fail(_without_partner(self.step, row_id, never), partners[first].order)
        self._waiting.clear()
        return outcome, used

    def forget(self, origin: tuple[int, int]) -> None:
        """Let go of an entry that waits here: a retry has taken back that its row is lost."""
        for row_id, partners in list(self._waiting.items()):
            left = {index: entry for index, entry in partners.items() if entry.origin != origin}
            if not left:
                del self._waiting[row_id]
            elif len(left) < len(partners):
                self._waiting[row_id] = left

    def _join(self, whole: list[tuple[str, list[Entry]]], outcome: Outcome) -> None:
        """Join all in one call; row by row when that raises."""
        try:
            rows = self._call([entries for _, entries in whole])
        except Exception:  # noqa: BLE001 - a user's step may raise anything; asked again row by row
            rows = None
        if rows is not None and len(rows) == len(whole):
            for (row_id, entries), row in zip(whole, rows, strict=True):
                outcome.batch.add(row, row_id, entries[0].order)
            outcome.count(self.step.name, done=len(rows), made=len(rows))
            return
        for row_id, entries in whole:
            self._join_one(row_id, entries, outcome)

    def _join_one(self, row_id: str, entries: list[Entry], outcome: Outcome) -> None:
        try:
            rows = self._call([entries])
        except Exception as error:  # noqa: BLE001 - the worker's loop: any error of a step is an error of the row
            outcome.fail(Failure.of(row_id, self.step.name, error), entries[0].order)
            return
        for row in rows[:1]:
            outcome.batch.add(row, row_id, entries[0].order)
            outcome.count(self.step.name, done=1, made=1)
        if not rows:
            outcome.drop(row_id, entries[0].order, self.step.name, "left out by the join")

    def _call(self, whole: list[list[Entry]]) -> list[Row]:
        if not whole:
            return []
        lists = [[dict(entries[index].row or {}) for entries in whole] for index in range(self.n_inputs)]
        return call_process(self.step, *lists).rows


def _without_partner(step: Step, row_id: str, lost: Gone) -> Failure:
    error = MissingPartnerError(
        f"A partner of this row did not arrive: step {lost.step!r}: {lost.reason}",
        "If it failed there, mend that step; if it was left out on purpose, leave it out after the join.",
    )
    return Failure.of(row_id, step.name, error)

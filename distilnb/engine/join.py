"""Where branches meet: rows are paired by id, one to one, below their last common step.

A row waits for its partners as a few numbers that say where it stands; it is read again when they have come. Each
branch tells of every row: that it is there, that it was lost, or that it was routed elsewhere (a skip). A skip is
waited for no longer than for the word of it, and the step gets the rows of the other branches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple

from distilnb.engine.apply import Failure, KeepFailed, Outcome, call_process, fail_row
from distilnb.engine.deaths import Poison
from distilnb.engine.poison import failure_of
from distilnb.errors import MissingPartnerError
from distilnb.rows import Batch, Gone, Row, root_id
from distilnb.spec.step import Step

CHUNK_ROWS = 1000  # joined at once, and so in one file

State = Literal["row", "skip", "lost", "never"]


class Place(NamedTuple):
    """Where a row, or the word of its loss, stands: its batch and where in it."""

    batch: int
    at: int
    state: State


class Whole(NamedTuple):
    """A row to be joined: its id and its places by input (None where none ever came)."""

    row_id: str
    places: list[Place | None]


@dataclass
class Joiner:
    """Holds places of rows until their partners have come.

    `read` returns a batch by its number; `columns` are those of each input as far as they are known. The step's
    `how`, where it has one, says what becomes of a row that some branch lost: "inner" quarantines it, "left" keeps
    it with None for that branch unless it is the first that the row took, "outer" keeps it in any case.
    """

    step: Step
    columns: Sequence[Sequence[str]]
    read: Callable[[int], Batch]
    keep: KeepFailed | None = None
    went_on: set[str] = field(default_factory=set)  # ids that were joined though a branch had lost them
    _waiting: dict[str, list[Place | None]] = field(default_factory=dict)  # by id, a place for each input

    def add(self, input_index: int, number: int, indices: Iterable[int]) -> list[str]:
        """Take entries of a batch in; returns the ids that are complete now."""
        batch = self.read(number)
        n_rows = len(batch)
        complete = []
        for index in indices:
            state: State
            if index < n_rows:
                row_id = batch.ids[index]
                state = "row" if batch.goes_to(self.step.name, index) else "skip"
            else:
                gone = batch.gone_at(index)
                row_id, state = gone.id, "skip" if gone.is_skip else "lost"
            partners = self._waiting.get(row_id)
            if partners is None:
                partners = self._waiting[row_id] = [None] * len(self.columns)
            partners[input_index] = Place(number, index, state)
            if None not in partners:
                complete.append(row_id)
        return complete

    def come_late(self, number: int, indices: Iterable[int]) -> list[int]:
        """Return the entries of a batch whose partners went on without them: a retry made them afterwards."""
        if not self.went_on:
            return []
        batch = self.read(number)
        return [index for index in indices if batch.gone_at(index).id in self.went_on]

    def forget(self, number: int, index: int) -> None:
        """Let go of an entry that waits here: a retry has taken back that its row is lost."""
        row_id = self.read(number).gone_at(index).id
        places = [
            None if place and (place.batch, place.at) == (number, index) else place
            for place in self._waiting.get(row_id, ())
        ]
        if any(places):
            self._waiting[row_id] = places
        else:
            self._waiting.pop(row_id, None)

    def release(self, ids: Iterable[str]) -> Iterator[tuple[Outcome, dict[int, list[int]]]]:
        """Join rows, some at a time; yields what became of them and the entries used, by batch."""
        # By where the partners stand, so that a file is read once even when rows come in another order.
        sorted_ids = iter(sorted(ids, key=self._stands))
        while chunk := list(islice(sorted_ids, CHUNK_ROWS)):
            yield self._release(chunk)

    def release_rest(self) -> Iterator[tuple[Outcome, dict[int, list[int]]]]:
        """Do the same with all that wait, because every input has ended; yields at least once."""
        if not self._waiting:
            yield Outcome(), {}
        # A row and those that stem from it go into one message: a retry finds there what the loss of one has cost.
        families: dict[str, list[str]] = {}
        for row_id in self._waiting:
            families.setdefault(root_id(row_id), []).append(row_id)
        chunk: list[str] = []
        for family in sorted(families.values(), key=lambda ids: min(map(self._stands, ids))):
            chunk += family
            if len(chunk) >= CHUNK_ROWS:
                yield self._release(chunk)
                chunk = []
        if chunk:
            yield self._release(chunk)

    def _stands(self, row_id: str) -> list[Place]:
        return sorted(filter(None, self._waiting[row_id]))

    def _release(self, ids: Iterable[str]) -> tuple[Outcome, dict[int, list[int]]]:
        outcome = Outcome()
        used: dict[int, list[int]] = {}
        alike: dict[tuple[State, ...], list[Whole]] = {}
        for row_id in ids:
            whole = Whole(row_id, self._waiting.pop(row_id))
            for place in filter(None, whole.places):
                used.setdefault(place.batch, []).append(place.at)
            states: tuple[State, ...] = tuple(place.state if place else "never" for place in whole.places)
            if self._is_kept(states):
                alike.setdefault(states, []).append(whole)
            else:
                self._let_go(whole, states, outcome)
        for states, rows in alike.items():
            self._join(states, rows, outcome)
        return outcome, used

    def give_up(self, rows: Mapping[str, Poison]) -> tuple[Outcome, dict[int, list[int]]]:
        """Quarantine complete rows that kill their worker when they are joined."""
        outcome = Outcome()
        used: dict[int, list[int]] = {}
        for row_id, poison in rows.items():
            places = [place for place in self._waiting.pop(row_id) if place]
            for place in places:
                used.setdefault(place.batch, []).append(place.at)
            outcome.fail(failure_of(row_id, self.step.name, poison), self._gone(places[0]).order)
        return outcome, used

    # --- rows that some branch lost ---

    def _is_kept(self, states: Sequence[State]) -> bool:
        taken = [state for state in states if state != "skip"]
        if "row" not in taken:
            return False
        how = getattr(self.step, "how", "inner")
        return how == "outer" or (how == "left" and taken[0] == "row") or set(taken) == {"row"}

    def _let_go(self, whole: Whole, states: Sequence[State], outcome: Outcome) -> None:
        if "row" in states:
            at = states.index("lost") if "lost" in states else states.index("never")
            place = whole.places[at]
            first = next(place for place in whole.places if place and place.state == "row")
            order = self.read(first.batch).orders[first.at]
            never = Gone(whole.row_id, order, self.step.name, "no row of this id was made there")
            lost = self._gone(place) if place else never
            self._fail(whole, _without_partner(self.step, whole.row_id, lost), order, outcome)
            return
        # Lost in every branch that it took, or before them: counted there. Or in none of them: nothing is lost.
        places = [place for place in whole.places if place]
        told = next((place for place in places if place.state == "lost"), places[0])
        outcome.batch.gone.append(self._gone(told))

    def _gone(self, place: Place) -> Gone:
        return self.read(place.batch).gone_at(place.at)

    # --- joining ---

    def _join(self, states: tuple[State, ...], rows: list[Whole], outcome: Outcome) -> None:
        """Join rows of the same branches in one call; row by row when that raises."""
        orders = [self._order(whole) for whole in rows]
        try:
            made = self._call(states, rows)
        except Exception:  # noqa: BLE001 - a user's step may raise anything; asked again row by row
            made = None
        if made is not None and len(made) == len(rows):
            for whole, order, row in zip(rows, orders, made, strict=True):
                outcome.batch.add(row, whole.row_id, order)
                self._note(states, whole)
            outcome.count(self.step.name, done=len(made), made=len(made))
            return
        for whole, order in zip(rows, orders, strict=True):
            self._join_one(states, whole, order, outcome)

    def _join_one(self, states: tuple[State, ...], whole: Whole, order: list[int], outcome: Outcome) -> None:
        try:
            made = self._call(states, [whole])
        except Exception as error:  # noqa: BLE001 - the worker's loop: any error of a step is an error of the row
            self._fail(whole, Failure.of(whole.row_id, self.step.name, error), order, outcome)
            return
        for row in made[:1]:
            outcome.batch.add(row, whole.row_id, order)
            outcome.count(self.step.name, done=1, made=1)
            self._note(states, whole)
        if not made:
            outcome.drop(whole.row_id, order, self.step.name, "left out by the join")

    def _fail(self, whole: Whole, failure: Failure, order: list[int], outcome: Outcome) -> None:
        """Quarantine a row, or let go on what there is of it."""
        there: Row = {}
        for place in whole.places:
            if place and place.state == "row":
                there.update(self._row(place))
        if self.keep is not None:
            self.went_on.add(whole.row_id)
        fail_row(self.step, there, failure, order, outcome, self.keep)

    def _note(self, states: Sequence[State], whole: Whole) -> None:
        if "lost" in states or "never" in states:
            self.went_on.add(whole.row_id)

    def _order(self, whole: Whole) -> list[int]:
        place = next(place for place in whole.places if place and place.state == "row")
        return self.read(place.batch).orders[place.at]

    def _call(self, states: tuple[State, ...], rows: list[Whole]) -> list[Row]:
        """Call the step with a list of rows for each branch that was taken, and one of None for each that lost them."""
        there = [index for index, state in enumerate(states) if state == "row"]
        lists: list[list[Row | None]] = []
        for index, state in enumerate(states):
            if state == "row":
                lists.append([self._row(whole.places[index]) for whole in rows])
            elif state != "skip":
                lists.append([None] * len(rows))
        absent = [
            column for index, columns in enumerate(self.columns) if index not in there for column in columns
        ]
        if absent:
            self._fill(lists, absent)
        return call_process(self.step, *lists).rows  # type: ignore[arg-type]  # None where `how` asks for it

    def _row(self, place: Place | None) -> Row:
        assert place is not None  # its state says so
        return dict(self.read(place.batch).rows[place.at])

    def _fill(self, lists: list[list[Row | None]], absent: Sequence[str]) -> None:
        """Give each row the columns of branches that did not bring them: all rows have the same, in the same order."""
        in_order = dict.fromkeys(column for columns in self.columns for column in columns)
        for partners in zip(*lists, strict=True):
            rows = [row for row in partners if row is not None]
            known = {column for row in rows for column in row}
            filled = {**rows[0], **{column: None for column in absent if column not in known}}
            rows[0].clear()
            rows[0].update({column: filled[column] for column in in_order if column in filled})
            rows[0].update(filled)


def _without_partner(step: Step, row_id: str, lost: Gone) -> Failure:
    error = MissingPartnerError(
        f"A partner of this row did not arrive: step {lost.step!r}: {lost.reason}",
        "If it failed there, mend that step; if it was left out on purpose, leave it out after the join.",
    )
    return Failure.of(row_id, step.name, error)

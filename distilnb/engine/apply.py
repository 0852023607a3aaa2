"""One row step on one batch: which rows come out, which input row each stems from, which rows failed.

A step sees plain dicts and yields plain dicts; ids and order are kept here. A row that comes out is matched to its
input by identity; new dicts are matched by position, when as many come out as went in. When neither tells, or when
the step raised, it is called row by row, so that one bad row costs itself alone.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from distilnb.errors import DistilnbError, InputError, MissingValueError, StepRowError
from distilnb.rows import Batch, Gone, Row, dump_json
from distilnb.spec.registry import KINDS
from distilnb.spec.step import DropRow, GlobalStep, Step


@dataclass
class Failure:
    """A row in quarantine, or the missing part of one that goes on (`is_partial`)."""

    row_id: str
    step: str
    kind: str
    reason: str
    prompt: str = ""
    reply: str = ""
    traceback: str = ""
    attempts: int = 1
    is_partial: bool = False

    @classmethod
    def of(cls, row_id: str, step: str, error: BaseException, **more: Any) -> Failure:
        """Describe an error that a row met."""
        text = "" if isinstance(error, DistilnbError) else "".join(traceback.format_exception(error))
        return cls(row_id, step, type(error).__name__, str(error), traceback=text, **more)


@dataclass
class Outcome:
    """What became of a batch in one stage: the rows that leave it, and the counts of each step."""

    batch: Batch = field(default_factory=Batch)
    failures: list[Failure] = field(default_factory=list)
    counts: dict[str, dict[str, float]] = field(default_factory=dict)
    drop_reasons: dict[str, dict[str, int]] = field(default_factory=dict)

    def count(self, step: str, **amounts: float) -> None:
        """Add to the figures of a step."""
        for name, amount in amounts.items():
            if amount:
                figures = self.counts.setdefault(step, {})
                figures[name] = figures.get(name, 0) + amount

    def fail(self, failure: Failure, order: list[int]) -> None:
        """Quarantine a row."""
        self.failures.append(failure)
        self.batch.gone.append(Gone(failure.row_id, order, failure.step, failure.reason))
        self.count(failure.step, failed=1)

    def quarantine_unstorable(self, step: str) -> None:
        """Quarantine the rows that hold a value which cannot be stored."""
        batch, self.batch = self.batch, Batch(gone=self.batch.gone)
        for row, row_id, order in zip(batch.rows, batch.ids, batch.orders, strict=True):
            try:
                dump_json(row)
            except InputError as error:
                self.count(step, done=-1, made=-1)
                self.fail(Failure.of(row_id, step, error), order)
            else:
                self.batch.add(row, row_id, order)

    def drop(self, row_id: str, order: list[int], step: str, reason: str) -> None:
        """Leave a row out on purpose, and say why."""
        self.batch.gone.append(Gone(row_id, order, step, reason))
        self.count(step, dropped=1)
        reasons = self.drop_reasons.setdefault(step, {})
        reasons[reason] = reasons.get(reason, 0) + 1


FILTERED = "left out by the step"


def apply_step(step: Step, batch: Batch, moved: Callable[[], None] = lambda: None) -> Outcome:
    """Run a row step on a batch and say what became of each row; `moved` is called whenever some rows are through."""
    outcome = Outcome()
    outcome.batch.gone = list(batch.gone)
    if not step.by_row:
        outgoing = _try_whole(step, batch, moved)
        if outgoing is not None:
            _keep(step, batch, outgoing, outcome)
            return outcome
    for index in range(len(batch.rows)):
        _apply_to_one(step, batch, index, outcome)
        moved()
    return outcome


def apply_steps(
    steps: Sequence[Step], batch: Batch, apply: Callable[[Step, Batch], Outcome] = apply_step
) -> Outcome:
    """Run fused steps on a batch, one after the other, each by `apply`."""
    total = Outcome(batch)
    for step in steps:
        outcome = apply(step, total.batch)
        merge(total, outcome)
        total.batch = outcome.batch
    return total


def merge(total: Outcome, more: Outcome) -> None:
    """Add failures and counts of one outcome to another; its rows are left alone."""
    total.failures += more.failures
    for step, figures in more.counts.items():
        total.count(step, **figures)
    for step, reasons in more.drop_reasons.items():
        mine = total.drop_reasons.setdefault(step, {})
        for reason, n_rows in reasons.items():
            mine[reason] = mine.get(reason, 0) + n_rows


class Made(NamedTuple):
    """Rows that a step made. `origins` tells for each which input row it is, by identity (None: a new dict).

    Input rows are numbered through all inputs.
    """

    rows: list[Row]
    origins: list[int | None]


def call_process(step: Step, *inputs: list[Row]) -> Made:
    """Call `process` with columns under the names that the step uses, and restore the names after."""
    lists = [[_entering(step, row) for row in rows] for rows in inputs] if step.input_mappings else inputs
    numbers = {id(row): number for number, row in enumerate(row for rows in lists for row in rows)}
    outgoing = [row for rows in step.process(*lists) for row in rows]
    for row in outgoing:
        if not isinstance(row, dict):
            raise StepRowError(f"Step {step.name!r} made a {type(row).__name__!r}; it must make dicts.")
    origins = [numbers.get(id(row)) for row in outgoing]
    if step.input_mappings or step.output_mappings:
        outgoing = [_leaving(step, row) for row in outgoing]
    return Made(outgoing, origins)


# --- one step -----------------------------------------------------------------


def _try_whole(step: Step, batch: Batch, moved: Callable[[], None]) -> list[tuple[int, Row]] | None:
    """Return (input index, outgoing row) for the whole batch, or None when rows must be asked for one by one."""
    pieces = [batch.rows]
    # A user's step may change rows in place, and may count on its batch size.
    if step.runs_user_code or step.kind() not in KINDS:
        size = max(1, step.input_batch_size)
        pieces = [[dict(row) for row in batch.rows[i : i + size]] for i in range(0, len(batch.rows), size)]
    matched: list[tuple[int, Row]] = []
    first = 0
    for piece in pieces:
        try:
            made = call_process(step, piece)
        except Exception:  # noqa: BLE001 - a user's code may raise anything; the rows are asked one by one instead
            return None
        indices = _match(len(piece), made.origins)
        if indices is None:
            return None
        matched += [(first + index, row) for index, row in zip(indices, made.rows, strict=True)]
        first += len(piece)
        moved()
    return matched


def _match(n_incoming: int, origins: Sequence[int | None]) -> Sequence[int] | None:
    """Return which input row each outgoing row stems from, or None when that cannot be told."""
    known = [origin for origin in origins if origin is not None]
    if len(known) == len(origins) and len(set(known)) == len(known):
        return known
    if len(origins) == n_incoming and all(origin in (None, index) for index, origin in enumerate(origins)):
        return range(n_incoming)
    return None


def _keep(step: Step, batch: Batch, outgoing: list[tuple[int, Row]], outcome: Outcome) -> None:
    for index, row in outgoing:
        outcome.batch.add(row, batch.ids[index], batch.orders[index])
    if len(outgoing) < len(batch.rows):
        kept = {index for index, _ in outgoing}
        for index in range(len(batch.rows)):
            if index not in kept:
                outcome.drop(batch.ids[index], batch.orders[index], step.name, FILTERED)
    outcome.count(step.name, done=len(outgoing), made=len(outgoing))


def _apply_to_one(step: Step, batch: Batch, index: int, outcome: Outcome) -> None:
    row_id, order = batch.ids[index], batch.orders[index]
    try:
        check_row(step, batch.rows[index])
        children = call_process(step, [dict(batch.rows[index])]).rows
    except DropRow as drop:
        outcome.drop(row_id, order, step.name, str(drop))
        return
    except Exception as error:  # noqa: BLE001 - the worker's loop: any error of a step is an error of the row
        outcome.fail(Failure.of(row_id, step.name, error), order)
        return
    if not children:
        outcome.drop(row_id, order, step.name, FILTERED)
        return
    is_family = step.expands() or len(children) > 1
    for number, child in enumerate(children):
        if is_family:
            outcome.batch.add(child, f"{row_id}.{number}", [*order, number])
        else:
            outcome.batch.add(child, row_id, order)
    outcome.count(step.name, done=1, made=len(children))


def check_row(step: Step, row: Mapping[str, Any]) -> None:
    """Raise MissingValueError when a row lacks a column that the step needs."""
    for column in step.needed():
        if column not in row:
            raise MissingValueError(
                f"Step {step.name!r} reads column {column!r}; this row has {sorted(row)}.",
                "Rows of one source may differ: fill the column, or filter such rows out.",
            )


def _entering(step: Step, row: Row) -> Row:
    taken = set(step.input_mappings.values())
    named = {name: value for name, value in row.items() if name not in taken}
    named.update({name: row[actual] for name, actual in step.input_mappings.items() if actual in row})
    return named


def _leaving(step: Step, row: Row) -> Row:
    back = {name: actual for name, actual in step.input_mappings.items() if name not in set(step.outputs)}
    names = {**back, **step.output_mappings}
    return {names.get(name, name): value for name, value in row.items()}


# --- a step that sees all rows ------------------------------------------------


def apply_global(step: GlobalStep, inputs: Sequence[Batch], make_id: Callable[[Row], str]) -> Outcome:
    """Run a global step on all rows of each predecessor, in order; `make_id` names rows that are new.

    Its error is the step's: it is raised, not counted against a row.
    """
    ordered = [batch.in_order() for batch in inputs]
    ids = [row_id for batch in ordered for row_id in batch.ids]
    made = call_process(step, *[batch.rows for batch in ordered])
    outcome = Outcome()
    kept: set[str] = set()
    for number, (row, origin) in enumerate(zip(made.rows, made.origins, strict=True)):
        # Two branches of one source bring rows of one id. An id names one row, so the second gets one of its own.
        is_known = origin is not None and ids[origin] not in kept
        row_id = ids[origin] if is_known and origin is not None else make_id(row)
        kept.add(row_id)
        outcome.batch.add(row, row_id, [number])
    lost: dict[str, Gone] = {}
    for batch in ordered:
        pairs = zip(batch.ids, batch.orders, strict=True)
        for gone in (*batch.gone, *(Gone(*pair, step.name, FILTERED) for pair in pairs)):
            if gone.id not in kept:
                lost.setdefault(gone.id, gone)
    outcome.batch.gone += lost.values()
    n_in = len(ids)
    n_dropped = max(0, n_in - len(made.rows))  # a step that makes new rows of all drops none
    outcome.count(step.name, done=n_in - n_dropped, dropped=n_dropped, made=len(made.rows))
    if n_dropped:
        outcome.drop_reasons[step.name] = {FILTERED: n_dropped}
    return outcome

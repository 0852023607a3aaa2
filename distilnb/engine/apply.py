"""One row step on one batch: which rows come out, which input row each stems from, which rows failed.

A step sees plain dicts and yields plain dicts; ids and order are kept here. A row that comes out is matched to its
input by identity; new dicts are matched by position, when as many come out as went in. When neither tells, or when
the step raised, it is called row by row, so that one bad row costs itself alone. A step of the library may have a
second form, on columns, which says itself whose rows it made; where that cannot do a batch, the first one does.
"""

from __future__ import annotations

import itertools
import operator
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from distilnb.errors import DistilnbError, InputError, MissingValueError, StepRowError
from distilnb.rows import Batch, Gone, Order, Row, RowId, dump_json
from distilnb.spec.registry import KINDS
from distilnb.spec.step import DropRow, MadeColumns, Step

T = TypeVar("T")


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
    order: list[int] = field(default_factory=list)  # of the row; empty where it is not known yet

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
    names_dropped: bool = True  # else rows that are left out are only counted: nobody waits for them by id

    def count(self, step: str, **amounts: float) -> None:
        """Add to the figures of a step."""
        for name, amount in amounts.items():
            if amount:
                figures = self.counts.setdefault(step, {})
                figures[name] = figures.get(name, 0) + amount

    def fail(self, failure: Failure, order: list[int]) -> None:
        """Quarantine a row."""
        failure.order = order
        self.failures.append(failure)
        self.batch.gone.append(Gone(failure.row_id, order, failure.step, failure.reason))
        self.count(failure.step, failed=1)

    def note_kept(self, failure: Failure, order: list[int]) -> None:
        """List a failed row that goes on beside those in quarantine."""
        self.failures.append(replace(failure, is_partial=True, order=order))
        self.count(failure.step, partial=1)

    def quarantine_unstorable(self, step: str) -> None:
        """Quarantine the rows that hold a value which cannot be stored."""
        batch, self.batch = self.batch, Batch(gone=self.batch.gone)
        routes: Sequence[list[str] | None] = batch.routes or [None] * len(batch)
        for row, row_id, order, route in zip(batch.rows, batch.ids, batch.orders, routes, strict=True):
            try:
                dump_json(row)
            except InputError as error:
                self.count(step, done=-1, made=-1)
                self.fail(Failure.of(row_id, step, error), order)
            else:
                self.batch.add(row, row_id, order, route)

    def drop(self, row_id: str, order: list[int], step: str, reason: str) -> None:
        """Leave a row out on purpose, and say why."""
        self.drop_all([row_id], [order], step, reason)

    def drop_all(self, ids: Sequence[RowId], orders: Iterable[Order], step: str, reason: str) -> None:
        """Leave several rows out for one reason."""
        each = itertools.repeat
        if self.names_dropped:
            self.batch.gone += map(
                Gone._make, zip(ids, orders, each(step), each(reason), each(False), strict=False)
            )
        self.count_dropped(len(ids), step, reason)

    def count_dropped(self, n_rows: int, step: str, reason: str) -> None:
        """Count rows that were left out."""
        self.count(step, dropped=n_rows)
        reasons = self.drop_reasons.setdefault(step, {})
        reasons[reason] = reasons.get(reason, 0) + n_rows


@dataclass(frozen=True)
class KeepFailed:
    """How a failed row goes on (`on_error="null"`): with None in the columns that the step would have made.

    `columns` are those of the rows that leave each step, None where they are not known before the run.
    """

    columns: Mapping[str, Sequence[str] | None]

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> KeepFailed | None:
        """Return what the options of a run say; None when failed rows are quarantined."""
        return cls(options.get("columns", {})) if options.get("on_error") == "null" else None

    def kept(self, step: Step, row: Row, row_id: RowId, order: Order) -> tuple[Row, RowId, Order]:
        """Return a row that failed as it leaves the step: with None, and as the first child where there are some."""
        known = self.columns.get(step.name)
        used_up = {name for name in step.needed() if known is not None and name not in known}
        there = {name: value for name, value in row.items() if name not in used_up}
        missing = [name for name in known or () if name not in there]
        nulled = {**there, **dict.fromkeys(missing), **dict.fromkeys(step.made())}
        return (nulled, f"{row_id}.0", [*order, 0]) if step.expands() else (nulled, row_id, order)


FILTERED = "left out by the step"


def apply_step(
    step: Step,
    batch: Batch,
    moved: Callable[[], None] = lambda: None,
    keep: KeepFailed | None = None,
    *,
    names_dropped: bool = True,
) -> Outcome:
    """Run a row step on a batch and say what became of each row; failed ones are quarantined, or go on by `keep`.

    `moved` is called whenever some rows are through. Without `names_dropped`, rows that are left out are only counted.
    """
    outcome = Outcome(Batch(gone=list(batch.gone)), names_dropped=names_dropped)
    if not batch.ids:
        return outcome
    is_ours = step.kind() in KINDS
    made = _try_columns(step, batch, moved) if is_ours else None
    if made is not None:
        _keep_columns(step, batch, made, outcome)
        return outcome
    if not step.by_row:
        matched = _try_whole(step, batch, moved, has_user_code=step.runs_user_code or not is_ours)
        if matched is not None:
            _keep(step, batch, *matched, outcome)
            return outcome
    _apply_by_row(step, batch, outcome, moved, keep)
    return outcome


def merge(total: Outcome, more: Outcome) -> None:
    """Add failures and counts of one outcome to another; its rows are left alone."""
    total.failures += more.failures
    for step, figures in more.counts.items():
        total.count(step, **figures)
    for step, reasons in more.drop_reasons.items():
        mine = total.drop_reasons.setdefault(step, {})
        for reason, n_rows in reasons.items():
            mine[reason] = mine.get(reason, 0) + n_rows


def append(total: Outcome, more: Outcome) -> None:
    """Add all that became of some rows to what became of those before."""
    merge(total, more)
    total.batch.extend(more.batch)
    total.batch.gone += more.batch.gone


class Made(NamedTuple):
    """Rows that a step made. `origins` tells for each which input row it is, by identity (None: a new dict).

    Input rows are numbered through all inputs.
    """

    rows: list[Row]
    origins: list[int | None]


def call_process(step: Step, *inputs: list[Row]) -> Made:
    """Call `process` with columns under the names that the step uses, and restore the names after."""
    lists: Sequence[list[Row]] = inputs
    if step.input_mappings:  # a join that keeps rows which a branch lost has None in their place
        lists = [[row and _entering(step, row) for row in rows] for rows in inputs]
    numbers = dict(zip(map(id, itertools.chain.from_iterable(lists)), itertools.count()))
    outgoing = _checked(step, itertools.chain.from_iterable(step.process(*lists)))
    origins = list(map(numbers.get, map(id, outgoing)))
    if step.input_mappings or step.output_mappings:
        outgoing = [_leaving(step, row) for row in outgoing]
    return Made(outgoing, origins)


def _checked(step: Step, made: Iterable[object]) -> list[Row]:
    """Return what a step made as a list; raises StepRowError when something in it is no dict."""
    rows: list[Any] = list(made)
    if set(map(type, rows)) != {dict}:
        for row in rows:
            if not isinstance(row, dict):
                raise StepRowError(f"Step {step.name!r} made a {type(row).__name__!r}; it must make dicts.")
    return rows


# --- one step on columns -------------------------------------------------------


def _try_columns(step: Step, batch: Batch, moved: Callable[[], None]) -> MadeColumns | None:
    """Return what a step made of the columns of a batch, or None when it must be given rows."""
    columns = batch.columns() if _has_columns_form(type(step)) else None
    if columns is None:
        return None
    try:
        if step.input_mappings:
            columns = _entering(step, columns)
        made = step.process_columns(columns, len(batch), moved)
    except Exception:  # noqa: BLE001 - whatever a function of the user raises: the rows are asked one by one instead
        return None
    if made is None or made.columns is None or not (step.input_mappings or step.output_mappings):
        return made
    return made._replace(columns=_leaving(step, made.columns))


@lru_cache(maxsize=256)
def _has_columns_form(kind: type[Step]) -> bool:
    """Whether a class has `process_columns`, and no `process` in a subclass that it knows nothing of."""
    for cls in kind.__mro__:
        if cls is Step or "process_columns" in vars(cls):
            return cls is not Step
        if "process" in vars(cls):
            return False
    return False


def _keep_columns(step: Step, batch: Batch, made: MadeColumns, outcome: Outcome) -> None:
    ids, columns = batch.ids, made.columns
    orders: list[Any] = batch.order_keys
    is_kept = made.keep if made.keep is not None else made.n_children
    reason = made.reason or FILTERED
    if is_kept is not None and not all(is_kept) and not outcome.names_dropped:
        outcome.count_dropped(len(ids) - sum(map(bool, is_kept)), step.name, reason)
    elif is_kept is not None and not all(is_kept):
        lost = list(map(operator.not_, is_kept))
        lost_ids, lost_orders = [*itertools.compress(ids, lost)], itertools.compress(orders, lost)
        told = ([order] for order in lost_orders) if batch.is_flat else lost_orders
        outcome.drop_all(lost_ids, told, step.name, reason)
    n_done = len(ids)
    if made.n_children is not None:
        n_done = sum(map(bool, made.n_children))
        ids, orders = _family(batch, made.n_children)
    elif made.keep is not None:
        ids, orders = [*itertools.compress(ids, made.keep)], [*itertools.compress(orders, made.keep)]
        n_done = len(ids)
        if columns is not None and n_done < len(batch):
            columns = {name: [*itertools.compress(cells, made.keep)] for name, cells in columns.items()}
    outcome.batch = Batch(made.rows, list(ids), list(orders), outcome.batch.gone, columns=columns)
    outcome.count(step.name, done=n_done, made=len(ids))


def _family(batch: Batch, n_children: Sequence[int]) -> tuple[list[RowId], list[Order]]:
    """Return ids and orders of so many children of each row."""
    n_each = n_children[0]
    if batch.is_flat and n_each and n_children.count(n_each) == len(n_children):
        return _family_of_equals(batch.ids, batch.order_keys, n_each)
    ids = [f"{parent}.{i}" for parent, n in zip(batch.ids, n_children, strict=True) for i in range(n)]
    orders: Iterable[tuple[Any, int]] = zip(batch.order_keys, n_children, strict=True)
    if batch.is_flat:
        return ids, [[order, i] for order, n in orders for i in range(n)]
    return ids, [[*order, i] for order, n in orders for i in range(n)]


def _family_of_equals(
    parents: Sequence[RowId], numbers: Sequence[Any], n_each: int
) -> tuple[list[RowId], list[Order]]:
    """Return ids and orders of as many children of each row: by their place among them, not row by row."""
    ids, orders = [""] * (n_each * len(parents)), [list[int]()] * (n_each * len(parents))
    for i in range(n_each):
        end = f".{i}"
        ids[i::n_each] = [parent + end for parent in parents]
        orders[i::n_each] = [[number, i] for number in numbers]
    return ids, orders


# --- one step on rows ----------------------------------------------------------


def _try_whole(
    step: Step, batch: Batch, moved: Callable[[], None], *, has_user_code: bool
) -> tuple[Sequence[int] | None, list[Row]] | None:
    """Return the outgoing rows of the whole batch and which input row each is (None: the same, in order).

    Returns None itself when rows must be asked for one by one.
    """
    if not has_user_code:
        return _try_piece(step, batch.rows)
    # A user's step may change rows in place, and may count on its batch size.
    rows, size = _for_user(step, batch), max(1, step.input_batch_size)
    indices: list[int] = []
    made: list[Row] = []
    is_same = True
    for first in range(0, len(rows), size):
        piece = rows[first : first + size]
        matched = _try_piece(step, piece)
        if matched is None:
            return None
        places, outgoing = matched
        is_same = is_same and places is None
        indices += range(first, first + len(piece)) if places is None else [first + at for at in places]
        made += outgoing
        moved()
    return None if is_same else indices, made


def _for_user(step: Step, batch: Batch) -> list[Row]:
    """Return rows that a step of the user may be given: it may change them in place."""
    return batch.rows if step.runs_user_code else batch.copies()


def _try_piece(step: Step, piece: list[Row]) -> tuple[Sequence[int] | None, list[Row]] | None:
    try:
        made = call_process(step, piece)
    except Exception:  # noqa: BLE001 - a user's code may raise anything; the rows are asked one by one instead
        return None
    indices = _match(len(piece), made.origins)
    if indices is None:
        return None
    return None if indices == range(len(piece)) else indices, made.rows


def _match(n_incoming: int, origins: Sequence[int | None]) -> Sequence[int] | None:
    """Return which input row each outgoing row stems from, or None when that cannot be told."""
    n_new = origins.count(None)
    if not n_new and len(set(origins)) == len(origins):
        return origins  # type: ignore[return-value]  # none of them is None
    if len(origins) != n_incoming:
        return None
    if n_new == n_incoming or all(origin in (None, index) for index, origin in enumerate(origins)):
        return range(n_incoming)
    return None


def _keep(
    step: Step, batch: Batch, indices: Sequence[int] | None, outgoing: list[Row], outcome: Outcome
) -> None:
    ids = batch.ids
    orders: list[Any] = batch.order_keys
    if indices is not None:
        lost = sorted(set(range(len(batch))).difference(indices))
        if lost:
            lost_orders = map(batch.list_orders().__getitem__, lost)
            outcome.drop_all([ids[index] for index in lost], lost_orders, step.name, FILTERED)
        ids, orders = list(map(ids.__getitem__, indices)), list(map(orders.__getitem__, indices))
    outcome.batch = Batch(outgoing, list(ids), list(orders), outcome.batch.gone)
    outcome.count(step.name, done=len(outgoing), made=len(outgoing))


def _apply_by_row(
    step: Step, batch: Batch, outcome: Outcome, moved: Callable[[], None], keep: KeepFailed | None
) -> None:
    """Run a step on each row by itself: its own error is its own, and what comes out are its children."""
    needed, expands, flatten = step.needed(), step.expands(), itertools.chain.from_iterable
    is_mapped = bool(step.input_mappings or step.output_mappings)
    n_done, made, ids, orders = 0, [], [], []
    each = zip(_for_user(step, batch), batch.ids, batch.list_orders(), strict=True)
    for index, (row, row_id, order) in enumerate(each):
        moved()
        try:
            check_row(step, row, needed)
            if is_mapped:
                children = call_process(step, [row]).rows
            else:
                children = _checked(step, flatten(step.process([row])))
        except DropRow as drop:
            outcome.drop(row_id, order, step.name, str(drop))
            continue
        except Exception as error:  # noqa: BLE001 - the worker's loop: any error of a step is an error of the row
            failure = Failure.of(row_id, step.name, error)
            if keep is None:
                outcome.fail(failure, order)
                continue
            outcome.note_kept(failure, order)
            n_done += 1
            kept_row, kept_id, kept_order = keep.kept(step, batch.rows[index], row_id, order)
            made.append(kept_row)
            ids.append(kept_id)
            orders.append(kept_order)
            continue
        if not children:
            outcome.drop(row_id, order, step.name, FILTERED)
            continue
        n_done += 1
        made += children
        if expands or len(children) > 1:
            ids += [f"{row_id}.{number}" for number in range(len(children))]
            orders += [[*order, number] for number in range(len(children))]
        else:
            ids.append(row_id)
            orders.append(order)
    outcome.batch = Batch(made, ids, orders, outcome.batch.gone)
    outcome.count(step.name, done=n_done, made=len(made))


def fail_row(
    step: Step, row: Row, failure: Failure, order: Order, outcome: Outcome, keep: KeepFailed | None
) -> None:
    """Quarantine a row that failed, or let it go on with None in the columns of the step."""
    if keep is None:
        outcome.fail(failure, order)
    else:
        outcome.note_kept(failure, order)
        outcome.batch.add(*keep.kept(step, row, failure.row_id, order))
        outcome.count(failure.step, done=1, made=1)


def check_row(step: Step, row: Mapping[str, Any], needed: Iterable[str] | None = None) -> None:
    """Raise MissingValueError when a row lacks a column that the step needs (`needed`, where it was asked before)."""
    for column in step.needed() if needed is None else needed:
        if column not in row:
            raise MissingValueError(
                f"Step {step.name!r} reads column {column!r}; this row has {sorted(row)}.",
                "Rows of one source may differ: fill the column, or filter such rows out.",
            )


def _entering(step: Step, row: dict[str, T]) -> dict[str, T]:
    """Return a row, or columns, under the names that the step uses."""
    taken = set(step.input_mappings.values())
    named = {name: value for name, value in row.items() if name not in taken}
    named.update({name: row[actual] for name, actual in step.input_mappings.items() if actual in row})
    return named


def _leaving(step: Step, row: dict[str, T]) -> dict[str, T]:
    back = {name: actual for name, actual in step.input_mappings.items() if name not in set(step.outputs)}
    names = {**back, **step.output_mappings}
    return {names.get(name, name): value for name, value in row.items()}

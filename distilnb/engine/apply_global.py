"""A step that sees all rows of its predecessors at once: its rows keep their ids, new ones get one of the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from distilnb.engine.apply import FILTERED, Outcome, call_process
from distilnb.rows import Batch, Gone, Row
from distilnb.spec.step import GlobalStep, Step


def apply_global(step: GlobalStep, inputs: Sequence[Batch], make_id: Callable[[Row], str]) -> Outcome:
    """Run a global step on all rows of each predecessor, in order; `make_id` names rows that are new.

    Its error is the step's: it is raised, not counted against a row.
    """
    ordered = [batch.in_order() for batch in inputs]
    ids = [row_id for batch in ordered for row_id in batch.ids]
    made = call_process(step, *[batch.rows for batch in ordered])
    outcome = Outcome()
    named: set[str] = set()
    for number, (row, origin) in enumerate(zip(made.rows, made.origins, strict=True)):
        is_new = origin is None or ids[origin] in named  # a row may come from several branches
        row_id = make_id(row) if is_new or origin is None else ids[origin]
        named.add(row_id)
        outcome.batch.add(row, row_id, [number])
    outcome.batch.gone = _lost_to_all(step, ordered, set(outcome.batch.ids))
    n_in = len(ids)
    n_dropped = max(0, n_in - len(made.rows))  # a step that makes new rows of all drops none
    outcome.count(step.name, done=n_in - n_dropped, dropped=n_dropped, made=len(made.rows))
    if n_dropped:
        outcome.drop_reasons[step.name] = {FILTERED: n_dropped}
    return outcome


def _lost_to_all(step: Step, inputs: Sequence[Batch], kept: set[str]) -> list[Gone]:
    """Return each row once that no input brought further; one that some input brought was routed nowhere else."""
    lost: dict[str, Gone] = {}
    for batch in inputs:
        for gone in batch.gone:
            if gone.id not in lost or lost[gone.id].is_skip:
                lost[gone.id] = gone
    for batch in inputs:
        for row_id, order in zip(batch.ids, batch.orders, strict=True):
            lost[row_id] = Gone(row_id, order, step.name, FILTERED)
    return [gone for row_id, gone in lost.items() if row_id not in kept]

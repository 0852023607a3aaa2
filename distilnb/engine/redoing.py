"""Retry, on the worker's side: which rows of a batch are done anew, from which step on, and by which version of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from distilnb.engine.apply import Failure, Outcome, append, apply_step
from distilnb.engine.lineage import Attempt, Lineage
from distilnb.engine.plan import Stage
from distilnb.engine.rundir import RunDir
from distilnb.errors import StepRowError
from distilnb.ids import is_below, root_id
from distilnb.rows import Batch
from distilnb.spec.step import Step

StepOf = Callable[[str, int], Step]  # (name, version) → the step, loaded
Apply = Callable[[Step, Batch], Outcome]

_FIRST = Attempt()


@dataclass(frozen=True)
class Marks:
    """What the journal says of the retried rows of a batch.

    `redo` has, by entry, the (step, row id) that failed there; `attempts` has, by step and row id, how it is done.
    """

    redo: Mapping[int, list[tuple[str, str]]] = field(default_factory=dict)
    attempts: Mapping[str, Mapping[str, Attempt]] = field(default_factory=dict)

    def of(self, step: str, row_id: str) -> Attempt:
        """Return how a row is to be done at a step."""
        return self.attempts.get(step, {}).get(row_id) or _FIRST if self.attempts else _FIRST

    def by_version(self, step: str, batch: Batch, indices: Iterable[int]) -> dict[int, list[int]]:
        """Return indices of rows grouped by the version of the step that does them."""
        groups: dict[int, list[int]] = {}
        for index in indices:
            groups.setdefault(self.of(step, batch.ids[index]).version, []).append(index)
        return groups

    def versions(self, step: str, ids: Iterable[str]) -> dict[int, list[str]]:
        """Return ids of rows grouped in the same way."""
        groups: dict[int, list[str]] = {}
        for row_id in ids:
            groups.setdefault(self.of(step, row_id).version, []).append(row_id)
        return groups

    def up_to(self, steps: Sequence[str], entry: int) -> tuple[Marks, list[tuple[str, str]]]:
        """Return the same for one entry, of which only what failed at some steps is redone; and what is left out."""
        first = [pair for pair in self.redo[entry] if pair[0] in steps]
        beyond = [pair for pair in self.redo[entry] if pair[0] not in steps]
        return Marks({entry: first}, self.attempts), beyond


def read_marks(run: RunDir, stage: Stage, batch_id: int, ids: Sequence[str]) -> Marks:
    """Look up in the journal what was retried of a batch that a stage is given."""
    # Few runs have a retry, and it takes a hundredth of a second to load.
    from distilnb.engine.journal import JournalReader

    reader = JournalReader.open(run.journal)
    if reader is None:
        return Marks()
    try:
        lineage = Lineage(reader.connection)
        # Inside fused steps a row may have become several, so that its id there is not known before.
        known = ids if stage.kind == "ask" else None
        attempts = {step: lineage.attempts(step, known) for step in stage.steps}
        return Marks(lineage.open_redo(stage.name, batch_id), attempts)
    finally:
        reader.close()


# --- row steps ------------------------------------------------------------------


def apply_with_marks(
    names: Sequence[str],
    step_of: StepOf,
    batch: Batch,
    entries: Iterable[int],
    marks: Marks,
    apply: Apply = apply_step,
) -> Outcome:
    """Run fused steps on some entries of a batch, those that are redone from the step where they failed."""
    chosen = list(entries)
    first_done = batch.select(entry for entry in chosen if entry not in marks.redo)
    total = apply_versions(names, step_of, first_done.taken_by(names[0]), marks, apply)
    for name, entries_of, ids in _failed_at(names, chosen, marks):
        redone = batch.select(entries_of).taken_by(names[0])
        again = _redo_from(names, name, step_of, redone, ids, marks, apply)
        append(total, again)
    return total


def apply_versions(
    names: Sequence[str], step_of: StepOf, batch: Batch, marks: Marks, apply: Apply = apply_step
) -> Outcome:
    """Run steps one after the other, each row by the version of the step that it is to be done by."""
    total = Outcome(batch)
    for name in names:
        arrived, total.batch = total.batch, Batch(gone=list(total.batch.gone))
        for version, indices in marks.by_version(name, arrived, range(len(arrived.rows))).items():
            outcome = apply(step_of(name, version), arrived.select(indices))
            append(total, outcome)
    return total


def _failed_at(
    names: Sequence[str], entries: Iterable[int], marks: Marks
) -> Iterator[tuple[str, list[int], set[str]]]:
    """Yield for each step the entries of which a row failed there, and the ids of those rows."""
    for name in names:
        found: dict[int, list[str]] = {}
        for entry in entries:
            ids = [row_id for step, row_id in marks.redo.get(entry, ()) if step == name]
            if ids:
                found[entry] = ids
        if found:
            yield name, list(found), {row_id for ids in found.values() for row_id in ids}


def _redo_from(
    names: Sequence[str],
    name: str,
    step_of: StepOf,
    batch: Batch,
    ids: set[str],
    marks: Marks,
    apply: Apply,
) -> Outcome:
    """Run the steps from `name` on for the rows that failed there; what comes before only leads to them.

    Sister rows are left out: those that went on are downstream already, and counted; others may kill their worker.
    """
    at = names.index(name)
    arrived, lead = batch, _lines_of(ids)
    for before in names[:at]:
        made = apply_versions([before], step_of, arrived, marks, apply).batch
        arrived = made.select(index for index, row_id in enumerate(made.ids) if row_id in lead)
    rows = arrived.select(index for index, row_id in enumerate(arrived.ids) if row_id in ids)
    outcome = apply_versions(names[at:], step_of, rows, marks, apply)
    orders = dict(zip(batch.ids, batch.orders, strict=True))
    for row_id in sorted(ids.difference(rows.ids)):
        error = StepRowError(
            f"The row did not come back when the steps before {name!r} were done again.",
            "A step whose result changes from call to call cannot lead a retry; start the pipeline again.",
        )
        order = next((order for known, order in orders.items() if is_below(row_id, known)), [])
        outcome.fail(Failure.of(row_id, name, error), order)
    return outcome


def _lines_of(ids: Iterable[str]) -> set[str]:
    """Return ids with all from which they stem."""
    lines: set[str] = set()
    for row_id in ids:
        root = root_id(row_id)
        lines.add(root)
        while row_id != root:
            lines.add(row_id)
            row_id = row_id.rpartition(".")[0]
    return lines

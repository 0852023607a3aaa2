"""What followed from a lost row: where its stage told of it, and whether a join let its partners go on without it.

The runner asks before it opens a row again, and readers ask to tell its user.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from distilnb.engine.journal import BatchRef
from distilnb.engine.lineage import Lineage
from distilnb.engine.plan import Plan, Stage
from distilnb.engine.rundir import RunDir
from distilnb.ids import is_below
from distilnb.rows import read_batch


class Names(NamedTuple):
    """The ids in a batch file: of rows, and of lost rows, with the numbers of their entries.

    A row may be told lost twice in one file: a retry that failed again may overtake what was told before it.
    """

    rows: dict[str, list[int]]
    gone: dict[str, list[int]]


WENT_ON = "went_on:"  # and a join: the fact which rows it had let go on when a retry mended what it had lost


def went_on_facts(facts: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return by join which rows it had let go on before the one that a retry made came."""
    return {
        name.removeprefix(WENT_ON): set(ids)
        for name, ids in facts.items()
        if name.startswith(WENT_ON) and ids
    }


class Trace:
    """Follows rows through the batch files of a run, each of which it reads once.

    `late` has by join the rows that it had let go on before a retry made them: nothing in its files tells of them.
    """

    def __init__(
        self, run_dir: RunDir, plan: Plan, lineage: Lineage, late: Mapping[str, Collection[str]]
    ) -> None:
        self._run_dir = run_dir
        self._plan = plan
        self._lineage = lineage
        self._late = late
        self._names: dict[str, Names] = {}

    def forget(self) -> None:
        """Let go of what was read."""
        self._names.clear()

    def names_in(self, batch: BatchRef) -> Names:
        """Return the ids in a batch."""
        if batch.path not in self._names:
            content = read_batch(self._run_dir.path / batch.path)
            names = self._names[batch.path] = Names({}, {})
            for entry, row_id in enumerate(content.ids):
                names.rows.setdefault(row_id, []).append(entry)
            for entry, gone in enumerate(content.gone, len(content)):
                names.gone.setdefault(gone.id, []).append(entry)
        return self._names[batch.path]

    def entries(self, stage: Stage, out: int) -> Iterable[tuple[int, int, str]]:
        """Yield (batch, entry, row id) of all that a stage took for one message."""
        for batch_id, entries in self._lineage.taken(stage.name, out).items():
            batch = self._lineage.batch(batch_id)
            if batch is None:
                continue
            names = self.names_in(batch)
            for known in (names.rows, names.gone):
                for name, own in known.items():
                    for entry in entries.intersection(own):
                        yield batch_id, entry, name

    def rows_made(self, stage: Stage, out: int) -> set[str]:
        """Return the ids of the rows that a stage made in one message."""
        return {
            row_id for batch in self._lineage.made(stage.name, out) for row_id in self.names_in(batch).rows
        }

    def went_on(self, stage: Stage, out: int, row_id: str) -> bool:
        """Whether a row that a stage told to be lost was joined without it: what came of that is not taken back."""
        if self._late and self._went_on_below(stage, row_id):
            return True
        for batch in self._lineage.made(stage.name, out):
            for entry in self.names_in(batch).gone.get(row_id, ()):
                for consumer in self._plan.consumers(batch.stage):
                    took = self._lineage.out_that_took(consumer.name, batch.id, entry)
                    if took is not None and self._went_on_at(consumer, took, row_id):
                        return True
        return False

    def _went_on_below(self, stage: Stage, row_id: str) -> bool:
        """Whether a join had let a row go on before a retry made it; it need not have heard that it failed again."""
        return any(
            row_id in self._late.get(below.name, ()) or self._went_on_below(below, row_id)
            for below in self._plan.consumers(stage.name)
            if below.kind != "global"  # which gathers again
        )

    def _went_on_at(self, stage: Stage, out: int, row_id: str) -> bool:
        if stage.kind != "join":
            return self.went_on(stage, out, row_id)
        names = {row_id, *(name for _, _, name in self.entries(stage, out) if is_below(name, row_id))}
        if not names.isdisjoint(self.rows_made(stage, out)):
            return True
        return any(self.went_on(stage, out, name) for name in names)

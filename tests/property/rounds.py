"""A run and its retries, as the interpreter follows them: a round for the start, and one for each order."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from distilnb.engine.journal import JournalReader
from distilnb.engine.lineage import Lineage
from distilnb.engine.plan import Plan
from distilnb.engine.reading import RunReader
from distilnb.engine.rundir import RunDir
from distilnb.engine.tracing import went_on_facts
from distilnb.ids import is_below
from distilnb.rows import Row
from distilnb.spec.step import Step
from tests.property.comparing import Replies
from tests.property.graphs import DrawnPipeline
from tests.property.sequential import Attempt, Interpreter

Place = tuple[str, str]  # (step, row id)


class Order(NamedTuple):
    """A retry that was ordered: of which failures, by which versions; and whether the run was under way.

    `opened`: those that the runner opened again. While a run goes on it may be too late for some: a join has let the
    row go on, a sister is under way, an order before was of the same. `joined` has by join the rows that it had made.
    """

    name: str
    places: Sequence[Place]
    versions: Mapping[str, int]
    opened: Collection[Place]
    joined: Mapping[str, Collection[str]]
    is_live: bool


@dataclass
class Rounds:
    """What a run must have after each of its orders."""

    pipeline: DrawnPipeline
    run_dir: RunDir
    plan: Plan
    replies: Replies = field(default_factory=Replies)
    editions: dict[tuple[str, int], Step] = field(default_factory=dict)  # (step, version) → the step
    n_followed: int = 0  # orders
    last: Interpreter | None = None

    def follow(self, orders: Sequence[Order]) -> Interpreter:
        """Interpret what came of the orders that were given since the last call; see that no other was carried out."""
        self.replies.read(self.run_dir)
        attempts, n_opened, joined = self._state()
        if self.last is None:
            self.last = self._interpreted({}, joined)
        for order in orders[self.n_followed :]:
            now = dict(self.last.attempts)
            for step, row_id in order.opened:
                before = now.get((step, row_id), Attempt())
                now[step, row_id] = _next(before, order.versions.get(step))
                for join in self.last.kept.get((step, row_id), ()):
                    assert row_id not in order.joined.get(join, ()), "what a join let go on is done again"
            assert set(order.opened).issubset(order.places)
            assert order.is_live or len(order.opened) == len(order.places)
            assert len(order.opened) == n_opened[order.name]
            self.last = self._interpreted(now, joined)
        self.n_followed = len(orders)
        assert attempts == self.last.attempts
        return self.last

    def to_retry(self, step: str | None, rows: Collection[str] | None = None) -> set[Place]:
        """Return the failures that a retry of a step, or of all, and of these rows, or of all, must take up."""
        assert self.last is not None

        def is_chosen(at: str, row_id: str) -> bool:
            return step in (None, at) and (rows is None or any(is_below(row_id, one) for one in rows))

        missed = [
            (trouble.step, trouble.id)
            for trouble in self.last.troubles
            if trouble.kind == "MissingPartnerError"
            and not trouble.goes_on
            and is_chosen(trouble.step, trouble.id)
            and (trouble.step, trouble.id) not in self.last.kept
        ]
        return {
            (at, row_id)
            for at, row_id in self.last.failures
            if is_chosen(at, row_id)
            or any(
                self._is_above(at, join) and (is_below(one, row_id) or is_below(row_id, one))
                for join, one in missed
            )
        }

    def _is_above(self, step: str, other: str) -> bool:
        return self.plan.stage_of(other).name in self.plan.downstream(self.plan.stage_of(step).name)

    def _interpreted(
        self, attempts: Mapping[Place, Attempt], joined: Mapping[str, Mapping[str, Row]]
    ) -> Interpreter:
        interpreter = Interpreter(
            self.pipeline.graph,
            self.pipeline.rows,
            self.replies.answer,
            [stage.steps for stage in self.plan.stages],
            keeps_failed=self.pipeline.on_error == "null",
            before=self.last,
            attempts=attempts,
            editions=self.editions,
            joined=joined,
        )
        interpreter.interpret()
        return interpreter

    def _state(self) -> tuple[dict[Place, Attempt], dict[str, int], dict[str, dict[str, Row]]]:
        """Return what is known: attempts, how many rows each order opened, rows that joins had let go on before it."""
        journal = JournalReader.open(self.run_dir.journal)
        assert journal is not None
        with contextlib.closing(journal):
            lineage = Lineage(journal.connection)
            attempts = {
                (step, row_id): Attempt(*attempt)
                for step in lineage.retried_steps()
                for row_id, attempt in lineage.attempts(step).items()
            }
            went_on = went_on_facts(journal.facts())
            return attempts, lineage.orders(), {join: self._rows(join, ids) for join, ids in went_on.items()}

    def _rows(self, join: str, ids: Collection[str]) -> dict[str, Row]:
        reader = RunReader(self.run_dir)
        try:
            batch = reader.rows(join)
        finally:
            reader.close()
        return {row_id: row for row_id, row in zip(batch.ids, batch.rows, strict=True) if row_id in ids}


def _next(before: Attempt, version: int | None) -> Attempt:
    """Return how a row is done after an order: anew, or first by the edited step, which looks at what is there."""
    if version in (None, before.version):
        return Attempt(before.number + 1, before.version)
    return Attempt(before.number, version or before.version)

"""A run and its retries, as the interpreter follows them: a round for the start, and one for each order."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from distilnb.engine.journal import JournalReader
from distilnb.engine.lineage import Lineage
from distilnb.engine.plan import Plan
from distilnb.engine.rundir import RunDir
from distilnb.engine.tracing import went_on_facts
from distilnb.ids import is_below
from distilnb.spec.step import Step
from tests.property.comparing import Replies
from tests.property.graphs import DrawnPipeline
from tests.property.sequential import Attempt, Interpreter

Place = tuple[str, str]  # (step, row id)


class Order(NamedTuple):
    """A retry that was ordered: of which failures, by which versions; and whether the run was under way."""

    name: str
    places: Sequence[Place]
    versions: Mapping[str, int]
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
        attempts, n_opened, went_on = self._state()
        if self.last is None:
            self.last = self._interpreted({}, {})
        for order in orders[self.n_followed :]:
            now = dict(self.last.attempts)
            for place in order.places:
                before, after = now.get(place, Attempt()), attempts.get(place, Attempt())
                # While a run goes on it may be too late: a join has let the row go on, a sister is under way.
                if not order.is_live or before != after:
                    now[place] = _next(before, order.versions.get(place[0]))
            if not order.is_live:
                assert n_opened[order.name] == len(order.places)
            self.last = self._interpreted(now, went_on if order.is_live else {})
        self.n_followed = len(orders)
        assert attempts == self.last.attempts
        return self.last

    def can_be_told(self, orders: Sequence[Order]) -> bool:
        """Whether it is known what a join had joined when mended rows came too late: not after several live orders."""
        return not self._state()[2] or sum(order.is_live for order in orders) < 2

    def to_retry(self, step: str | None) -> set[Place]:
        """Return the failures that a retry of a step, or of all, must take up."""
        assert self.last is not None
        failures = self.last.failures
        if step is None:
            return failures
        stage = self.plan.stage_of(step).name
        above = {
            (at, row_id)
            for at, row_id in failures
            if stage in self.plan.downstream(self.plan.stage_of(at).name)
        }
        missed = [
            trouble.id
            for trouble in self.last.troubles
            if (trouble.step, trouble.kind, trouble.goes_on) == (step, "MissingPartnerError", False)
            and (step, trouble.id) not in self.last.kept
        ]
        causes = {
            place
            for place in above
            if any(is_below(place[1], row_id) or is_below(row_id, place[1]) for row_id in missed)
        }
        return {place for place in failures if place[0] == step} | causes

    def _interpreted(
        self, attempts: Mapping[Place, Attempt], went_on: Mapping[str, Collection[str]]
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
            went_on=went_on,
        )
        interpreter.interpret()
        return interpreter

    def _state(self) -> tuple[dict[Place, Attempt], dict[str, int], dict[str, set[str]]]:
        """Return what the journal knows: attempts, how many rows each order opened, what joins had let go on."""
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
            return attempts, lineage.orders(), went_on


def _next(before: Attempt, version: int | None) -> Attempt:
    """Return how a row is done after an order: anew, or first by the edited step, which looks at what is there."""
    if version in (None, before.version):
        return Attempt(before.number + 1, before.version)
    return Attempt(before.number, version or before.version)

"""What a run must give, by plain loops: the meaning of a pipeline, on a page.

Each step is done for all rows before the next one begins; there are no batches, workers or files. It knows rows, the
classes of steps and two things from the run. Which of several equal requests a row was given: any pairing is right, as
long as it is one, and `test_simulated` checks that it is. And which steps are done in one go: of a row that kills its
worker nothing is left, so what the steps of the same go had made of it before is lost with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from distilnb.llms.request import Reply, Request
from distilnb.rows import Row, row_digest
from distilnb.spec.graph import Graph
from distilnb.spec.step import DropRow, GeneratorStep, GlobalStep, Step
from distilnb.tasks.base import Task
from tests.property.steps import Deadly

Answering = Callable[
    [Task, str, Request], Sequence[Reply]
]  # (task, row id, request) → replies, or a model's error


class Item(NamedTuple):
    """A row that leaves a step."""

    id: str
    order: list[int]
    row: Row


class Trouble(NamedTuple):
    """A row in quarantine, or one that goes on without some part. `cause`: the step where its partner was lost."""

    id: str
    step: str
    kind: str
    cause: str = ""


@dataclass
class Ending:
    """What left one step: rows in order, where rows were lost before or in it, and its figures."""

    items: list[Item] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)  # row id → the step that lost it
    figures: Counter[str] = field(default_factory=Counter)


class StepFailed(Exception):
    """A global step raised: its run fails."""


class Interpreter:
    """Interprets one graph over the rows of its sources."""

    def __init__(
        self,
        graph: Graph,
        sources: Mapping[str, Sequence[Row]],
        answer: Answering,
        goes: Sequence[Sequence[str]] = (),
    ) -> None:
        self.graph = graph
        self.first_of_go = {name: go[0] for go in goes for name in go}
        self.sources = sources
        self.answer = answer
        self.endings: dict[str, Ending] = {}
        self.troubles: list[Trouble] = []

    def interpret(self) -> None:
        """Do every step; raises StepFailed when one fails as a whole."""
        for name in self.graph.order():
            step = self.graph.steps[name]
            inputs = [self.endings[before] for before in self.graph.predecessors(name)]
            ending = self.endings[name] = Ending()
            for one in inputs:
                ending.lost = {**one.lost, **ending.lost}  # what the first input says of a lost row counts
            if isinstance(step, GeneratorStep):
                self._name_rows(name, ending)
            elif isinstance(step, GlobalStep):
                self._see_all(step, inputs, ending)
            elif len(inputs) > 1:
                self._join(step, inputs, ending)
            else:
                dead = self._dead(step, inputs[0].items) if isinstance(step, Deadly) else set()
                for item in inputs[0].items:
                    if item.id in dead:
                        self._quarantine(item.id, step, "WorkerDied", ending)
                    else:
                        self._one(step, item, ending)
            ending.items.sort(key=lambda item: item.order)
            ending.figures["made"] = len(ending.items)

    def _name_rows(self, name: str, ending: Ending) -> None:
        seen: Counter[str] = Counter()
        for number, row in enumerate(self.sources[name]):
            digest = row_digest(row)
            ending.items.append(Item(f"{name}:{digest}:{seen[digest]}", [number], row))
            seen[digest] += 1
        ending.figures["done"] = len(ending.items)

    def _dead(self, step: Deadly, items: Sequence[Item]) -> set[str]:
        """Return the rows that kill their worker, with all that stem from the same row at the begin of the go."""
        (before,) = self.graph.predecessors(self.first_of_go.get(step.name, step.name))
        begun = {item.id for item in self.endings[before].items}

        def origin(row_id: str) -> str:
            return row_id if row_id in begun else origin(row_id.rpartition(".")[0])

        killers = {origin(item.id) for item in items if step.is_deadly(item.row)}
        return {item.id for item in items if origin(item.id) in killers}

    def _one(self, step: Step, item: Item, ending: Ending) -> None:
        """Give one row to a step or a task; its error, its loss or its children are its own."""
        try:
            if isinstance(step, Task):
                made = step.rows_from(item.row, self.answer(step, item.id, step.request(item.row)))
                rows = made.rows
                self.troubles += [Trouble(item.id, step.name, "Partial")] if made.partial else []
                ending.figures["partial"] += bool(made.partial)
            else:
                rows = [row for part in step.process([dict(item.row)]) for row in part]
        except DropRow:
            rows = []
        except Exception as error:  # noqa: BLE001 - whatever a step raises is the row's trouble
            self._quarantine(item.id, step, type(error).__name__, ending)
            return
        if not rows:
            self._leave_out(item.id, step, ending)
            return
        ending.figures["done"] += 1
        if len(rows) > 1 or step.expands():
            ending.items += [Item(f"{item.id}.{i}", [*item.order, i], row) for i, row in enumerate(rows)]
        else:
            ending.items.append(Item(item.id, item.order, rows[0]))

    def _join(self, step: Step, inputs: Sequence[Ending], ending: Ending) -> None:
        """Pair rows by id; one whose partner is missing is in quarantine, with the step that lost the partner."""
        sides = [{item.id: item for item in one.items} for one in inputs]
        for row_id in dict.fromkeys(row_id for side in sides for row_id in side):
            missing = [number for number, side in enumerate(sides) if row_id not in side]
            if missing:
                known = [inputs[n].lost[row_id] for n in missing if row_id in inputs[n].lost]
                cause = known[0] if known else step.name  # a row that a global step made, in one branch only
                self._quarantine(row_id, step, "MissingPartnerError", ending, cause)
                continue
            partners = [side[row_id] for side in sides]
            try:
                rows = [row for part in step.process(*[[dict(p.row)] for p in partners]) for row in part]
            except Exception as error:  # noqa: BLE001 - as above
                self._quarantine(row_id, step, type(error).__name__, ending)
                continue
            if not rows:
                self._leave_out(row_id, step, ending)
                continue
            ending.figures["done"] += 1
            ending.items.append(Item(row_id, partners[0].order, rows[0]))

    def _see_all(self, step: GlobalStep, inputs: Sequence[Ending], ending: Ending) -> None:
        """Hand over all rows; those that come back keep their names, new ones are named by their content."""
        given = [[dict(item.row) for item in one.items] for one in inputs]
        names = {
            id(row): item.id
            for rows, one in zip(given, inputs, strict=True)
            for row, item in zip(rows, one.items, strict=True)
        }
        try:
            made = [row for part in step.process(*given) for row in part]
        except Exception as error:
            raise StepFailed(step.name) from error
        seen: Counter[str] = Counter()
        kept: set[str] = set()
        for number, row in enumerate(made):
            row_id = names.get(id(row))
            if row_id is None or row_id in kept:  # an id names one row; two branches may bring two
                digest = row_digest(row)
                row_id = f"{step.name}:{digest}:{seen[digest]}"
                seen[digest] += 1
            kept.add(row_id)
            ending.items.append(Item(row_id, [number], row))
        for one in reversed(inputs):
            left_out = {item.id: step.name for item in one.items if item.id not in kept}
            ending.lost = {**ending.lost, **one.lost, **left_out}
        ending.figures["dropped"] = max(0, len(names) - len(made))
        ending.figures["done"] = len(names) - ending.figures["dropped"]

    def _quarantine(self, row_id: str, step: Step, kind: str, ending: Ending, cause: str = "") -> None:
        self.troubles.append(Trouble(row_id, step.name, kind, cause))
        ending.lost[row_id] = step.name
        ending.figures["failed"] += 1

    def _leave_out(self, row_id: str, step: Step, ending: Ending) -> None:
        ending.lost[row_id] = step.name
        ending.figures["dropped"] += 1

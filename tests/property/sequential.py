"""What a run must give, by plain loops: the meaning of a pipeline, on a page.

Each step is done for all rows before the next one begins; there are no batches, workers or files. Of each row a step
tells what follows it one of three: here it is, it was lost, it was routed elsewhere. It knows rows, the classes
of steps and two things from the run. Which of several equal requests a row was given: any pairing is right, as
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
from distilnb.steps.route import RouteRows
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
    goes_on: bool = False


@dataclass
class Ending:
    """What left one step: rows in order, where rows were lost before or in it, and its figures."""

    items: list[Item] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)  # row id → the step that lost it
    elsewhere: set[str] = field(default_factory=set)  # rows that a route sent past here
    figures: Counter[str] = field(default_factory=Counter)
    routes: dict[str, list[str]] | None = None  # of a route: row id → the steps that it goes to

    def towards(self, step: str) -> Ending:
        """Return what a step that follows is told."""
        if self.routes is None:
            return self
        taken = [item for item in self.items if step in self.routes[item.id]]
        others = {item.id for item in self.items if step not in self.routes[item.id]}
        return Ending(taken, self.lost, self.elsewhere | others)


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
        *,
        keeps_failed: bool = False,
    ) -> None:
        self.graph = graph
        self.columns = graph.columns()
        self.keeps_failed = keeps_failed  # on_error="null"
        self.first_of_go = {name: go[0] for go in goes for name in go}
        self.sources = sources
        self.answer = answer
        self.endings: dict[str, Ending] = {}
        self.troubles: list[Trouble] = []

    def interpret(self) -> None:
        """Do every step; raises StepFailed when one fails as a whole."""
        for name in self.graph.order():
            step = self.graph.steps[name]
            inputs = [self.endings[before].towards(name) for before in self.graph.predecessors(name)]
            ending = self.endings[name] = Ending()
            for one in inputs:
                ending.lost = {**one.lost, **ending.lost}  # what the first input says of a lost row counts
                ending.elsewhere |= one.elsewhere
            brought = {
                item.id for one in inputs for item in one.items
            }  # by some branch: what others say is over
            ending.lost = {row_id: at for row_id, at in ending.lost.items() if row_id not in brought}
            ending.elsewhere -= brought
            if isinstance(step, GeneratorStep):
                self._name_rows(name, ending)
            elif isinstance(step, GlobalStep):
                self._see_all(step, inputs, ending)
            elif len(inputs) > 1:
                self._join(step, inputs, ending)
            elif isinstance(step, RouteRows):
                self._route(step, inputs[0].items, ending)
            else:
                dead = self._dead(step, inputs[0].items) if isinstance(step, Deadly) else set()
                for item in inputs[0].items:
                    if item.id in dead:
                        self._quarantine(item.id, step, "WorkerDied", ending)
                    else:
                        self._one(step, item, ending)
            ending.elsewhere -= ending.lost.keys()
            ending.items.sort(key=lambda item: (item.order, item.id))
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
                self.troubles += [Trouble(item.id, step.name, "Partial", "", True)] if made.partial else []
                ending.figures["partial"] += bool(made.partial)
            else:
                rows = [row for part in step.process([dict(item.row)]) for row in part]
        except DropRow:
            rows = []
        except Exception as error:  # noqa: BLE001 - whatever a step raises is the row's trouble
            self._fail(item, step, type(error).__name__, ending)
            return
        if not rows:
            self._leave_out(item.id, step, ending)
            return
        ending.figures["done"] += 1
        if len(rows) > 1 or step.expands():
            ending.items += [Item(f"{item.id}.{i}", [*item.order, i], row) for i, row in enumerate(rows)]
        else:
            ending.items.append(Item(item.id, item.order, rows[0]))

    def _route(self, step: RouteRows, items: Sequence[Item], ending: Ending) -> None:
        """Ask for each row where it goes; one that fails here has nowhere to go on to."""
        ending.routes = {}
        for item in items:
            try:
                goes_to = step.choose(item.id, dict(item.row))
            except Exception as error:  # noqa: BLE001 - as above
                self._quarantine(item.id, step, type(error).__name__, ending)
                continue
            if not goes_to:
                self._leave_out(item.id, step, ending)
                continue
            ending.routes[item.id] = goes_to
            ending.items.append(item)
            ending.figures["done"] += 1
            ending.figures.update(f"routed:{name}" for name in goes_to)

    def _join(self, step: Step, inputs: Sequence[Ending], ending: Ending) -> None:
        """Pair rows by id, those of the branches that a row was routed to; `how` says what a lost partner costs."""
        sides = [{item.id: item for item in one.items} for one in inputs]
        for row_id in dict.fromkeys(row_id for side in sides for row_id in side):
            taken = [
                (one, side)
                for one, side in zip(inputs, sides, strict=True)
                if row_id in side or row_id not in one.elsewhere
            ]
            partners = [side[row_id] for _, side in taken if row_id in side]
            whole: Row = {}
            for partner in partners:
                whole.update(partner.row)
            there = Item(row_id, partners[0].order, whole)
            how = getattr(step, "how", "inner")
            if len(partners) < len(taken) and (
                how == "inner" or (how == "left" and row_id not in taken[0][1])
            ):
                known = [one.lost[row_id] for one, side in taken if row_id not in side and row_id in one.lost]
                cause = known[0] if known else step.name  # a row that a global step made, in one branch only
                self._fail(there, step, "MissingPartnerError", ending, cause)
                continue
            lists: list[Row | None] = [
                dict(side[row_id].row) if row_id in side else None for _, side in taken
            ]
            first = next(row for row in lists if row is not None)
            brought = {name for row in lists for name in row or ()}
            for before, side in zip(self.graph.predecessors(step.name), sides, strict=True):
                if row_id not in side:
                    first.update((name, None) for name in self.columns[before].names if name not in brought)
            try:
                rows = [row for part in step.process(*[[row] for row in lists]) for row in part]  # type: ignore[list-item]
            except Exception as error:  # noqa: BLE001 - as above
                self._fail(there, step, type(error).__name__, ending)
                continue
            if not rows:
                self._leave_out(row_id, step, ending)
                continue
            ending.figures["done"] += 1
            ending.items.append(Item(row_id, there.order, rows[0]))

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
        ending.lost.update(
            {item.id: step.name for one in inputs for item in one.items if item.id not in kept}
        )
        ending.figures["dropped"] = max(0, len(names) - len(made))
        ending.figures["done"] = len(names) - ending.figures["dropped"]

    def _fail(self, item: Item, step: Step, kind: str, ending: Ending, cause: str = "") -> None:
        """Quarantine a row, or let it go on with None in all that the step would have made."""
        if not self.keeps_failed:
            self._quarantine(item.id, step, kind, ending, cause)
            return
        self.troubles.append(Trouble(item.id, step.name, kind, cause, goes_on=True))
        ending.figures.update(("done", "partial"))
        leaving = self.columns[step.name]
        used_up = () if leaving.is_open else set(step.needed()) - set(leaving.names)
        row = {name: value for name, value in item.row.items() if name not in used_up}
        if not leaving.is_open:
            row.update((name, None) for name in leaving.names if name not in row)
        row.update((name, None) for name in step.made())
        if step.expands():
            ending.items.append(Item(f"{item.id}.0", [*item.order, 0], row))
        else:
            ending.items.append(Item(item.id, item.order, row))

    def _quarantine(self, row_id: str, step: Step, kind: str, ending: Ending, cause: str = "") -> None:
        self.troubles.append(Trouble(row_id, step.name, kind, cause))
        ending.lost[row_id] = step.name
        ending.figures["failed"] += 1

    def _leave_out(self, row_id: str, step: Step, ending: Ending) -> None:
        ending.lost[row_id] = step.name
        ending.figures["dropped"] += 1

"""What a run must give, by plain loops: the meaning of a pipeline, on a page.

Each step is done for all rows before the next one begins; there are no batches, workers or files. Of each row a step
tells what follows it one of three: here it is, it was lost, it was routed elsewhere. After a retry all is gone through
once more, after what was `before`: a row that was done is not done again, but where it was retried, where it comes for
the first time, and below a global step whose rows have changed.

It knows rows, the classes of steps and few things from the run. Which of several equal requests a row was given: any
pairing is right, as long as it is one, and `comparing.Pairing` checks that it is. Which steps are done in one go: of a
row that kills its worker nothing is left, so what the steps of the same go had made of it before is lost with it. And
which rows a join had let go on when a retry that was ordered meanwhile mended their partners.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from distilnb.ids import is_below
from distilnb.llms.request import Reply, Request
from distilnb.rows import Row, row_digest
from distilnb.spec.graph import Graph
from distilnb.spec.step import DropRow, GeneratorStep, GlobalStep, Step
from distilnb.steps.route import RouteRows
from distilnb.tasks.base import Task
from tests.property.steps import Deadly

# (task, row id, request, attempt) → replies, or a model's error
Answering = Callable[[Task, str, Request, int], Sequence[Reply]]


class Attempt(NamedTuple):
    """How a row is done at a step: how often it was retried before, and by which version of the step."""

    number: int = 0
    version: int = 1


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


class Loss(NamedTuple):
    """A row that will not come: the step that is named as the cause, and all whose failure, if mended, brings it."""

    told: str
    by: frozenset[str] = frozenset()


@dataclass
class Ending:
    """What left one step: rows in order, where rows were lost before or in it, and its figures."""

    items: list[Item] = field(default_factory=list)
    lost: dict[str, Loss] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)  # rows that a route sent past here
    figures: Counter[str] = field(default_factory=Counter)
    troubles: list[Trouble] = field(default_factory=list)
    routes: dict[str, list[str]] = field(
        default_factory=dict
    )  # of a route: row id → the steps that it goes to
    rows: dict[str, Ending] = field(default_factory=dict)  # what became of each row that came
    given: Row | None = None  # of one row: as it came

    def towards(self, step: str) -> Ending:
        """Return what a step that follows is told."""
        if not self.routes:
            return self
        taken = [item for item in self.items if step in self.routes[item.id]]
        others = {item.id for item in self.items if step not in self.routes[item.id]}
        return Ending(taken, self.lost, self.elsewhere | others)

    def told_of(self, other: Ending) -> None:
        """Take over what an input says of rows that did not come; the first who speaks of a row names the cause."""
        for row_id, loss in other.lost.items():
            known = self.lost.get(row_id)
            self.lost[row_id] = Loss(known.told, known.by | loss.by) if known else loss
        self.elsewhere |= other.elsewhere

    def add(self, row_id: str, outcome: Ending) -> None:
        """Add what became of one row."""
        self.rows[row_id] = outcome
        self.items += outcome.items
        self.lost.update(outcome.lost)
        self.figures.update(outcome.figures)
        self.troubles += outcome.troubles
        self.routes.update(outcome.routes)


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
        before: Interpreter | None = None,
        attempts: Mapping[tuple[str, str], Attempt] | None = None,
        editions: Mapping[tuple[str, int], Step] | None = None,
        joined: Mapping[str, Mapping[str, Row]] | None = None,
    ) -> None:
        self.graph = graph
        self.columns = graph.columns()
        self.keeps_failed = keeps_failed  # on_error="null"
        self.go_of = {name: list(go) for go in goes for name in go}
        self.sources = sources
        self.answer = answer
        self.before = before
        self.attempts = attempts or {}  # (step, row id) → its attempt, where it was retried
        self.editions = editions or {}  # (step, version) → the step
        self.joined = joined or {}  # join → rows that it had let go on when what they lacked was mended
        self.endings: dict[str, Ending] = {}
        # (step, row) that failed, and the joins that let the row go on without it
        self.kept: dict[tuple[str, str], set[str]] = {}
        self._renewed: set[str] = set()  # steps below a global one whose rows have changed
        self._killers: dict[str, set[str]] = {}  # first step of a go → rows that killed its worker

    @property
    def troubles(self) -> list[Trouble]:
        """What befell rows, in the order of the steps."""
        return [trouble for ending in self.endings.values() for trouble in ending.troubles]

    @property
    def failures(self) -> set[tuple[str, str]]:
        """Return (step, row) of all that a retry would take up."""
        failed = {
            (one.step, one.id)
            for one in self.troubles
            if not one.goes_on and one.kind != "MissingPartnerError"
        }
        return failed - self.kept.keys()

    def interpret(self) -> None:
        """Do every step; raises StepFailed when one fails as a whole."""
        for name in self.graph.order():
            step = self.graph.steps[name]
            inputs = [self.endings[before].towards(name) for before in self.graph.predecessors(name)]
            ending = self.endings[name] = Ending()
            for one in inputs:
                ending.told_of(one)
            # What some branch brings is neither lost nor elsewhere, whatever the others say.
            brought = {item.id for one in inputs for item in one.items}
            ending.lost = {row_id: loss for row_id, loss in ending.lost.items() if row_id not in brought}
            ending.elsewhere -= brought
            if isinstance(step, GeneratorStep):
                self._name_rows(name, ending)
            elif isinstance(step, GlobalStep):
                self._see_all(step, inputs, ending)
            elif len(inputs) > 1:
                self._join(name, inputs, ending)
            else:
                self._each(name, inputs[0].items, ending)
            ending.elsewhere -= ending.lost.keys()
            ending.items.sort(key=lambda item: (item.order, item.id))
            ending.figures["made"] = len(ending.items)

    def attempt(self, name: str, row_id: str) -> Attempt:
        """Return how a row is done at a step."""
        return self.attempts.get((name, row_id), Attempt())

    def _step(self, name: str, row_id: str) -> Step:
        version = self.attempt(name, row_id).version
        return self.graph.steps[name] if version == 1 else self.editions[name, version]

    def _earlier(self, name: str, item: Item) -> Ending | None:
        """Return what became of a row at a step before, None where it is to be done now."""
        if self.before is None or name in self._renewed:
            return None
        if self.attempt(name, item.id) != self.before.attempt(name, item.id):
            return None
        outcome = self.before.endings[name].rows.get(item.id)
        return outcome if outcome and outcome.given == item.row else None

    def _name_rows(self, name: str, ending: Ending) -> None:
        seen: Counter[str] = Counter()
        for number, row in enumerate(self.sources[name]):
            digest = row_digest(row)
            ending.items.append(Item(f"{name}:{digest}:{seen[digest]}", [number], row))
            seen[digest] += 1
        ending.figures["done"] = len(ending.items)

    def _each(self, name: str, items: Sequence[Item], ending: Ending) -> None:
        """Do rows one by one: what befalls one is its own, but for those that die with it."""
        anew = {item.id: self._led(name, item) for item in items if self._earlier(name, item) is None}
        dead = self._dead(name, list(anew.values()))
        for item in items:
            outcome = self._earlier(name, item)
            if outcome is None:
                outcome = Ending(given=item.row)
                step = self._step(name, item.id)
                if item.id in dead:
                    self._quarantine(item.id, step, "WorkerDied", outcome)
                elif isinstance(step, RouteRows):
                    self._route(step, item, outcome)
                else:
                    self._one(step, anew[item.id], outcome)
            ending.add(item.id, outcome)

    def _led(self, name: str, item: Item) -> Item:
        """Return a row as it comes to a step: where it was retried there, by the steps of the same go, done again.

        That is not counted. A row with which some of them had failed, and gone on, may be whole now.
        """
        if self.before is None or self.attempt(name, item.id) == self.before.attempt(name, item.id):
            return item
        go = self.go_of[name]
        (before,) = self.graph.predecessors(go[0])
        lead = next(one for one in self.endings[before].items if is_below(item.id, one.id))
        for earlier in go[: go.index(name)]:
            done = Ending()
            self._one(self._step(earlier, lead.id), lead, done)
            lead = next(one for one in done.items if is_below(item.id, one.id))
        return lead

    def _dead(self, name: str, anew: Sequence[Item]) -> set[str]:
        """Return the rows that die: of one that kills its worker, all that came of the same row at the begin of the go.

        Those that were through before are not among them.
        """
        first = self.go_of.get(name, [name])[0]
        (before,) = self.graph.predecessors(first)
        begun = {item.id for item in self.endings[before].items}
        killers = self._killers.setdefault(first, set())

        def origin(row_id: str) -> str:
            return row_id if row_id in begun else origin(row_id.rpartition(".")[0])

        for item in anew:
            step = self._step(name, item.id)
            if isinstance(step, Deadly) and step.is_deadly(item.row):
                killers.add(origin(item.id))
        return {item.id for item in anew if killers and origin(item.id) in killers}

    def _one(self, step: Step, item: Item, ending: Ending) -> None:
        """Give one row to a step or a task; its error, its loss or its children are its own."""
        try:
            if isinstance(step, Task):
                made = step.rows_from(item.row, self._ask(step, item))
                rows = made.rows
                ending.troubles += [Trouble(item.id, step.name, "Partial", "", True)] if made.partial else []
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

    def _ask(self, task: Task, item: Item) -> Sequence[Reply]:
        number = self.attempt(task.name, item.id).number
        return self.answer(task, item.id, task.request(item.row), number)

    def _route(self, step: RouteRows, item: Item, ending: Ending) -> None:
        """Ask for a row where it goes; one that fails here has nowhere to go on to."""
        try:
            goes_to = step.choose(item.id, dict(item.row))
        except Exception as error:  # noqa: BLE001 - as above
            self._quarantine(item.id, step, type(error).__name__, ending)
            return
        if not goes_to:
            self._leave_out(item.id, step, ending)
            return
        ending.routes[item.id] = goes_to
        ending.items.append(item)
        ending.figures["done"] += 1
        ending.figures.update(f"routed:{name}" for name in goes_to)

    def _join(self, name: str, inputs: Sequence[Ending], ending: Ending) -> None:
        """Pair rows by id, those of the branches that a row was routed to."""
        sides = [{item.id: item for item in one.items} for one in inputs]
        for row_id in dict.fromkeys(row_id for side in sides for row_id in side):
            losses = [
                one.lost[row_id]
                for one, side in zip(inputs, sides, strict=True)
                if row_id not in side and row_id in one.lost
            ]
            by = frozenset[str]().union(*(loss.by for loss in losses))
            outcome = self._gone_on(name, row_id)
            if outcome is None:
                outcome = self._meet(name, row_id, inputs, [side.get(row_id) for side in sides], losses)
            for at in by if outcome.items else ():
                self.kept.setdefault((at, row_id), set()).add(name)
            ending.add(row_id, outcome)

    def _gone_on(self, name: str, row_id: str) -> Ending | None:
        """Return what a join had made of a row before its lost partner was mended, None where it waited for it."""
        row = self.joined.get(name, {}).get(row_id)
        if row is None or self.before is None or name in self._renewed:
            return None
        outcome = self.before.endings[name].rows.get(row_id)
        return outcome if outcome and [item.row for item in outcome.items] == [row] else None

    def _meet(
        self,
        name: str,
        row_id: str,
        inputs: Sequence[Ending],
        sides: Sequence[Item | None],
        losses: Sequence[Loss],
    ) -> Ending:
        """Join one row; the step's `how` says what a lost partner costs."""
        ending = Ending()
        step = self._step(name, row_id)
        taken = [
            (one, item)
            for one, item in zip(inputs, sides, strict=True)
            if item is not None or row_id not in one.elsewhere
        ]
        partners = [item for _, item in taken if item is not None]
        whole: Row = {}
        for partner in partners:
            whole.update(partner.row)
        there = Item(row_id, partners[0].order, whole)
        by = frozenset[str]().union(*(loss.by for loss in losses))
        how = getattr(step, "how", "inner")
        if len(partners) < len(taken) and (how == "inner" or (how == "left" and taken[0][1] is None)):
            # Without a loss it is a row that a global step made, in one branch only.
            cause = losses[0].told if losses else name
            self._fail(there, step, "MissingPartnerError", ending, cause, by)
        else:
            lists: list[Row | None] = [None if item is None else dict(item.row) for _, item in taken]
            first = next(row for row in lists if row is not None)
            brought = {column for row in lists for column in row or ()}
            for before, item in zip(self.graph.predecessors(name), sides, strict=True):
                if item is None:
                    absent = self.columns[before].names
                    first.update((column, None) for column in absent if column not in brought)
            try:
                rows = [row for part in step.process(*[[row] for row in lists]) for row in part]  # type: ignore[list-item]
            except Exception as error:  # noqa: BLE001 - as above
                self._fail(there, step, type(error).__name__, ending, by=by)
            else:
                ending.figures["done"] += 1
                ending.items.append(Item(row_id, there.order, rows[0]))
        return ending

    def _see_all(self, step: GlobalStep, inputs: Sequence[Ending], ending: Ending) -> None:
        """Hand over all rows; those that come back keep their names, new ones are named by their content."""
        name = step.name
        if self.before is not None and any(
            self._ids(self, before) != self._ids(self.before, before)
            for before in self.graph.predecessors(name)
        ):
            self._renewed |= {one for one in self.graph.steps if name in self.graph.ancestors(one)}
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
        # What is mended above comes in with all the others, when the step is done again.
        ending.lost = {row_id: Loss(loss.told) for row_id, loss in ending.lost.items()}
        ending.lost.update(
            {item.id: Loss(name) for one in inputs for item in one.items if item.id not in kept}
        )
        ending.figures["dropped"] = max(0, len(names) - len(made))
        ending.figures["done"] = len(names) - ending.figures["dropped"]

    @staticmethod
    def _ids(round_: Interpreter, name: str) -> set[str]:
        return {item.id for item in round_.endings[name].items}

    def _fail(
        self,
        item: Item,
        step: Step,
        kind: str,
        ending: Ending,
        cause: str = "",
        by: frozenset[str] = frozenset(),
    ) -> None:
        """Quarantine a row, or let it go on with None in all that the step would have made."""
        if not self.keeps_failed:
            self._quarantine(item.id, step, kind, ending, cause, by)
            return
        ending.troubles.append(Trouble(item.id, step.name, kind, cause, goes_on=True))
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

    def _quarantine(
        self,
        row_id: str,
        step: Step,
        kind: str,
        ending: Ending,
        cause: str = "",
        by: frozenset[str] = frozenset(),
    ) -> None:
        ending.troubles.append(Trouble(row_id, step.name, kind, cause))
        ending.lost[row_id] = Loss(step.name, by | {step.name})
        ending.figures["failed"] += 1

    def _leave_out(self, row_id: str, step: Step, ending: Ending) -> None:
        ending.lost[row_id] = Loss(step.name)
        ending.figures["dropped"] += 1

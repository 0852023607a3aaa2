"""The graph: named steps and the edges along which rows flow. Immutable; every change returns a new one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError as LibraryCycleError
from graphlib import TopologicalSorter

from distilnb.errors import CycleError, DuplicateStepError, UnknownStepError, did_you_mean
from distilnb.spec.columns import Columns
from distilnb.spec.digest import digest_of
from distilnb.spec.step import GlobalStep, Step

Edge = tuple[str, str]


@dataclass(frozen=True)
class Graph:
    """Steps by name in the order of their making, and edges (from, to) in the order of their drawing."""

    steps: Mapping[str, Step] = field(default_factory=dict)
    edges: tuple[Edge, ...] = ()

    def __post_init__(self) -> None:
        for before, after in self.edges:
            self.step(before)
            self.step(after)

    # --- asking ---

    def step(self, name: str) -> Step:
        """Return the step of that name, or raise UnknownStepError with the near match."""
        if name not in self.steps:
            raise UnknownStepError(
                f"There is no step {name!r}; the pipeline has {list(self.steps)}.",
                did_you_mean(name, self.steps),
            )
        return self.steps[name]

    def predecessors(self, name: str) -> list[str]:
        """Return the steps whose rows flow into `name`, in the order of the edges."""
        return [before for before, after in self.edges if after == name]

    def successors(self, name: str) -> list[str]:
        """Return the steps into which the rows of `name` flow, in the order of the edges."""
        return [after for before, after in self.edges if before == name]

    def sources(self) -> list[str]:
        """Return the steps without a predecessor."""
        return [name for name in self.steps if not self.predecessors(name)]

    def leaves(self) -> list[str]:
        """Return the steps without a successor."""
        return [name for name in self.steps if not self.successors(name)]

    def order(self) -> list[str]:
        """Return the names so that each comes after all it depends on, else in the order of their making.

        Raises CycleError naming the circle.
        """
        sorter = TopologicalSorter({name: self.predecessors(name) for name in self.steps})
        try:
            sorter.prepare()
        except LibraryCycleError as error:
            circle = " → ".join(error.args[1])
            raise CycleError(
                f"The steps form a circle: {circle}.", "Remove one of these connections."
            ) from error
        position = {name: index for index, name in enumerate(self.steps)}
        ordered: list[str] = []
        while sorter.is_active():
            ready = sorted(sorter.get_ready(), key=position.__getitem__)
            ordered += ready
            sorter.done(*ready)
        return ordered

    def ancestors(self, name: str) -> set[str]:
        """Return every step upstream of `name`."""
        return self._reach(name, self.predecessors)

    def is_join(self, name: str) -> bool:
        """Whether rows of several steps meet, row by row, in `name`."""
        return len(self.predecessors(name)) > 1 and not isinstance(self.steps[name], GlobalStep)

    def columns(self) -> dict[str, Columns]:
        """Return the columns of the rows that leave each step, as far as they are known."""
        known: dict[str, Columns] = {}
        for name in self.order():
            upstream = [known[before] for before in self.predecessors(name)]
            known[name] = self.steps[name].columns_after(upstream)
        return known

    def columns_before(self, name: str) -> list[Columns]:
        """Return the columns that each predecessor of a step brings."""
        known = self.columns()
        return [known[before] for before in self.predecessors(name)]

    @property
    def digest(self) -> str:
        """The identity of the whole: steps with their names, and edges."""
        steps = {name: step.digest for name, step in self.steps.items()}
        return digest_of({"steps": steps, "edges": sorted(self.edges)})

    # --- changing ---

    def appending(self, step: Step, after: Iterable[str] = ()) -> Graph:
        """Return a graph with one more step after the steps named; raises DuplicateStepError."""
        if step.name in self.steps:
            raise DuplicateStepError(f"Two steps are named {step.name!r}.", "Give one of them another name.")
        new_edges = tuple((before, step.name) for before in after)
        return Graph({**self.steps, step.name: step}, self.edges + new_edges)

    def replacing(self, step: Step) -> Graph:
        """Return a graph where the step of that name is this one; edges stay."""
        self.step(step.name)
        return replace(
            self, steps={name: step if name == step.name else old for name, old in self.steps.items()}
        )

    def dropping(self, name: str) -> Graph:
        """Return a graph without a step; what came before it flows into what came after it."""
        self.step(name)
        edges: list[Edge] = []
        for before, after in self.edges:
            if before == name:  # the bridge takes the place of the edge: a join keeps its order
                edges += [(bridged, after) for bridged in self.predecessors(name)]
            elif after != name:
                edges.append((before, after))
        steps = {key: step for key, step in self.steps.items() if key != name}
        return Graph(steps, tuple(dict.fromkeys(edges)))

    def keeping(self, names: Iterable[str]) -> Graph:
        """Return the part of the graph made of these steps."""
        chosen = set(names)
        return Graph(
            {name: step for name, step in self.steps.items() if name in chosen},
            tuple(edge for edge in self.edges if edge[0] in chosen and edge[1] in chosen),
        )

    def _reach(self, name: str, neighbours: Callable[[str], Sequence[str]]) -> set[str]:
        self.step(name)
        reached: set[str] = set()
        todo = list(neighbours(name))
        while todo:
            current = todo.pop()
            if current not in reached:
                reached.add(current)
                todo += neighbours(current)
        return reached

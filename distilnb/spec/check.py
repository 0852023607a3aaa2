"""The checks before anything runs: what is wrong is told before it costs anything."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field

from distilnb.errors import SpecError, StepConnectionError
from distilnb.spec.code import Code
from distilnb.spec.columns import Columns
from distilnb.spec.graph import Graph
from distilnb.spec.step import GeneratorStep, GlobalStep, Step


@dataclass(frozen=True)
class Checked:
    """What a check found: the columns that leave each step, and remarks that stop nothing.

    `types` has, by step, those of the columns that it makes which are known before a run: `{"age": "int"}`.
    """

    columns: dict[str, Columns] = field(default_factory=dict)
    types: dict[str, dict[str, str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def check_graph(graph: Graph, *, is_whole: bool = True) -> Checked:
    """Check a graph and return what was inferred; of a part of a graph, `is_whole` is false.

    Raises SpecError and its kinds for what is wrong with the graph, and what each step's own `check` raises.
    """
    if not graph.steps:
        raise SpecError("The pipeline has no steps.", "Begin with a source: p.from_dicts([...]).")
    order = graph.order()
    for name in order:
        check_connections(graph, name)
        _check_code(graph.steps[name])
        _check_cache(graph, name)
    sources = graph.sources()
    for name in sources:  # first: without rows, or a file, no column is there either
        graph.steps[name].check()
    checked = check_flow(graph)
    for name in order:
        if name not in sources:
            graph.steps[name].check()
        if is_whole:
            graph.steps[name].check_followers(graph.successors(name))
    return checked


def _check_code(step: Step) -> None:
    """Raise SpecError when a function of a step came from a file and was not trusted."""
    for name in type(step).model_fields:
        value = getattr(step, name)
        if isinstance(value, Code):
            _ = value.live


def _check_cache(graph: Graph, name: str) -> None:
    """Raise SpecError where results cannot be kept row by row."""
    step = graph.steps[name]
    if step.cache and (isinstance(step, (GlobalStep, GeneratorStep)) or graph.is_join(name)):
        raise SpecError(
            f"Step {name!r} has cache=True, but it does not make its rows of one row each.",
            "Keep the results of the steps before or after it instead.",
        )


def check_flow(graph: Graph) -> Checked:
    """Follow the columns through the graph; raises MissingColumnError at the first step that lacks one."""
    checked = Checked()
    for name in graph.order():
        step = graph.steps[name]
        upstream = [checked.columns[before] for before in graph.predecessors(name)]
        step.check_inputs(upstream)
        if not isinstance(step, GeneratorStep):
            checked.warnings.extend(_overwrites(step, upstream))
        checked.columns[name] = step.columns_after(upstream)
        if types := step.types_made():
            checked.types[name] = types
    return checked


def check_connections(graph: Graph, name: str) -> None:
    """Raise StepConnectionError when rows cannot flow into a step as drawn."""
    step = graph.steps[name]
    before = graph.predecessors(name)
    if isinstance(step, GeneratorStep):
        if before:
            raise StepConnectionError(
                f"Source {name!r} makes rows from nothing, but {before} flows into it.",
                "Remove that connection.",
            )
        return
    if not before:
        raise StepConnectionError(
            f"No rows flow into step {name!r}.",
            f"Connect a step to it: source >> {name}, or begin with a source.",
        )
    if len(before) > 1:
        _check_join(graph, name, before)


def _check_join(graph: Graph, name: str, before: list[str]) -> None:
    step = graph.steps[name]
    if not takes_several(step):
        raise StepConnectionError(
            f"Step {name!r} ({step.kind()}) takes the rows of one step, but {before} flow into it.",
            "Join them first with GroupColumns or CombineOutputs.",
        )
    if isinstance(step, GlobalStep):
        return
    shared = set.intersection(*(graph.ancestors(branch) | {branch} for branch in before))
    if not shared:
        raise StepConnectionError(
            f"The rows of {before} meet in step {name!r}, but they come from different sources.",
            "Rows are joined by the id that they got at one common source.",
        )
    expanding = [
        {
            step
            for step in graph.ancestors(branch) | {branch}
            if step not in shared and graph.steps[step].expands()
        }
        for branch in before
    ]
    if any(expanding):
        culprits = sorted(set.union(*expanding))
        raise StepConnectionError(
            f"The rows of {before} meet one to one in step {name!r}, but {culprits} makes several rows of one.",
            "Expand after the join, where all branches have met.",
        )


def takes_several(step: Step) -> bool:
    """Whether `process` of a step takes the rows of several predecessors."""
    parameters = list(inspect.signature(step.process).parameters.values())
    if type(step).process is Step.process:  # tasks do not use `process`
        return False
    return len(parameters) > 1 or any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)


def _overwrites(step: Step, upstream: list[Columns]) -> list[str]:
    kept = set(step.input_mappings) | set(step.needed())
    arriving = {name for columns in upstream for name in columns.names}
    lost = sorted((set(step.made()) & arriving) - kept)
    return [f"Step {step.name!r} overwrites column {name!r}." for name in lost]

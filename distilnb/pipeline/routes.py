"""How branches come to a route: built by functions, added by verbs, given away when their first step is dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from distilnb.errors import DistilnbError, SpecError
from distilnb.pipeline.written import Written
from distilnb.spec.draft import drafting
from distilnb.spec.graph import Graph
from distilnb.spec.step import Step
from distilnb.steps.function import as_step
from distilnb.steps.route import RouteRows

P = TypeVar("P", bound=Written)

Branch: TypeAlias = "Step | Callable[[Any], Written]"  # a step, or a function from a pipeline to a longer one


def route_step(graph: Graph, name: str, branches: object, fields: Mapping[str, Any]) -> RouteRows:
    """Return the step of a route; one that is there already keeps its branches."""
    with drafting(None):
        step = RouteRows(**{field: value for field, value in fields.items() if value not in (None, "")})
    old = graph.steps.get(name)
    if not isinstance(old, RouteRows):
        return step
    if isinstance(branches, Mapping) and branches:
        raise SpecError(
            f"Route {name!r} has its branches {list(old.branches)} already.",
            "Leave them out, and change their steps by name; or give the route another name.",
        )
    return step.updated(branches=old.branches)


def with_branches(
    pipeline_of: Callable[[Graph, Sequence[str]], Any], graph: Graph, route: str, branches: Mapping[str, Any]
) -> tuple[Graph, list[str]]:
    """Return the graph with these branches behind a route, and the steps at their ends."""
    ends: list[str] = []
    for branch, make in branches.items():
        begun = pipeline_of(graph, [route])
        with drafting(None):
            made = build(begun, begun.then, branch, make)
        graph = with_branch(graph, made.graph, route, branch)
        ends += made._heads
    return graph, list(dict.fromkeys(ends))


def build(begun: P, then: Callable[..., P], name: str, make: Any) -> P:
    """Return the pipeline with a branch behind its route: a step, or what a function makes of the pipeline."""
    if isinstance(make, Step) or hasattr(make, "to_step"):
        step = as_step(make)
        return then(step, name=step.name or name)
    if not callable(make):
        raise SpecError(
            f"Branch {name!r} is a {type(make).__name__!r}.",
            "Give a step, or a function: lambda p: p.generate().",
        )
    try:
        made = make(begun)
    except DistilnbError:
        raise
    except Exception as error:
        raise SpecError(
            f"Branch {name!r} cannot be built: {type(error).__name__}: {error}.",
            "A branch is a step, or a function from a pipeline to a longer one: lambda p: p.generate().",
        ) from error
    if not isinstance(made, type(begun)):
        raise SpecError(
            f"The function of branch {name!r} returned a {type(made).__name__!r}.",
            "It takes a pipeline and returns a longer one: lambda p: p.generate().",
        )
    return made


def with_branch(before: Graph, after: Graph, route: str, branch: str) -> Graph:
    """Return the graph `after` where all steps that newly follow the route are the beginning of one branch."""
    known, step = before.steps[route], after.steps[route]
    assert isinstance(known, RouteRows)
    assert isinstance(step, RouteRows)
    begins = [name for name in after.successors(route) if name not in before.successors(route)]
    return after.replacing(step.updated(branches={**known.branches, branch: begins}))


def followed(graph: Graph, before: Iterable[str], branch: str, steps: Sequence[str]) -> Graph:
    """Return the graph where each route among `before` knows the steps that were connected behind it."""
    for name in before:
        step = graph.steps[name]
        if isinstance(step, RouteRows):
            graph = graph.replacing(step.with_branch(branch, steps))
    return graph


def dropping(graph: Graph, name: str) -> Graph:
    """Return the graph without a step; a route before it knows the steps that take its place."""
    before, after = graph.predecessors(name), graph.successors(name)
    is_route = isinstance(graph.steps.get(name), RouteRows)
    graph = graph.dropping(name)
    for predecessor in before:
        step = graph.steps[predecessor]
        if isinstance(step, RouteRows):
            taken = [other for other in after if is_route or other in graph.successors(predecessor)]
            graph = graph.replacing(step.without_step(name, taken))
    return graph

"""Drawn pipelines: graphs that the check accepts, over rows of which many are equal.

A feature of the engine comes into the proof by a line in `_ONE_TO_ONE`, `_GLOBAL`, `_JOINS` or `_ROUTES` and, where its
meaning is new, by a branch in `sequential.Interpreter`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from hypothesis import strategies as st

from distilnb.errors import SpecError
from distilnb.rows import Row
from distilnb.spec.check import check_graph
from distilnb.spec.graph import Graph
from distilnb.spec.step import Step, StepResources
from distilnb.steps.columns import ExpandColumns, MergeColumns
from distilnb.steps.dedup import ExactDedup
from distilnb.steps.filter import FilterRows, TakeRows
from distilnb.steps.function import MapRows
from distilnb.steps.join import CombineOutputs, GroupColumns, How
from distilnb.steps.route import RouteRows
from distilnb.steps.sources import LoadDataFromDicts, LoadDataFromFileSystem
from distilnb.tasks.generation import TextGeneration
from tests.property.steps import (
    Backwards,
    Clash,
    Deadly,
    DeadlyPrompt,
    Falter,
    InPlace,
    Mark,
    Oracle,
    Refuse,
    Salted,
    Sift,
    Split,
    Stumble,
    Tally,
    chance,
)

OnError = Literal["quarantine", "null", "raise"]
Drawn = Callable[[st.DataObject, str], Step]  # makes a step of that name


@dataclass(frozen=True)
class DrawnPipeline:
    """A graph, the rows of its sources, which of them are read from a file, and what becomes of failed rows."""

    graph: Graph
    rows: Mapping[str, Sequence[Row]]
    in_files: frozenset[str]
    on_error: OnError


def draw_pipeline(data: st.DataObject, folder: Path) -> DrawnPipeline:
    """Draw a pipeline; sources that read files have them below `folder`."""
    rows: dict[str, Sequence[Row]] = {}
    in_files = set()
    graph = Graph()
    for name in ("load", "other")[: data.draw(st.sampled_from([1, 1, 1, 2]), label="sources")]:
        rows[name] = data.draw(_rows(min_size=3), label=f"rows of {name}")
        if data.draw(st.booleans(), label="from a file"):
            in_files.add(name)
            path = folder / f"{name}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows[name]), encoding="utf-8")
            graph = graph.appending(LoadDataFromFileSystem(name=name, data_files=str(path)))
        else:
            graph = graph.appending(LoadDataFromDicts(name=name, data=list(rows[name])))
    for number in range(data.draw(st.integers(1, 8), label="steps")):
        graph = _appending(data, graph, f"step{number}")
    on_error = data.draw(st.sampled_from(_ON_ERROR), label="on_error")
    return DrawnPipeline(graph, rows, frozenset(in_files), on_error)


def draw_meeting(data: st.DataObject, _: Path) -> DrawnPipeline:
    """Draw a pipeline of branches that lose rows and meet, and meet once more: what failed in one may be mended."""
    rows = data.draw(_rows(min_size=8), label="rows")
    graph = Graph().appending(LoadDataFromDicts(name="load", data=list(rows)))
    graph = _routing(data, graph, "way", "load", begins=_LOSING)
    if len(graph.steps) > 1 and data.draw(st.booleans(), label="once more"):
        join = data.draw(st.sampled_from(_JOINS), label="join")(data, "again")
        last = list(graph.steps)[-1]
        graph = _connected(data, graph, join, data.draw(st.permutations([last, "load"]), label="order"))
    on_error = data.draw(st.sampled_from(_ON_ERROR[:3]), label="on_error")
    return DrawnPipeline(graph, {"load": rows}, frozenset(), on_error)


_ON_ERROR: Sequence[OnError] = ("quarantine", "quarantine", "null", "raise")


def _rows(*, min_size: int) -> st.SearchStrategy[list[Row]]:
    row = st.fixed_dictionaries({"text": st.text("abc", min_size=1, max_size=2), "n": st.integers(0, 2)})
    return st.lists(row, min_size=min_size, max_size=14)


def _appending(data: st.DataObject, graph: Graph, name: str) -> Graph:
    """Append one step behind a drawn one, mostly the last; a step that cannot stand there is left out."""
    steps = list(graph.steps)
    kind = data.draw(st.sampled_from(["one", "one", "one", "join", "join", "global", "route"]), label=name)
    if kind == "route":
        return _routing(data, graph, name, _end(data, steps))
    if kind == "one" or len(steps) < 2:
        after = [_end(data, steps)]
        step = data.draw(st.sampled_from(_ONE_TO_ONE), label="step")(data, name)
    elif kind == "join":
        after = data.draw(
            st.lists(st.sampled_from(steps), min_size=2, max_size=3, unique=True), label="joined"
        )
        step = data.draw(st.sampled_from(_JOINS), label="join")(data, name)
    else:
        after = [_end(data, steps)]
        step = data.draw(st.sampled_from(_GLOBAL), label="global")(data, name)
        if isinstance(step, (Backwards, Tally)) and data.draw(st.booleans(), label="of two"):
            after = list(dict.fromkeys([*after, _end(data, steps)]))
    return _connected(data, graph, step, after)


def _connected(data: st.DataObject, graph: Graph, step: Step, after: Sequence[str]) -> Graph:
    """Append a step, if the check lets it stand there; behind a route it becomes the begin of a drawn branch too."""
    try:
        longer = graph.appending(step, after)
        for before in after:
            route = longer.steps[before]
            if isinstance(route, RouteRows):
                branch = data.draw(st.sampled_from(list(route.branches)), label="branch")
                begins = {**route.branches, branch: [*route.branches[branch], step.name]}
                longer = longer.replacing(route.updated(branches=begins))
        check_graph(longer, is_whole=False)
    except SpecError:
        return graph
    return longer


def _routing(
    data: st.DataObject,
    graph: Graph,
    name: str,
    before: str,
    depth: int = 0,
    begins: Sequence[Drawn] | None = None,
) -> Graph:
    """Append a route with two or three branches of none to two steps, most of which meet again.

    `begins` are the steps with which a branch may begin.
    """
    names = [f"{name}-{letter}" for letter in "abc"[: data.draw(st.integers(2, 3), label="branches")]]
    route = data.draw(st.sampled_from(_ROUTES), label="route")(data, name, names)
    longer = _connected(data, graph, route, [before])
    if name not in longer.steps:
        return graph
    ends, straight = [], []
    for branch in names:
        end = name
        for number in range(data.draw(st.sampled_from([0, 1, 1, 2]), label=f"steps of {branch}")):
            step_name, n_before = f"{branch}{number}", len(longer.steps)
            if end != name and not depth and data.draw(st.sampled_from([False] * 4 + [True]), label="inner"):
                longer = _routing(data, longer, step_name, end, depth + 1)
            else:
                choice = begins if begins and end == name else _ONE_TO_ONE
                step = data.draw(st.sampled_from(choice), label="step")(data, step_name)
                longer = _begun(longer, step, end, branch)
            if len(longer.steps) > n_before:
                end = list(longer.steps)[-1]
        if end == name:
            straight.append(branch)
        elif data.draw(st.sampled_from([True] * 5 + [False]), label="meets again"):
            ends.append(end)
    both = [*ends, name] if straight else ends
    if len(both) > 1:
        join = data.draw(st.sampled_from(_JOINS), label="join")(data, f"{name}-met")
        joined = longer.appending(join, data.draw(st.permutations(both), label="order"))
    elif straight:
        joined = longer.appending(Mark(name=f"{name}-on"), [name])
    else:
        joined = longer
    if straight:
        begins = {
            **_route_of(joined, name).branches,
            **{branch: [list(joined.steps)[-1]] for branch in straight},
        }
        joined = joined.replacing(_route_of(joined, name).updated(branches=begins))
    try:
        check_graph(joined)
    except SpecError:
        return graph
    return joined


def _begun(graph: Graph, step: Step, before: str, branch: str) -> Graph:
    """Append a step to a branch of the route behind which it stands, or to the end of the branch."""
    route = graph.steps[before]
    try:
        longer = graph.appending(step, [before])
        if isinstance(route, RouteRows):
            longer = longer.replacing(route.updated(branches={**route.branches, branch: [step.name]}))
        check_graph(longer, is_whole=False)
    except SpecError:
        return graph
    return longer


def _route_of(graph: Graph, name: str) -> RouteRows:
    route = graph.steps[name]
    assert isinstance(route, RouteRows)
    return route


def _end(data: st.DataObject, steps: Sequence[str]) -> str:
    """Return the last step, or sometimes another: there the rows branch."""
    back = data.draw(st.sampled_from([0, 0, 0, 1, 2, 3]), label="how far back")
    return steps[max(0, len(steps) - 1 - back)]


# --- the steps; each leaves a column "text" in every row, so that any may follow any ----


def _asking(data: st.DataObject, name: str) -> Step:
    n = data.draw(st.sampled_from([1, 1, 2, 3]), label="generations")
    sampling = {"temperature": 0.0} if data.draw(st.booleans(), label="deterministic") else {}
    kind = data.draw(st.sampled_from([TextGeneration] * 3 + [_DEADLY_PROMPT]), label="task")
    return kind(
        name=name,
        template="Say {{ text }}",
        llm=Oracle(
            model=data.draw(st.sampled_from("AB"), label="model"),
            max_concurrency=data.draw(st.sampled_from([1, 3, 64]), label="concurrency"),
            generation_kwargs=sampling,
        ),
        num_generations=n,
        min_generations=data.draw(st.sampled_from([None, 1]), label="of which"),
        group_generations=data.draw(st.booleans(), label="grouped"),
        output_mappings={"generation": "text"},
    )


_DEADLY_PROMPT = partial(DeadlyPrompt, home=os.getpid())


def _salted(kind: Callable[..., Salted]) -> Drawn:
    def draw(data: st.DataObject, name: str) -> Step:
        salt = data.draw(st.integers(0, 3), label="salt")
        replicas = data.draw(st.sampled_from([0, 0, 1, 2, 3]), label="replicas")
        resources = StepResources(replicas=replicas) if replicas else StepResources()
        size = data.draw(st.sampled_from([1, 2, 50]))
        return kind(name=name, salt=salt, input_batch_size=size, resources=resources)

    return draw


def _pair(text: object) -> dict[str, object]:
    return {"text": [text, text]}


_ONE_TO_ONE: Sequence[Drawn] = (
    *map(_salted, (Mark, InPlace, Sift, Refuse, Stumble, Falter, Split, partial(Deadly, home=os.getpid()))),
    lambda data, name: MapRows(name=name, function=_pair, made_columns=["text"]),
    lambda data, name: FilterRows(name=name, condition="n != 1"),
    lambda data, name: FilterRows(name=name, condition="text|length < n + 2"),
    lambda data, name: ExpandColumns(name=name, columns={"text": "text"}),
    lambda data, name: MergeColumns(name=name, columns=["text", "n"], output_column="text"),
    *[_asking] * 6,
)
_LOSING: Sequence[Drawn] = (_salted(Falter), _salted(Falter), _salted(Sift), _asking)
_GLOBAL: Sequence[Drawn] = (
    lambda data, name: ExactDedup(name=name, columns=["text"]),
    lambda data, name: TakeRows(name=name, n=data.draw(st.integers(1, 6), label="n")),
    lambda data, name: Backwards(name=name),
    lambda data, name: Tally(name=name),
)
_JOINS: Sequence[Drawn] = (
    lambda data, name: GroupColumns(name=name, columns=["text"], output_columns=["text"], how=_how(data)),
    lambda data, name: CombineOutputs(name=name, how=_how(data)),
    _salted(Clash),
)


def _how(data: st.DataObject) -> How:
    return data.draw(st.sampled_from(_HOWS), label="how")


_HOWS: Sequence[How] = ("inner", "inner", "left", "outer")


# --- the routes; each is given the names of its branches ----


def _some_of(branches: list[str], text: str) -> list[str]:
    """Name some of the branches for a row; of a few rows none, of others one that there is not."""
    number = chance("route", text, below=9)
    return ["nowhere"] if number == 8 else [name for at, name in enumerate(branches) if number >> at & 1]


def _by_condition(data: st.DataObject, name: str, branches: list[str]) -> RouteRows:
    default = data.draw(st.sampled_from(["", branches[-1]]), label="default")
    tested = branches[:-1] if default else branches
    return RouteRows(
        name=name,
        branches={branch: [] for branch in branches},
        when={branch: data.draw(st.sampled_from(_CONDITIONS), label="when") for branch in tested},
        default=default,
    )


_CONDITIONS = ("n == 0", "n != 1", "text|length < 3", "n + 1")  # the third raises where a text is None

_ROUTES: Sequence[Callable[[st.DataObject, str, list[str]], RouteRows]] = (
    lambda data, name, branches: RouteRows(
        name=name,
        branches={branch: [] for branch in branches},
        n=data.draw(st.integers(1, len(branches)), label="n"),
        seed=data.draw(st.integers(0, 9), label="seed"),
    ),
    lambda data, name, branches: RouteRows(
        name=name,
        branches={branch: [] for branch in branches},
        weights={branch: data.draw(st.sampled_from([0.5, 1.0, 3.0]), label="weight") for branch in branches},
    ),
    _by_condition,
    _by_condition,
    lambda data, name, branches: RouteRows(
        name=name, branches={branch: [] for branch in branches}, function=_some_of
    ),
)


# --- edits ----


def edited(graph: Graph, name: str, number: int) -> Graph:
    """Return a graph in which a step is another, and so is all that does not come before it, as far as it can be."""
    for names in (set(graph.steps) - graph.ancestors(name), {name}):
        changed = graph
        for one in names:
            changed = changed.replacing(_edit(changed.steps[one], number))
        try:
            check_graph(changed)
        except SpecError:
            continue
        return changed
    return graph


def _edit(step: Step, number: int) -> Step:
    if isinstance(step, Salted):
        return step.updated(salt=step.salt + 4 * number)
    if isinstance(step, TextGeneration):
        return step.updated(template=f"Say {{{{ text }}}} {number}")
    if isinstance(step, RouteRows) and step.when:
        turned = [*_CONDITIONS[number % len(_CONDITIONS) :], *_CONDITIONS]
        return step.updated(when=dict(zip(step.when, turned, strict=False)))
    if isinstance(step, MergeColumns):
        return step.updated(columns=[*step.columns[::-1]])
    return step

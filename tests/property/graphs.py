"""Drawn pipelines: graphs that the check accepts, over rows of which many are equal.

A feature of the engine comes into the proof by a line in `_ONE_TO_ONE`, `_GLOBAL` or `_JOINS` and, where its meaning
is new, by a branch in `sequential.Interpreter`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from distilnb.steps.join import CombineOutputs, GroupColumns
from distilnb.steps.sources import LoadDataFromDicts, LoadDataFromFileSystem
from distilnb.tasks.generation import TextGeneration
from tests.property.steps import (
    Backwards,
    Deadly,
    DeadlyPrompt,
    InPlace,
    Mark,
    Oracle,
    Refuse,
    Salted,
    Sift,
    Split,
    Stumble,
    Tally,
)

Drawn = Callable[[st.DataObject, str], Step]  # makes a step of that name


@dataclass(frozen=True)
class DrawnPipeline:
    """A graph, the rows of its sources, and which of them are read from a file."""

    graph: Graph
    rows: Mapping[str, Sequence[Row]]
    in_files: frozenset[str]


def draw_pipeline(data: st.DataObject, folder: Path) -> DrawnPipeline:
    """Draw a pipeline; sources that read files have them below `folder`."""
    rows: dict[str, Sequence[Row]] = {}
    in_files = set()
    graph = Graph()
    for name in ("load", "other")[: data.draw(st.sampled_from([1, 1, 1, 2]), label="sources")]:
        rows[name] = data.draw(_ROWS, label=f"rows of {name}")
        if data.draw(st.booleans(), label="from a file"):
            in_files.add(name)
            path = folder / f"{name}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows[name]), encoding="utf-8")
            graph = graph.appending(LoadDataFromFileSystem(name=name, data_files=str(path)))
        else:
            graph = graph.appending(LoadDataFromDicts(name=name, data=list(rows[name])))
    for number in range(data.draw(st.integers(1, 8), label="steps")):
        graph = _appending(data, graph, f"step{number}")
    return DrawnPipeline(graph, rows, frozenset(in_files))


_ROWS = st.lists(
    st.fixed_dictionaries({"text": st.text("abc", min_size=1, max_size=2), "n": st.integers(0, 2)}),
    min_size=3,
    max_size=14,
)


def _appending(data: st.DataObject, graph: Graph, name: str) -> Graph:
    """Append one step behind a drawn one, mostly the last; a step that cannot stand there is left out."""
    steps = list(graph.steps)
    kind = data.draw(st.sampled_from(["one", "one", "one", "join", "join", "global"]), label=name)
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
    try:
        longer = graph.appending(step, after)
        check_graph(longer)
    except SpecError:
        return graph
    return longer


def _end(data: st.DataObject, steps: Sequence[str]) -> str:
    """Return the last step, or sometimes another: there the rows branch."""
    back = data.draw(st.sampled_from([0, 0, 0, 1, 2, 3]), label="how far back")
    return steps[max(0, len(steps) - 1 - back)]


# --- the steps; each leaves a column "text" in every row, so that any may follow any ----


def _asking(data: st.DataObject, name: str) -> Step:
    n = data.draw(st.sampled_from([1, 1, 2, 3]), label="generations")
    sampling = {"temperature": 0.0} if data.draw(st.booleans(), label="deterministic") else {}
    kind = data.draw(
        st.sampled_from([TextGeneration, TextGeneration, TextGeneration, DeadlyPrompt]), label="task"
    )
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


def _salted(kind: type[Salted]) -> Drawn:
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
    *map(_salted, (Mark, InPlace, Sift, Refuse, Stumble, Split, Deadly)),
    lambda data, name: MapRows(name=name, function=_pair, made_columns=["text"]),
    lambda data, name: FilterRows(name=name, condition="n != 1"),
    lambda data, name: FilterRows(name=name, condition="text|length < n + 2"),
    lambda data, name: ExpandColumns(name=name, columns={"text": "text"}),
    lambda data, name: MergeColumns(name=name, columns=["text", "n"], output_column="text"),
    *[_asking] * 6,
)
_GLOBAL: Sequence[Drawn] = (
    lambda data, name: ExactDedup(name=name, columns=["text"]),
    lambda data, name: TakeRows(name=name, n=data.draw(st.integers(1, 6), label="n")),
    lambda data, name: Backwards(name=name),
    lambda data, name: Tally(name=name),
)
_JOINS: Sequence[Drawn] = (
    lambda data, name: GroupColumns(name=name, columns=["text"], output_columns=["text"]),
    lambda data, name: CombineOutputs(name=name),
)

"""From a checked graph to a plan: which steps share a stage, which stage runs in which worker."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from distilnb.engine.plan import OFFLINE_WINDOW, Plan, Stage, ask_window
from distilnb.spec.columns import Columns
from distilnb.spec.graph import Graph
from distilnb.spec.registry import KINDS
from distilnb.spec.step import GeneratorStep, GlobalStep, Step
from distilnb.steps.cutting import PART_BYTES, can_be_cut
from distilnb.steps.route import RouteRows
from distilnb.steps.sources import LoadDataFromDicts, LoadDataFromFileSystem
from distilnb.tasks.base import Task

ROW_BATCH = 2000  # rows per file between row stages
ASK_BATCH = 256  # rows per file towards a model: smaller, so that the first requests start early
ROW_WINDOW = 3 * ROW_BATCH
MAX_ROW_WORKERS = 2  # by default: each is an interpreter with the steps' imports


def make_plan(graph: Graph, *, run_id: str, pipeline: str, digest: str, options: dict[str, Any]) -> Plan:
    """Return the plan of a checked graph: consecutive row steps fused, everything else a stage of its own."""
    columns = graph.columns()
    stages: dict[str, Stage] = {}  # by the name of the last step
    stage_of: dict[str, str] = {}  # step → name of its stage
    for name in graph.order():
        head = _fuses_with(graph, name, stages, stage_of)
        if head is None:
            stages[name] = _new_stage(graph, name, stage_of, columns)
        else:
            fused = stages.pop(head)
            replicas = fused.replicas or _replicas(graph.steps[name])
            changes = {"name": name, "steps": (*fused.steps, name), "replicas": replicas}
            stages[name] = Stage(**{**vars(fused), **changes, "window": _row_window(replicas)})
            stage_of.update(dict.fromkeys(fused.steps, name))
        stage_of[name] = name
    told = _upstream_of_joins(stages)
    final = tuple(
        Stage(
            **{
                **vars(stage),
                "tells_gone": stage.name in told,
                "batch_rows": _batch_rows(stage, stages),
                "is_route": isinstance(graph.steps[stage.name], RouteRows),
                "part_bytes": PART_BYTES * _is_cut(graph.steps[stage.name], stage, stages, options),
            }
        )
        for stage in stages.values()
    )
    leaves = {leaf: stage_of[leaf] for leaf in graph.leaves()}
    options = {**options, "row_workers": options.get("row_workers") or _n_row_workers(final)}
    return Plan(run_id, pipeline, digest, final, leaves, options)


def _fuses_with(graph: Graph, name: str, stages: dict[str, Stage], stage_of: dict[str, str]) -> str | None:
    """Return the stage that a row step joins: that of its only predecessor, when it is its only successor.

    None joins a route: its batches are written, each row with the steps that it goes to.
    """
    before = graph.predecessors(name)
    if _kind(graph, name) != "rows" or len(graph.successors(before[0])) > 1:
        return None
    if isinstance(graph.steps[before[0]], RouteRows):
        return None
    head = stage_of[before[0]]
    numbers = {stages[head].replicas, _replicas(graph.steps[name])} - {0}
    return head if stages[head].kind == "rows" and len(numbers) < 2 else None


def _replicas(step: Step) -> int:
    """Return how many workers may run a row step at once; 0 for any number.

    A class of the user may keep state in its process, so it has one, unless its `resources` ask for more.
    """
    asked = step.resources.get("replicas")
    return asked if asked else 0 if step.kind() in KINDS else 1


def _row_window(replicas: int) -> int:
    return ROW_WINDOW * max(1, replicas)


def _n_row_workers(stages: tuple[Stage, ...]) -> int:
    """Return as many workers as there are row stages that can work at once, or as some step asks for."""
    in_phase: dict[int, int] = {}
    phase_of: dict[str, int] = {}
    kind_of = {stage.name: stage.kind for stage in stages}
    for stage in stages:
        # A global step waits for all before it, and all after it waits for it.
        before = [phase_of[name] + (kind_of[name] == "global") for name in stage.inputs]
        phase = phase_of[stage.name] = max(before, default=0) + (stage.kind == "global")
        if stage.worker == "rows" and stage.kind != "spool":
            in_phase[phase] = in_phase.get(phase, 0) + 1
    n_useful = min(max(in_phase.values(), default=0), MAX_ROW_WORKERS, os.cpu_count() or 1)
    asked = max((stage.replicas for stage in stages if stage.kind == "rows"), default=0)
    has_source = any(stage.kind == "source" for stage in stages)
    return max(n_useful, asked + has_source if asked > 1 else 0)


def _new_stage(graph: Graph, name: str, stage_of: dict[str, str], columns: Mapping[str, Columns]) -> Stage:
    step = graph.steps[name]
    kind = _kind(graph, name)
    inputs = tuple(stage_of[before] for before in graph.predecessors(name))
    replicas = _replicas(step) if kind == "rows" else 1
    window, worker = (_row_window(replicas), "rows") if kind == "rows" else (0, "rows")
    is_offline = False
    if isinstance(step, Task) and kind == "ask":
        window, worker = ask_window(_n_slots(step)), "ask"
        is_offline = step.llm is not None and step.llm.goes_by_batch
        window = OFFLINE_WINDOW if is_offline else window
    expected = step.n_rows() if isinstance(step, GeneratorStep) else None
    brought = tuple(columns[before].names for before in graph.predecessors(name)) if kind == "join" else ()
    return Stage(
        name,
        kind,  # type: ignore[arg-type]
        (name,),
        inputs,
        worker,  # type: ignore[arg-type]
        window,
        expected_rows=expected,
        replicas=replicas,
        columns=brought,
        is_offline=is_offline,
    )


def _n_slots(task: Task) -> int:
    """Return how many rows of a task may be in flight, with all its models."""
    llms = task.llm.senders() if task.llm else ()
    return sum(llm.max_concurrency * llm.texts_per_request for llm in llms) or 64


def _kind(graph: Graph, name: str) -> str:
    step = graph.steps[name]
    if isinstance(step, LoadDataFromDicts):
        return "spool"
    if isinstance(step, GeneratorStep):
        return "source"
    if isinstance(step, GlobalStep):
        return "global"
    if isinstance(step, Task):
        return "ask"
    return "join" if graph.is_join(name) else "rows"


def _upstream_of_joins(stages: dict[str, Stage]) -> set[str]:
    told: set[str] = set()
    todo = [before for stage in stages.values() if stage.kind == "join" for before in stage.inputs]
    while todo:
        name = todo.pop()
        if name not in told:
            told.add(name)
            todo += stages[name].inputs
    return told


def _is_cut(step: Step, stage: Stage, stages: Mapping[str, Stage], options: Mapping[str, Any]) -> bool:
    """Whether several workers are to read parts of a source: a large one, with nothing but row steps behind it."""
    if not isinstance(step, LoadDataFromFileSystem) or options.get("rows") is not None:
        return False
    behind = [other for other in stages.values() if stage.name in other.inputs]
    if step.num_examples is not None or not behind or any(other.kind != "rows" for other in behind):
        return False
    return not step.output_mappings and can_be_cut(step.files())


def _batch_rows(stage: Stage, stages: dict[str, Stage]) -> int:
    feeds_ask = any(other.kind == "ask" and stage.name in other.inputs for other in stages.values())
    return ASK_BATCH if feeds_ask else ROW_BATCH

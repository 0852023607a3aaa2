"""From a checked graph to a plan: which steps share a stage, which stage runs in which worker."""

from __future__ import annotations

from typing import Any

from distilnb.engine.plan import Plan, Stage
from distilnb.spec.graph import Graph
from distilnb.spec.step import GeneratorStep, GlobalStep
from distilnb.steps.sources import LoadDataFromDicts
from distilnb.tasks.base import Task

ROW_BATCH = 1000  # rows per file between row stages
ASK_BATCH = 256  # rows per file towards a model: smaller, so that the first requests start early
ROW_WINDOW = 3 * ROW_BATCH


def make_plan(graph: Graph, *, run_id: str, pipeline: str, digest: str, options: dict[str, Any]) -> Plan:
    """Return the plan of a checked graph: consecutive row steps fused, everything else a stage of its own."""
    stages: dict[str, Stage] = {}  # by the name of the last step
    stage_of: dict[str, str] = {}  # step → name of its stage
    for name in graph.order():
        head = _fuses_with(graph, name, stages, stage_of)
        if head is None:
            stages[name] = _new_stage(graph, name, stage_of)
        else:
            fused = stages.pop(head)
            stages[name] = Stage(**{**vars(fused), "name": name, "steps": (*fused.steps, name)})
            stage_of.update(dict.fromkeys(fused.steps, name))
        stage_of[name] = name
    told = _upstream_of_joins(stages)
    final = tuple(
        Stage(**{**vars(stage), "tells_gone": stage.name in told, "batch_rows": _batch_rows(stage, stages)})
        for stage in stages.values()
    )
    leaves = {leaf: stage_of[leaf] for leaf in graph.leaves()}
    return Plan(run_id, pipeline, digest, final, leaves, options)


def _fuses_with(graph: Graph, name: str, stages: dict[str, Stage], stage_of: dict[str, str]) -> str | None:
    """Return the stage that a row step joins: that of its only predecessor, when it is its only successor."""
    before = graph.predecessors(name)
    if _kind(graph, name) != "rows" or len(graph.successors(before[0])) > 1:
        return None
    head = stage_of[before[0]]
    return head if stages[head].kind == "rows" else None


def _new_stage(graph: Graph, name: str, stage_of: dict[str, str]) -> Stage:
    step = graph.steps[name]
    kind = _kind(graph, name)
    inputs = tuple(stage_of[before] for before in graph.predecessors(name))
    window, worker = (ROW_WINDOW, "rows") if kind == "rows" else (0, "rows")
    if isinstance(step, Task) and kind == "ask":
        window, worker = max(64, 4 * (step.llm.max_concurrency if step.llm else 64)), "ask"
    expected = step.n_rows() if isinstance(step, GeneratorStep) else None
    return Stage(name, kind, (name,), inputs, worker, window, expected_rows=expected)  # type: ignore[arg-type]


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


def _batch_rows(stage: Stage, stages: dict[str, Stage]) -> int:
    feeds_ask = any(other.kind == "ask" and stage.name in other.inputs for other in stages.values())
    return ASK_BATCH if feeds_ask else ROW_BATCH

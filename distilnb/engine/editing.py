"""From an edited pipeline to a version of a run's failed steps: checked first, then written into the run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from distilnb.engine.launch import check_models
from distilnb.engine.plan import Plan
from distilnb.engine.rundir import RunDir
from distilnb.engine.versions import add_version, check_upstream, version_secrets
from distilnb.llms.base import LLM
from distilnb.spec.check import check_graph
from distilnb.spec.files import PipelineFile, to_record
from distilnb.spec.graph import Graph
from distilnb.spec.parameters import with_parameters


class EditedPipeline(Protocol):
    """A pipeline, as far as a retry must know it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def description(self) -> str:
        """What it is for."""

    @property
    def llm(self) -> LLM | None:
        """Its default model."""

    @property
    def graph(self) -> Graph:
        """Its steps and edges."""


class Editing(NamedTuple):
    """Which version of each failed step does its rows, and the literal keys that these need, by their place."""

    versions: dict[str, int]
    secrets: dict[str, str]


def edit_steps(
    run: RunDir,
    plan: Plan,
    pipeline: EditedPipeline,
    steps: Sequence[str],
    *,
    parameters: Mapping[str, Any] | None,
    held_keys: Mapping[str, str] | None,
) -> Editing:
    """Write what `pipeline` edits of the failed `steps` as a version of the run.

    `held_keys` are the literal keys that a living runner holds, None when a new runner will be given all. Raises
    RunError when the pipeline differs upstream, and what a start raises: a missing column, key or server.
    """
    graph = with_parameters(pipeline.graph, parameters)
    check_upstream(plan, graph, steps)
    check_graph(graph)
    check_models(graph.keeping(steps), max_cost=plan.options.get("max_cost"))
    file = PipelineFile(pipeline.name, graph, description=pipeline.description, llm=pipeline.llm)
    versions = add_version(run, plan, graph, steps, text=to_record(file), held_keys=held_keys)
    return Editing(versions, version_secrets(graph, versions))

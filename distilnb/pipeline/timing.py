"""How long the requests of a preview took, by version: the reply cache tells what was said, not how long it took."""

from __future__ import annotations

from collections.abc import Mapping

from distilnb.engine.history import history_of
from distilnb.engine.preview import StepResult, reply_seconds
from distilnb.llms.base import LLM
from distilnb.pipeline.versions import prompt_steps
from distilnb.spec.graph import Graph
from distilnb.tasks.base import Task


class Timed:
    """Notes the seconds of the requests of each step's version, step by step as the preview goes on."""

    def __init__(self, pipeline: str, graph: Graph, versions: Mapping[str, int]) -> None:
        self._pipeline = pipeline
        self._versions = versions
        self._models: dict[str, LLM] = {
            name: task.llm
            for name, task in graph.steps.items()
            if isinstance(task, Task) and task.llm is not None
        }
        self._owner = {task: name for name, tasks in prompt_steps(graph).items() for task in tasks}

    def note(self, result: StepResult) -> None:
        """Keep what the newest requests to the step's model took: steps of a preview ask one after the other."""
        n_answers = int(result.counts.get("asked", 0) - result.counts.get("retries", 0))
        llm = self._models.get(result.name)
        if n_answers < 1 or llm is None or result.name not in self._owner:
            return
        seconds = reply_seconds(llm)[-n_answers:]
        owner = self._owner[result.name]
        history_of(self._pipeline).note_seconds(owner, self._versions[owner], llm.label, seconds)

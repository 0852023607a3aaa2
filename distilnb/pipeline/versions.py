"""Versions of prompts by name: `answer@2` is the second wording that the step `answer` was seen with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from distilnb.engine.history import Version, as_data, from_data, has_history, history_of
from distilnb.errors import SpecError, UnknownVersionError
from distilnb.llms.base import LLM
from distilnb.spec.draft import drafting
from distilnb.spec.files import PipelineFile
from distilnb.spec.graph import Graph
from distilnb.tasks.base import Task
from distilnb.tasks.wording import Wording, worded, wording_of


class Reference(NamedTuple):
    """A step and, perhaps, the number of a version of its prompt: `answer@2`; None is the current one."""

    step: str
    number: int | None = None

    def __str__(self) -> str:
        return self.step if self.number is None else f"{self.step}@{self.number}"


def read_reference(word: str, graph: Graph) -> Reference:
    """Return what a word like `answer` or `answer@2` names; raises UnknownStepError with the near match."""
    head, at, tail = word.rpartition("@")
    if word in graph.steps or not at or not tail.isascii() or not tail.isdecimal():
        return Reference(graph.step(word).name)
    return Reference(graph.step(head).name, int(tail))


# --- the prompts of a graph -----------------------------------------------------


def prompt_steps(graph: Graph) -> dict[str, list[str]]:
    """Return the steps that have a prompt, each with its tasks: itself, or those of several models behind a join."""
    found: dict[str, list[str]] = {}
    for name, step in graph.steps.items():
        if isinstance(step, Task):
            found[name] = [name]
        elif branches := branches_of(graph, name):
            found[name] = branches
    inner = {task for name, tasks in found.items() for task in tasks if task != name}
    return {name: tasks for name, tasks in found.items() if name not in inner}


def branches_of(graph: Graph, name: str) -> list[str]:
    """Return the tasks `name_1 … name_k` that ask one prompt of several models and meet in `name`; else none."""
    before = graph.predecessors(name) if graph.is_join(name) else []
    if before != [f"{name}_{number}" for number in range(1, len(before) + 1)]:
        return []
    tasks = [task for one in before if isinstance(task := graph.steps[one], Task)]
    is_one = len(tasks) == len(before) and len({wording_of(task).digest for task in tasks}) == 1
    return before if is_one else []


def tasks_of(graph: Graph, step: str) -> list[Task]:
    """Return the tasks of a step that has a prompt; raises SpecError for one that asks no model."""
    names = prompt_steps(graph).get(step)
    if names is None:
        kind = graph.step(step).kind()
        raise SpecError(
            f"Step {step!r} ({kind}) asks no model, so it has no versions.",
            f"These have: {list(prompt_steps(graph))}.",
        )
    tasks = [graph.steps[name] for name in names]
    assert all(isinstance(task, Task) for task in tasks)
    return tasks  # type: ignore[return-value]  # just asserted


def wordings(graph: Graph) -> dict[str, Wording]:
    """Return the wording of each step that has a prompt."""
    return {name: wording_of(tasks_of(graph, name)[0]) for name in prompt_steps(graph)}


# --- numbers --------------------------------------------------------------------


def number_all(pipeline: str, graph: Graph) -> dict[str, int]:
    """Return the version number of each step's prompt; a wording that was never seen gets the next."""
    found = wordings(graph)
    return history_of(pipeline).numbers(found) if found else {}


def note_preview(pipeline: str, graph: Graph) -> dict[str, int]:
    """Note that a preview uses the prompts of a graph, and return their numbers, those of branches too."""
    if numbers := number_all(pipeline, graph):
        history_of(pipeline).note_preview(numbers)
    return _with_tasks(graph, numbers)


def number_tasks(pipeline: str, graph: Graph) -> dict[str, int]:
    """Return what `number_all` does, also by the tasks of several models behind a join."""
    return _with_tasks(graph, number_all(pipeline, graph))


def _with_tasks(graph: Graph, numbers: Mapping[str, int]) -> dict[str, int]:
    return {task: numbers[name] for name, tasks in prompt_steps(graph).items() for task in (name, *tasks)}


def note_run(pipeline: str, graph: Graph, run_id: str) -> None:
    """Note that a run uses the prompts of a graph."""
    if numbers := number_all(pipeline, graph):
        history_of(pipeline).note_run(numbers, run_id)


def known_versions(pipeline: str, step: str) -> list[Version]:
    """Return the versions of a step that were seen so far."""
    return history_of(pipeline).versions(step) if has_history(pipeline) else []


def version_names(pipeline: str, graph: Graph) -> list[str]:
    """Return the names of all versions of a pipeline's prompts, such as `answer@2`; nothing is noted for it."""
    return [
        str(Reference(step, version.number))
        for step in prompt_steps(graph)
        for version in known_versions(pipeline, step)
    ]


# --- in a pipeline's file -------------------------------------------------------


def history_in_file(pipeline: str, graph: Graph) -> dict[str, list[dict[str, Any]]]:
    """Return the versions of a pipeline's prompts as its file holds them, by step."""
    found = {step: as_data(known_versions(pipeline, step)) for step in prompt_steps(graph)}
    return {step: versions for step, versions in found.items() if versions}


def adopt_history(file: PipelineFile) -> None:
    """Take over the versions that a file brings; numbers that are taken here stay."""
    steps = prompt_steps(file.graph)
    found = {step: from_data(data) for step, data in file.history.items() if step in steps}
    for step, versions in found.items():
        if versions:
            history_of(file.name).adopt(step, versions)


# --- going to another version ---------------------------------------------------


def with_version(pipeline: str, graph: Graph, reference: Reference) -> Graph:
    """Return the graph whose step has the wording of that version; its model and columns stay.

    Raises UnknownVersionError naming those that there are.
    """
    tasks = tasks_of(graph, reference.step)
    if reference.number is None:
        return graph
    number_all(pipeline, graph)  # the current one is among those to be named
    known = {version.number: version.wording for version in known_versions(pipeline, reference.step)}
    if reference.number not in known:
        names = [str(Reference(reference.step, number)) for number in known]
        nearest = min(known, key=lambda number: abs(number - (reference.number or 0)))
        raise UnknownVersionError(
            f"Step {reference.step!r} has no version {reference.number}; there is {', '.join(names)}.",
            f"Did you mean '{reference.step}@{nearest}'?",
        )
    wording = known[reference.number]
    with drafting(None):
        for task in tasks:
            if wording_of(task).digest != wording.digest:
                graph = graph.replacing(worded(task, wording))
    return graph


def models_of(graph: Graph, step: str) -> Mapping[str, LLM]:
    """Return the models that a step asks, by label."""
    return {task.llm.label: task.llm for task in tasks_of(graph, step) if task.llm is not None}

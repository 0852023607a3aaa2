"""A row as a task asks about it: its request, and whom it asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from distilnb.engine.apply import check_row
from distilnb.llms.base import LLM
from distilnb.llms.request import Request
from distilnb.rows import Row
from distilnb.tasks.base import Task


def render(task: Task, row: Row) -> Request:
    """Return the request of a row, with columns under the names that the task uses."""
    return renderer(task)(row)


def renderer(task: Task) -> Callable[[Row], Request]:
    """Return what renders the requests of many rows, with columns under the names that the task uses."""
    needed, request = task.needed(), task.requester()

    def render_row(row: Row) -> Request:
        for column in needed:
            if column not in row:
                check_row(task, row)  # tells it in words
        return request(task.seen(row))

    return render_row


def model_of(task: Task) -> LLM:
    """Return the model of a checked task."""
    if task.llm is None:
        task.check()
        raise AssertionError("a task without a model passed its check")
    return task.llm


def senders_of(task: Task) -> dict[str, LLM]:
    """Return the models that send for a task, by their place: the step's name where there is one, else a path.

    Paths are those of parameters: `answer.llm.1`, of a pool that is the first member of a pool `answer.llm.0.1`.
    """
    llm = model_of(task)
    return dict(_senders_at(f"{task.name}.llm", llm)) if llm.members else {task.name: llm}


def _senders_at(place: str, llm: LLM) -> Iterator[tuple[str, LLM]]:
    if not llm.members:
        yield place, llm
    for name, member in llm.members_at():
        yield from _senders_at(f"{place}.{name}", member)

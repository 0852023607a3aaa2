"""The wording of a task: its messages and schema, apart from who is asked, how often, and how replies are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distilnb.errors import SpecError
from distilnb.spec.base import dump_value
from distilnb.spec.digest import digest_of
from distilnb.tasks.base import Task

# What does not make the request: the model and the number of replies, the names of columns made, the reading of
# replies, and what only repeats the template.
NO_WORDS = (Task.model_fields.keys() - {"input_mappings"}) | {
    "columns",
    "function",
    "is_bare",
    "is_positional",
    "makes",
    "reads",
    "unlists_fields",
}


@dataclass(frozen=True)
class Wording:
    """What a version of a prompt is: the kind of task, and the fields (JSON-ready) that make its requests."""

    digest: str
    kind: str
    fields: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The wording as a person reads it: messages with their roles, then every other field."""
        told = [f"{role}:\n{template}" for role, template in self.fields.get("messages", ())]
        for name, value in self.fields.items():
            if name != "messages":
                shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
                told.append(f"{name}:\n{shown}")
        return "\n".join(told) or f"{self.kind} as it comes"


def wording_of(task: Task) -> Wording:
    """Return the wording of a task."""
    fields = {name: dump_value(value) for name, value in task.set_fields() if name not in NO_WORDS}
    if _is_ours(type(task)):
        return plain_wording(task.kind(), fields)
    return Wording(task.digest_without(NO_WORDS), task.kind(), fields)  # its code makes the messages too


def plain_wording(kind: str, fields: Mapping[str, Any]) -> Wording:
    """Return the wording of a task of the library, whose fields tell all of it."""
    return Wording(digest_of({"kind": kind, "fields": dict(fields)}), kind, dict(fields))


def _is_ours(kind: type[Task]) -> bool:
    return kind.__module__.startswith("distilnb.")


def worded(task: Task, wording: Wording) -> Task:
    """Return the task with another wording: model, replies and columns stay its own.

    Raises SpecError when the wording is that of another kind of task.
    """
    if wording.kind != task.kind():
        raise SpecError(
            f"That version of step {task.name!r} is a {wording.kind}; the step is a {task.kind()} now.",
            "Run the cell, or the verb, that made it.",
        )
    foreign = NO_WORDS.intersection(wording.fields)
    if (
        foreign
    ):  # of a file that somebody else wrote: a version must not bring a model, and its address, along
        raise SpecError(f"That version of step {task.name!r} holds {sorted(foreign)}, which are no words.")
    kept = {name: getattr(task, name) for name in task.model_fields_set if name in NO_WORDS}
    if "columns" in kept:  # they repeat the variables of the old template
        kept["columns"] = None
    return type(task)(**kept, **wording.fields)

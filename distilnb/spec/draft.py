"""The one mutable place of a graph: what a `with Pipeline() as p:` block collects until it ends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from distilnb.errors import DuplicateStepError, StepConnectionError


class Drafted(Protocol):
    """What a draft asks of a step; `spec/step.py` itself imports this file."""

    @property
    def name(self) -> str: ...
    def _take_name(self, name: str) -> None: ...


class Draft:
    """Steps in the order of their creation, and the edges between them."""

    def __init__(self) -> None:
        self.steps: dict[str, Any] = {}  # steps by name
        self.edges: list[tuple[str, str]] = []

    def add(self, step: Drafted) -> None:
        """Take a step that was made inside the block, naming it when it has no name."""
        if not step.name:
            step._take_name(self._free_name(type(step).__name__))
        if step.name in self.steps:
            raise DuplicateStepError(
                f"Two steps are named {step.name!r}.", "Give one of them another name: name='...'."
            )
        self.steps[step.name] = step

    def connect(self, before: Drafted, after: Drafted) -> None:
        """Let the rows of `before` flow into `after`."""
        for step in (before, after):
            if self.steps.get(step.name) is not step:
                raise StepConnectionError(
                    f"Step {step.name or type(step).__name__!r} does not belong to this pipeline.",
                    "Make it inside the same `with Pipeline()` block.",
                )
        if (before.name, after.name) not in self.edges:
            self.edges.append((before.name, after.name))

    def _free_name(self, class_name: str) -> str:
        base = snake_case(class_name)
        number = 0
        while f"{base}_{number}" in self.steps:
            number += 1
        return f"{base}_{number}"


_current: ContextVar[Draft | None] = ContextVar("distilnb_draft", default=None)


def current_draft() -> Draft | None:
    """Return the draft of the innermost open `with` block of this context, or None."""
    return _current.get()


@contextmanager
def drafting(draft: Draft | None) -> Iterator[None]:
    """Make `draft` the current one; None keeps steps made inside from joining any."""
    token = _current.set(draft)
    try:
        yield
    finally:
        _current.reset(token)


def snake_case(name: str) -> str:
    """Return a class name as a step name.

    >>> snake_case("LoadDataFromHub"), snake_case("FormatTextGenerationDPO")
    ('load_data_from_hub', 'format_text_generation_dpo')
    """
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return split.lower()

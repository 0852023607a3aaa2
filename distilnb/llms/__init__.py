"""WHO answers: one file a provider, and what they share: requests, replies, limits, prices, the catalogue.

Names are loaded when they are first used: the worker of a run pays for the models that the run asks. The names of
models stand in the registry (`distilnb/spec/registry.py`), and nowhere else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distilnb.llms.base import LLM
    from distilnb.llms.catalog import llm as llm


def __getattr__(name: str) -> type[LLM]:
    where = {} if name.startswith("_") else _where()
    if name in where:
        found: type[LLM] = getattr(import_module(where[name]), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_where())


def _where() -> dict[str, str]:
    from distilnb.spec.registry import (
        MODELS,  # it loads pydantic, which who asks for another module may not need
    )

    models = {name: path.partition(":")[0] for name, path in MODELS.items()}
    return {"LLM": "distilnb.llms.base", "llm": "distilnb.llms.catalog", **models}

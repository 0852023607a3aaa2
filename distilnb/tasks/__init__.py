"""WHAT to ask: prompt and parser pairs, pure and testable without a model; one file a family.

Names are loaded when they are first used: the worker of a run pays for the tasks that the run has.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distilnb.tasks.base import Task
    from distilnb.tasks.drawing import ImageGeneration
    from distilnb.tasks.embedding import EmbeddingGeneration
    from distilnb.tasks.function import task
    from distilnb.tasks.generation import TextGeneration, TextGenerationWithImage
    from distilnb.tasks.magpie import Magpie, MagpieGenerator, MagpieRows
    from distilnb.tasks.prometheus import PrometheusEval
    from distilnb.tasks.ultrafeedback import UltraFeedback

__all__ = [
    "EmbeddingGeneration",
    "ImageGeneration",
    "Magpie",
    "MagpieGenerator",
    "MagpieRows",
    "PrometheusEval",
    "Task",
    "TextGeneration",
    "TextGenerationWithImage",
    "UltraFeedback",
    "task",
]

_WHERE = {
    "EmbeddingGeneration": "embedding",
    "ImageGeneration": "drawing",
    "Magpie": "magpie",
    "MagpieGenerator": "magpie",
    "MagpieRows": "magpie",
    "PrometheusEval": "prometheus",
    "Task": "base",
    "TextGeneration": "generation",
    "TextGenerationWithImage": "generation",
    "UltraFeedback": "ultrafeedback",
    "task": "function",
}


def __getattr__(name: str) -> object:
    if name in _WHERE:
        return getattr(import_module(f"distilnb.tasks.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

"""WHO answers: one file a provider, and what they share: requests, replies, limits, prices, the catalogue.

Names are loaded when they are first used: the worker of a run pays for the models that the run asks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distilnb.llms.base import LLM
    from distilnb.llms.catalog import llm
    from distilnb.llms.gguf import LlamaCppLLM
    from distilnb.llms.mlx import MlxLLM
    from distilnb.llms.openai import OpenAILLM
    from distilnb.llms.rehearsal import RehearsalLLM
    from distilnb.llms.transformers import TransformersLLM
    from distilnb.llms.vllm_engine import vLLM

__all__ = [
    "LLM",
    "LlamaCppLLM",
    "MlxLLM",
    "OpenAILLM",
    "RehearsalLLM",
    "TransformersLLM",
    "llm",
    "vLLM",
]

_WHERE = {
    "LLM": "base",
    "LlamaCppLLM": "gguf",
    "MlxLLM": "mlx",
    "OpenAILLM": "openai",
    "RehearsalLLM": "rehearsal",
    "TransformersLLM": "transformers",
    "llm": "catalog",
    "vLLM": "vllm_engine",
}


def __getattr__(name: str) -> object:
    if name in _WHERE:
        return getattr(import_module(f"distilnb.llms.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

"""WHO answers: one file a provider, and what they share: requests, replies, limits, prices, the catalogue."""

from distilnb.llms.base import LLM
from distilnb.llms.catalog import llm
from distilnb.llms.openai import OpenAILLM
from distilnb.llms.rehearsal import RehearsalLLM

__all__ = ["LLM", "OpenAILLM", "RehearsalLLM", "llm"]

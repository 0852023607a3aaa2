"""The front ends of the server: one protocol each, all over one core."""

from collections.abc import Mapping

from .anthropic import Anthropic
from .cohere import Cohere
from .compatible import VLLM, Anyscale, Azure, Groq, HuggingFace, Mistral, Together
from .frontend import FrontEnd
from .gemini import Gemini
from .ollama import Ollama
from .openai import OpenAI

# By the first part of their paths.
FRONT_ENDS: Mapping[str, FrontEnd] = {
    front_end.name: front_end
    for front_end in (
        *(OpenAI(), Anthropic(), Anyscale(), Azure(), Cohere(), Gemini()),
        *(Groq(), HuggingFace(), Mistral(), Ollama(), Together(), VLLM()),
    )
}

__all__ = ["FRONT_ENDS", "FrontEnd"]

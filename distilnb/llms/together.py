"""Together's chat API: OpenAI's protocol with more ways to sample; log-probabilities by their number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from distilnb.llms.compatible import OPENAI_PARAMETERS, CompatibleLLM
from distilnb.llms.failures import TOO_LONG, UNKNOWN_MODEL, Sign, on
from distilnb.llms.parameters import Wire, as_list, names


class TogetherLLM(CompatibleLLM):
    """A chat model of Together (TOGETHER_API_KEY).

    >>> TogetherLLM(model="meta-llama/Llama-3.3-70B-Instruct-Turbo").label
    'together:meta-llama/Llama-3.3-70B-Instruct-Turbo'
    """

    provider: ClassVar[str] = "together"
    title: ClassVar[str] = "Together"
    url: ClassVar[str] = "https://api.together.ai/v1"
    other_hosts: ClassVar[tuple[str, ...]] = ("api.together.xyz",)
    url_variable: ClassVar[str] = "TOGETHER_BASE_URL"
    key_variable: ClassVar[str] = "TOGETHER_API_KEY"
    max_n: ClassVar[int | None] = 128
    parameters: ClassVar[Mapping[str, Wire]] = {
        **OPENAI_PARAMETERS,
        **names(
            stop=Wire("stop", as_list),
            # One field for both, the number of tokens told at each place; the second one counts.
            logprobs=Wire("logprobs", int),
            top_logprobs=Wire("logprobs"),
            top_k="top_k",
            min_p="min_p",
            repetition_penalty="repetition_penalty",
        ),
    }
    failures: ClassVar[tuple[Sign, ...]] = (
        Sign(TOO_LONG, on(400, 403, 422), words=r"context length|must be <= \d+"),
        Sign(UNKNOWN_MODEL, on(400, 403), code="model_not_available"),
    )

"""Groq's chat API: OpenAI's protocol, without penalties and log-probabilities, one reply a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from distilnb.llms.batches import BatchLimits
from distilnb.llms.chat import OPENAI_JSON_MODES, OPENAI_TEXT_MODES
from distilnb.llms.compatible import OPENAI_PARAMETERS, CompatibleLLM
from distilnb.llms.failures import NO_CREDIT, TOO_FAST, Sign, on
from distilnb.llms.parameters import Wire

_LACKS = ("frequency_penalty", "presence_penalty", "logprobs", "top_logprobs")


class GroqLLM(CompatibleLLM):
    """A chat model of Groq (GROQ_API_KEY).

    >>> GroqLLM(model="llama-3.3-70b-versatile").label
    'groq:llama-3.3-70b-versatile'
    """

    provider: ClassVar[str] = "groq"
    title: ClassVar[str] = "Groq"
    url: ClassVar[str] = "https://api.groq.com/openai/v1"
    url_variable: ClassVar[str] = "GROQ_BASE_URL"
    key_variable: ClassVar[str] = "GROQ_API_KEY"
    max_n: ClassVar[int | None] = 1
    batch_limits: ClassVar[BatchLimits | None] = BatchLimits(50_000, 200_000_000)
    batch_discount: ClassVar[float] = 0.5
    parameters: ClassVar[Mapping[str, Wire]] = {
        **{name: wire for name, wire in OPENAI_PARAMETERS.items() if name not in _LACKS},
        "max_new_tokens": Wire("max_completion_tokens"),
    }
    json_modes: ClassVar[tuple[str, ...]] = OPENAI_JSON_MODES
    text_modes: ClassVar[tuple[str, ...]] = OPENAI_TEXT_MODES
    failures: ClassVar[tuple[Sign, ...]] = (
        Sign(NO_CREDIT, on(400), code="blocked_api_access"),
        Sign(TOO_FAST, on(413), code="rate_limit_exceeded"),  # more tokens than a minute allows
        Sign(TOO_FAST, on(498), code="capacity_exceeded"),
    )

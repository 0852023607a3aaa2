"""Mistral's chat API: OpenAI's protocol, with another name for the seed and errors of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from distilnb.llms.chat import OPENAI_JSON_MODES, OPENAI_TEXT_MODES
from distilnb.llms.compatible import OPENAI_PARAMETERS, CompatibleLLM
from distilnb.llms.failures import TOO_LONG, UNKNOWN_MODEL, Sign, on
from distilnb.llms.parameters import Wire

_LACKS = ("logprobs", "top_logprobs")


class MistralLLM(CompatibleLLM):
    """A chat model of Mistral (MISTRAL_API_KEY). `endpoint` is 1.x's word for the server of `base_url`.

    >>> MistralLLM(model="open-mixtral-8x22b", endpoint="https://api.mistral.ai").endpoint
    'https://api.mistral.ai/v1'
    """

    provider: ClassVar[str] = "mistral"
    title: ClassVar[str] = "Mistral"
    url: ClassVar[str] = "https://api.mistral.ai/v1"
    url_variable: ClassVar[str] = "MISTRAL_BASE_URL"
    key_variable: ClassVar[str] = "MISTRAL_API_KEY"
    parameters: ClassVar[Mapping[str, Wire]] = {
        **{name: wire for name, wire in OPENAI_PARAMETERS.items() if name not in _LACKS},
        "seed": Wire("random_seed"),
    }
    json_modes: ClassVar[tuple[str, ...]] = OPENAI_JSON_MODES
    text_modes: ClassVar[tuple[str, ...]] = OPENAI_TEXT_MODES
    failures: ClassVar[tuple[Sign, ...]] = (
        Sign(UNKNOWN_MODEL, on(400), code="invalid_model|1500"),
        Sign(TOO_LONG, on(400), code="3051"),
        Sign(TOO_LONG, on(400, 422), words="too large for model with"),
    )

    def __init__(self, **values: Any) -> None:
        if "endpoint" in values:  # without the version, which the SDK adds
            values["base_url"] = f"{str(values.pop('endpoint')).rstrip('/')}/v1"
        super().__init__(**values)

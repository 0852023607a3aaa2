"""Anyscale Endpoints: OpenAI's protocol."""

from __future__ import annotations

from typing import ClassVar

from distilnb.llms.compatible import CompatibleLLM


class AnyscaleLLM(CompatibleLLM):
    """A chat model of Anyscale Endpoints, or of a service deployed with Anyscale (ANYSCALE_API_KEY).

    The public endpoints have been closed; a service of one's own has an address of its own, in `base_url` or in
    ANYSCALE_BASE_URL.

    >>> AnyscaleLLM(model="mistralai/Mixtral-8x7B-Instruct-v0.1").label
    'anyscale:mistralai/Mixtral-8x7B-Instruct-v0.1'
    """

    provider: ClassVar[str] = "anyscale"
    title: ClassVar[str] = "Anyscale"
    url: ClassVar[str] = "https://api.endpoints.anyscale.com/v1"
    url_variable: ClassVar[str] = "ANYSCALE_BASE_URL"
    key_variable: ClassVar[str] = "ANYSCALE_API_KEY"
    takes_images: ClassVar[frozenset[str]] = frozenset()
    json_modes: ClassVar[tuple[str, ...]] = ("json_object_schema", "json_object")
    text_modes: ClassVar[tuple[str, ...]] = ("json_object_schema",)

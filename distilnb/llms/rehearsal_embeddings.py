"""Vectors without a model: to rehearse a pipeline that embeds."""

from __future__ import annotations

import asyncio
import math
import re
from hashlib import blake2b
from random import Random
from typing import Any, ClassVar, Literal

from pydantic import Field

from distilnb.llms.base import LLM
from distilnb.llms.request import Answer, Client, Reply, Request
from distilnb.vectors import pack_vector


class RehearsalEmbeddings(LLM):
    """Vectors of length 1 that cost nothing: texts that share words lie closer together than others.

    >>> RehearsalEmbeddings().label
    'rehearsal'
    """

    provider: ClassVar[str] = "rehearsal"
    makes: ClassVar[Literal["text", "vector", "image"]] = "vector"
    is_local: ClassVar[bool] = True

    model: str = "rehearsal"
    dimensions: int = Field(default=64, ge=1)

    @property
    def label(self) -> str:
        """The short name in tables; every row carries it as the name of its model."""
        return self.provider

    def identity(self) -> dict[str, Any]:
        """Return what the vectors depend on."""
        return {**super().identity(), "dimensions": self.dimensions}

    def make_client(self) -> Client:
        """Return a client that answers in this process."""
        return _RehearsalClient(self)


class _RehearsalClient:
    def __init__(self, llm: RehearsalEmbeddings) -> None:
        self._llm = llm

    async def send(self, request: Request) -> Answer:
        await asyncio.sleep(0)  # so that others have their turn
        text = str(request.messages[0]["content"])
        vector = _vector_of(text, self._llm.dimensions)
        n_tokens = max(1, len(text) // 4)
        return Answer((Reply(pack_vector(vector), "stop", self._llm.label, n_tokens, 0),))

    async def close(self) -> None:
        """Hold nothing."""


def _vector_of(text: str, size: int) -> list[float]:
    """Return the sum of a drawn vector for each word, at length 1."""
    numbers = [0.0] * size
    for word in re.findall(r"\w+", text.lower()) or [text]:
        draw = Random(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest())
        numbers = [number + draw.gauss(0, 1) for number in numbers]
    length = math.hypot(*numbers) or 1.0
    return [number / length for number in numbers]

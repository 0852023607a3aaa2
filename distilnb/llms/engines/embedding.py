"""What engines that make vectors share: a batch of texts in, a packed vector each out."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from distilnb.errors import ModelError
from distilnb.llms.engines.base import Ask, BatchingEngine, Completed, Completion, text_messages
from distilnb.vectors import pack_vector


class Vector(NamedTuple):
    """What the library made of one text."""

    numbers: Sequence[float]
    n_tokens: int


class EmbeddingEngine(BatchingEngine):
    """An engine that embeds a batch at a time."""

    @property
    def max_batch(self) -> int:
        return int(self.settings["batch_size"])

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """Embed texts, in the engine's thread; raises ModelError for one that cannot be embedded."""

    def generate(self, asks: Sequence[Ask]) -> Sequence[Completed | Exception]:
        texts = [text_messages(ask.messages)[0]["content"] for ask in asks]
        try:
            return [self._completed(vector) for vector in self.embed(texts)]
        except ModelError as error:
            if len(asks) == 1:
                return [error]
        # One of them cannot be embedded: it alone fails.
        return [result for ask in asks for result in self.generate([ask])]

    def _completed(self, vector: Vector) -> Completed:
        self.moved()
        numbers = [float(number) for number in vector.numbers[: self.settings["dimensions"]]]
        if self.settings["normalize_embeddings"]:
            length = math.hypot(*numbers) or 1.0
            numbers = [number / length for number in numbers]
        return Completed([Completion(pack_vector(numbers), "stop", 0)], vector.n_tokens)

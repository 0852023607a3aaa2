"""What the embedding models have in common that run on this machine, in a model host."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from distilnb.llms.base import GENERATION_PARAMETERS
from distilnb.llms.local import LocalLLM
from distilnb.llms.shape import ReplyShape, ShapeKind


class LocalEmbeddings(LocalLLM):
    """An embedding model in its host, which is loaded once for all previews and runs.

    What waits is embedded together, `batch_size` texts at a time. `dimensions` keeps the first numbers of each vector,
    for models that were trained so that this makes sense; `normalize_embeddings` gives each the length 1.
    """

    makes: ClassVar[Literal["text", "vector", "image"]] = "vector"
    refused: ClassVar[frozenset[str]] = GENERATION_PARAMETERS
    forces: ClassVar[dict[ShapeKind, tuple[str, ...]]] = {}
    other_names: ClassVar[dict[str, str]] = {"token": "api_key", "truncate_dim": "dimensions"}

    # Twice the batch: as many are ready when one ends as it had.
    max_concurrency: int = Field(default=64, ge=1)
    batch_size: int = Field(default=32, ge=1)
    dimensions: int | None = Field(default=None, ge=1)
    normalize_embeddings: bool = False

    @property
    def reply_shape(self) -> ReplyShape | None:
        """A vector has no other shape."""
        return None

    def identity(self) -> dict[str, Any]:
        """Return what the vectors depend on."""
        chosen = {"dimensions": self.dimensions, "normalized": self.normalize_embeddings}
        return {**super().identity(), **chosen}

    def engine_settings(self) -> dict[str, Any]:
        """Return what the host loads."""
        ways = {name: getattr(self, name) for name in ("batch_size", "dimensions", "normalize_embeddings")}
        return {**super().engine_settings(), **ways}

"""Sentence Transformers in a model host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distilnb.llms.engines.embedding import EmbeddingEngine, Vector


class SentenceTransformersEngine(EmbeddingEngine):
    """An embedding model in Sentence Transformers."""

    model: Any

    def load(self) -> None:
        from sentence_transformers import SentenceTransformer

        settings = self.settings
        chosen = ("prompts", "default_prompt_name", "model_kwargs", "tokenizer_kwargs", "config_kwargs")
        self.model = SentenceTransformer(
            settings["model"],
            device="cpu" if settings["gpus"] == 0 else settings["device"],
            revision=settings["revision"],
            trust_remote_code=settings["trust_remote_code"],
            **{name: settings[name] for name in chosen if settings[name] is not None},
        )

    def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        vectors = self.model.encode(
            list(texts),
            batch_size=self.max_batch,
            precision=self.settings["precision"],
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        counts = self._count_tokens(texts)
        return [Vector(vector.tolist(), n_tokens) for vector, n_tokens in zip(vectors, counts, strict=True)]

    def _count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return what the model read of each text: the library cuts what is longer than its context."""
        mask = self.model.tokenize(list(texts)).get("attention_mask")
        return [0] * len(texts) if mask is None else [int(row.sum()) for row in mask]

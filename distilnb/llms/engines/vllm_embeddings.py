"""vLLM in a model host, for vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distilnb.errors import RefusedRequestError
from distilnb.llms.engines.embedding import EmbeddingEngine, Vector


class VllmEmbeddingEngine(EmbeddingEngine):
    """An embedding model in vLLM's offline engine, which batches within what it is given."""

    model: Any

    def load(self) -> None:
        from vllm import LLM

        settings = self.settings
        self.model = LLM(
            model=settings["model"],
            runner="pooling",
            revision=settings["revision"],
            dtype=settings["dtype"],
            quantization=settings["quantization"],
            trust_remote_code=settings["trust_remote_code"],
            enforce_eager=settings["enforce_eager"],
            seed=settings["seed"],
            **(settings["extra_kwargs"] or {}),
        )

    def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        from vllm.exceptions import VLLMValidationError

        try:
            made = self.model.embed(list(texts), use_tqdm=False)
        except (ValueError, VLLMValidationError) as error:  # for a text that is too long
            raise RefusedRequestError(f"vLLM refused a text: {error}", "Shorten the text.") from error
        return [Vector(one.outputs.embedding, len(one.prompt_token_ids)) for one in made]

"""vLLM in a model host, for vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distilnb.errors import RefusedRequestError
from distilnb.llms.engines.embedding import EmbeddingEngine, Vector
from distilnb.llms.engines.vllm import set_environment


class VllmEmbeddingEngine(EmbeddingEngine):
    """An embedding model in vLLM's offline engine, which batches within what it is given."""

    model: Any

    def load(self) -> None:
        settings = self.settings
        extra = settings["extra_kwargs"] or {}
        set_environment(
            int(extra.get("tensor_parallel_size") or 1) * int(extra.get("pipeline_parallel_size") or 1)
        )
        from vllm import LLM

        self.model = LLM(
            model=settings["model"],
            runner="pooling",
            revision=settings["revision"],
            dtype=settings["dtype"],
            quantization=settings["quantization"],
            trust_remote_code=settings["trust_remote_code"],
            enforce_eager=settings["enforce_eager"],
            seed=settings["seed"],
            **extra,
        )

    def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        try:
            made = self.model.embed(list(texts), use_tqdm=False)
        except _refusals() as error:  # a text that is too long
            raise RefusedRequestError(f"vLLM refused a text: {error}", "Shorten the text.") from error
        return [Vector(one.outputs.embedding, len(one.prompt_token_ids)) for one in made]


def _refusals() -> tuple[type[Exception], ...]:
    """Return what vLLM raises for a text that it does not take; older releases have only ValueError."""
    try:
        from vllm.exceptions import VLLMValidationError
    except ImportError:
        return (ValueError,)
    return (ValueError, VLLMValidationError)

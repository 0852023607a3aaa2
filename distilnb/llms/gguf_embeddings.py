"""Embedding models in GGUF files, in llama.cpp, in this machine's model host."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from distilnb.llms.local_embeddings import LocalEmbeddings


class LlamaCppEmbeddings(LocalEmbeddings):
    """A GGUF file in llama.cpp that makes vectors: on the CPU, and on GPUs with `n_gpu_layers` (-1: all layers).

    `model_path` and `model` are two names of one field. A text that is longer than the context (`n_ctx` tokens, 0:
    what the model was trained with) is refused.

    >>> LlamaCppEmbeddings(model_path="models/all-minilm-l6-v2.gguf").label
    'gguf:all-minilm-l6-v2.gguf'
    """

    provider: ClassVar[str] = "gguf"
    token_variable: ClassVar[str] = ""
    engine: ClassVar[str] = "distilnb.llms.engines.llamacpp_embeddings:LlamaCppEmbeddingEngine"
    package: ClassVar[str] = "llama_cpp"
    extra_name: ClassVar[str] = "llama-cpp"
    other_names: ClassVar[dict[str, str]] = {"model_path": "model"}
    engine_fields: ClassVar[tuple[str, ...]] = ("n_gpu_layers", "n_ctx", "n_batch", "extra_kwargs")
    reply_fields: ClassVar[tuple[str, ...]] = ("n_ctx", "extra_kwargs")

    n_gpu_layers: int = -1
    n_ctx: int = Field(default=512, ge=0)
    n_batch: int = Field(default=512, ge=1)
    extra_kwargs: dict[str, Any] | None = None

    @property
    def model_path(self) -> str:
        """The path of the file."""
        return self.model

    def paths(self) -> list[str]:
        """Return the file."""
        return [self.model]

    def engine_settings(self) -> dict[str, Any]:
        """Return what the host loads."""
        return {**super().engine_settings(), "may_spread": True}

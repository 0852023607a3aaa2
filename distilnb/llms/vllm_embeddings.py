"""Embedding models in vLLM's own engine, in this machine's model host."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from distilnb.llms.local_embeddings import LocalEmbeddings


class vLLMEmbeddings(LocalEmbeddings):
    """An embedding model of the Hub, or of a folder, in vLLM.

    `cuda_devices` names GPUs, as `gpus` does; "auto" leaves the choice. `extra_kwargs` are arguments of vLLM's `LLM`.

    >>> vLLMEmbeddings(model="intfloat/e5-mistral-7b-instruct").label
    'vllm_engine:intfloat/e5-mistral-7b-instruct'
    """

    provider: ClassVar[str] = "vllm_engine"
    engine: ClassVar[str] = "distilnb.llms.engines.vllm_embeddings:VllmEmbeddingEngine"
    package: ClassVar[str] = "vllm"
    extra_name: ClassVar[str] = "vllm"
    engine_fields: ClassVar[tuple[str, ...]] = (
        "revision",
        "dtype",
        "quantization",
        "trust_remote_code",
        "enforce_eager",
        "seed",
        "extra_kwargs",
    )
    reply_fields: ClassVar[tuple[str, ...]] = ("revision", "dtype", "quantization", "extra_kwargs")

    max_concurrency: int = Field(default=512, ge=1)
    batch_size: int = Field(default=256, ge=1)
    revision: str | None = None
    dtype: str = "auto"
    quantization: str | None = None
    trust_remote_code: bool = False
    enforce_eager: bool = False
    seed: int = 0
    cuda_devices: list[int] | Literal["auto"] = "auto"
    extra_kwargs: dict[str, Any] | None = None

    def engine_settings(self) -> dict[str, Any]:
        """Return what the host loads."""
        named = None if self.cuda_devices == "auto" else list(self.cuda_devices)
        gpus = self.gpus if self.gpus is not None else named
        return {**super().engine_settings(), "gpus": gpus}

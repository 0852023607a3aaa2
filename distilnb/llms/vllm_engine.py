"""Models in vLLM's own engine, in this machine's model host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from distilnb.errors import UnsupportedParameterError
from distilnb.llms.local import LocalLLM


class vLLM(LocalLLM):
    """A chat model of the Hub, or of a folder, in vLLM: requests join the running batch as they come.

    `cuda_devices` names GPUs, as `gpus` does; "auto" leaves the choice. `tensor_parallel_size` GPUs share the
    model. Prefixes that prompts have in common are computed once. `extra_kwargs` are arguments of vLLM's engine.

    >>> vLLM(model="Qwen/Qwen3-0.6B").label
    'vllm_engine:Qwen/Qwen3-0.6B'
    """

    provider: ClassVar[str] = "vllm_engine"
    engine: ClassVar[str] = "distilnb.llms.engines.vllm:VllmEngine"
    package: ClassVar[str] = "vllm"
    extra_name: ClassVar[str] = "vllm"
    own_parameters: ClassVar[frozenset[str]] = frozenset({"repetition_penalty", "stop_token_ids"})
    engine_fields: ClassVar[tuple[str, ...]] = (
        "revision",
        "dtype",
        "quantization",
        "tokenizer",
        "tokenizer_mode",
        "tokenizer_revision",
        "chat_template",
        "trust_remote_code",
        "seed",
        "tensor_parallel_size",
        "extra_kwargs",
    )
    reply_fields: ClassVar[tuple[str, ...]] = (
        "revision",
        "dtype",
        "quantization",
        "tokenizer",
        "tokenizer_revision",
        "chat_template",
        "extra_kwargs",
    )

    max_concurrency: int = Field(default=256, ge=1)
    revision: str | None = None
    dtype: str = "auto"
    quantization: str | None = None
    tokenizer: str | None = None
    tokenizer_mode: str = "auto"
    tokenizer_revision: str | None = None
    chat_template: str | None = None
    trust_remote_code: bool = False
    seed: int = 0
    tensor_parallel_size: int = Field(default=1, ge=1)
    cuda_devices: list[int] | Literal["auto"] = "auto"
    extra_kwargs: dict[str, Any] | None = None
    use_magpie_template: bool = False
    magpie_pre_query_template: str | None = None

    def check_parameters(self) -> None:
        """Raise UnsupportedParameterError also for `data_parallel_size` in `extra_kwargs`: one host is one engine."""
        super().check_parameters()
        if int((self.extra_kwargs or {}).get("data_parallel_size") or 1) > 1:
            raise UnsupportedParameterError(
                "extra_kwargs holds data_parallel_size; a model host feeds one engine, and leaves the others idle.",
                "Start vLLM's server with it and ask that: dn.llm('vllm:MODEL', base_url=...).",
                provider=self.provider,
            )

    @property
    def pre_query_template(self) -> str:
        """What Magpie's requests are written with."""
        return self.magpie_pre_query_template or ""

    def engine_settings(self) -> dict[str, Any]:
        """Return what the host loads."""
        settings: Mapping[str, Any] = super().engine_settings()
        named = None if self.cuda_devices == "auto" else list(self.cuda_devices)
        gpus = self.gpus if self.gpus is not None else named
        return {**settings, "gpus": gpus, "n_devices": self.tensor_parallel_size}

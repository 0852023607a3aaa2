"""Models in GGUF files, in llama.cpp, in this machine's model host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from distilnb.llms.local import LocalLLM


class LlamaCppLLM(LocalLLM):
    """A GGUF file in llama.cpp: on the CPU, and on GPUs with `n_gpu_layers` (-1: all layers).

    `model_path` and `model` are two names of one field. One reply is made at a time, with what the last prompt had
    in common with this one kept. `n_ctx` is the context in tokens, 0: what the model was trained with.

    >>> LlamaCppLLM(model_path="models/qwen3-0.6b.gguf").label
    'gguf:qwen3-0.6b.gguf'
    """

    provider: ClassVar[str] = "gguf"
    token_variable: ClassVar[str] = ""
    engine: ClassVar[str] = "distilnb.llms.engines.llamacpp:LlamaCppEngine"
    package: ClassVar[str] = "llama_cpp"
    extra_name: ClassVar[str] = "llama-cpp"
    own_parameters: ClassVar[frozenset[str]] = frozenset({"repetition_penalty"})
    other_names: ClassVar[Mapping[str, str]] = {"model_path": "model"}
    engine_fields: ClassVar[tuple[str, ...]] = (
        "n_gpu_layers",
        "n_ctx",
        "n_batch",
        "chat_format",
        "chat_template",
        "extra_kwargs",
    )
    reply_fields: ClassVar[tuple[str, ...]] = ("n_ctx", "chat_format", "chat_template", "extra_kwargs")

    max_concurrency: int = Field(default=4, ge=1)
    n_gpu_layers: int = -1
    n_ctx: int = Field(default=4096, ge=0)
    n_batch: int = Field(default=512, ge=1)
    chat_format: str | None = None
    chat_template: str | None = None
    extra_kwargs: dict[str, Any] | None = None
    use_magpie_template: bool = False
    magpie_pre_query_template: str | None = None

    @property
    def pre_query_template(self) -> str:
        """What Magpie's requests are written with."""
        return self.magpie_pre_query_template or ""

    @property
    def model_path(self) -> str:
        """The path of the file."""
        return self.model

    def paths(self) -> list[str]:
        """Return the file."""
        return [self.model]

    def engine_settings(self) -> dict[str, Any]:
        """Return what the host loads; log probabilities cost memory, and are made possible where they are asked for."""
        wants_logprobs = bool(self.generation_kwargs.get("logprobs"))
        # llama.cpp spreads the layers by itself over all that it sees.
        return {**super().engine_settings(), "logits_all": wants_logprobs, "may_spread": True}

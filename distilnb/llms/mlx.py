"""Models in MLX, on Apple's processors, in this machine's model host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from distilnb.llms.local import LocalLLM
from distilnb.llms.shape import ShapeKind


class MlxLLM(LocalLLM):
    """A chat model of the Hub, or of a folder, in mlx-lm. `path_or_hf_repo` and `model` are two names of one field.

    >>> MlxLLM(path_or_hf_repo="mlx-community/Qwen3-0.6B-4bit").label
    'mlx:mlx-community/Qwen3-0.6B-4bit'
    """

    provider: ClassVar[str] = "mlx"
    engine: ClassVar[str] = "distilnb.llms.engines.mlx:MlxEngine"
    package: ClassVar[str] = "mlx_lm"
    extra_name: ClassVar[str] = "mlx"
    refused: ClassVar[frozenset[str]] = frozenset(
        {"frequency_penalty", "presence_penalty", "logprobs", "top_logprobs"}
    )
    own_parameters: ClassVar[frozenset[str]] = frozenset({"repetition_penalty"})
    forces: ClassVar[Mapping[ShapeKind, tuple[str, ...]]] = {}
    other_names: ClassVar[Mapping[str, str]] = {"token": "api_key", "path_or_hf_repo": "model"}
    engine_fields: ClassVar[tuple[str, ...]] = (
        "tokenizer_config",
        "mlx_model_config",
        "adapter_path",
        "chat_template",
    )
    reply_fields: ClassVar[tuple[str, ...]] = engine_fields

    max_concurrency: int = Field(default=4, ge=1)
    tokenizer_config: dict[str, Any] | None = None
    mlx_model_config: dict[str, Any] | None = None
    adapter_path: str | None = None
    chat_template: str | None = None
    use_magpie_template: bool = False
    magpie_pre_query_template: str | None = None

    @property
    def pre_query_template(self) -> str:
        """What Magpie's requests are written with."""
        return self.magpie_pre_query_template or ""

    @property
    def path_or_hf_repo(self) -> str:
        """The model's name or path."""
        return self.model

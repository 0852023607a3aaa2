"""Models in Hugging Face Transformers, in this machine's model host."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, ClassVar

from pydantic import Field

from distilnb.llms.local import LocalLLM
from distilnb.llms.shape import ReplyShape


class TransformersLLM(LocalLLM):
    """A chat model of the Hub, or of a folder, in Transformers.

    What waits is answered together, at most `batch_size` replies at a time. `device` and `device_map` go to
    Transformers as they are; without them the model lies on one GPU, or on as many as it needs. Shapes are forced
    where the package `xgrammar` is installed.

    >>> TransformersLLM(model="Qwen/Qwen3-0.6B").label
    'transformers:Qwen/Qwen3-0.6B'
    """

    provider: ClassVar[str] = "transformers"
    engine: ClassVar[str] = "distilnb.llms.engines.transformers:TransformersEngine"
    package: ClassVar[str] = "transformers"
    extra_name: ClassVar[str] = "hf-transformers"
    own_parameters: ClassVar[frozenset[str]] = frozenset({"repetition_penalty", "stop_token_ids"})
    engine_fields: ClassVar[tuple[str, ...]] = (
        "revision",
        "torch_dtype",
        "device",
        "device_map",
        "model_kwargs",
        "tokenizer",
        "chat_template",
        "trust_remote_code",
        "batch_size",
    )
    reply_fields: ClassVar[tuple[str, ...]] = (
        "revision",
        "torch_dtype",
        "model_kwargs",
        "tokenizer",
        "chat_template",
    )

    # Twice the batch: as many are ready when one ends as it had.
    max_concurrency: int = Field(default=64, ge=1)
    batch_size: int = Field(default=32, ge=1)
    revision: str | None = None
    torch_dtype: str = "auto"
    device: str | int | None = None
    device_map: str | dict[str, Any] | None = None
    model_kwargs: dict[str, Any] | None = None
    tokenizer: str | None = None
    chat_template: str | None = None
    trust_remote_code: bool = False
    use_magpie_template: bool = False
    magpie_pre_query_template: str | None = None

    @property
    def pre_query_template(self) -> str:
        """What Magpie's requests are written with."""
        return self.magpie_pre_query_template or ""

    def engine_settings(self) -> dict[str, Any]:
        """Return what the host loads."""
        is_placed = self.device is not None or self.device_map is not None
        return {**super().engine_settings(), "may_spread": not is_placed}

    def shape_modes(self, shape: ReplyShape) -> tuple[str, ...]:
        """Return how replies can be held to a shape: by a grammar, where the package for it is there."""
        return super().shape_modes(shape) if find_spec("xgrammar") else ()

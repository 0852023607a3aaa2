"""Embedding models in Sentence Transformers, in this machine's model host."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from distilnb.llms.local_embeddings import LocalEmbeddings


class SentenceTransformerEmbeddings(LocalEmbeddings):
    """An embedding model of the Hub, or of a folder, in Sentence Transformers.

    `prompts` names texts that may stand before each text, and `default_prompt_name` the one that does. `precision` is
    "float32", or "binary" and "ubinary" for eight signs a number. Smaller numbers, which the library fits to the batch
    that they happen to be in, are not offered: the vector of a text would depend on its neighbours.

    >>> SentenceTransformerEmbeddings(model="mixedbread-ai/mxbai-embed-large-v1").label
    'sentence-transformers:mixedbread-ai/mxbai-embed-large-v1'
    """

    provider: ClassVar[str] = "sentence-transformers"
    engine: ClassVar[str] = "distilnb.llms.engines.sentence_transformers:SentenceTransformersEngine"
    package: ClassVar[str] = "sentence_transformers"
    extra_name: ClassVar[str] = "sentence-transformers"
    engine_fields: ClassVar[tuple[str, ...]] = (
        "revision",
        "device",
        "prompts",
        "default_prompt_name",
        "precision",
        "model_kwargs",
        "tokenizer_kwargs",
        "config_kwargs",
        "trust_remote_code",
    )
    reply_fields: ClassVar[tuple[str, ...]] = (
        "revision",
        "prompts",
        "default_prompt_name",
        "precision",
        "model_kwargs",
        "tokenizer_kwargs",
        "config_kwargs",
    )

    revision: str | None = None
    device: str | None = None
    prompts: dict[str, str] | None = None
    default_prompt_name: str | None = None
    precision: Literal["float32", "binary", "ubinary"] = "float32"
    model_kwargs: dict[str, Any] | None = None
    tokenizer_kwargs: dict[str, Any] | None = None
    config_kwargs: dict[str, Any] | None = None
    trust_remote_code: bool = False

    def code_fields(self) -> list[str]:
        """Return the names of those fields that make the library import code, or may: files cannot set them."""
        more = [name for name in ("tokenizer_kwargs", "config_kwargs") if getattr(self, name)]
        return [*super().code_fields(), *more]

"""llama.cpp in a model host, for vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distilnb.errors import RefusedRequestError
from distilnb.llms.engines.embedding import EmbeddingEngine, Vector


class LlamaCppEmbeddingEngine(EmbeddingEngine):
    """A GGUF file in llama-cpp-python."""

    model: Any

    def load(self) -> None:
        from llama_cpp import Llama

        settings = self.settings
        self.model = Llama(
            model_path=settings["model"],
            embedding=True,
            n_gpu_layers=0 if settings["gpus"] == 0 else settings["n_gpu_layers"],
            n_ctx=settings["n_ctx"],
            n_batch=settings["n_batch"],
            n_ubatch=settings["n_batch"],  # a text is embedded in one piece
            verbose=False,
            **(settings["extra_kwargs"] or {}),
        )

    def unload(self) -> None:
        self.model.close()

    def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        return [self._embed_one(text) for text in texts]

    def _embed_one(self, text: str) -> Vector:
        n_tokens = len(self.model.tokenize(text.encode("utf-8", "replace")))
        n_most = min(self.model.n_ctx(), int(self.settings["n_batch"]))
        if n_tokens > n_most:  # the library would cut it without a word
            raise RefusedRequestError(
                f"The text has {n_tokens} tokens; the model reads {n_most} at once.",
                "Shorten the text, or raise n_ctx= and n_batch= if the model was trained with more.",
            )
        made = self.model.embed(text)
        if made and isinstance(made[0], list):  # a vector for each token: the model has no pooling of its own
            made = [sum(column) / len(made) for column in zip(*made, strict=True)]
        return Vector(made, n_tokens)

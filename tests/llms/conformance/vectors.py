"""The parts of docs/llms.md on models that make vectors and images, made from their classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from distilnb.llms.base import LLM
from distilnb.llms.local import LocalLLM
from distilnb.spec.registry import load_kind

HEAD = """
## Embedding models

They make a vector of each row's text: `p.embed("instruction", model="openai:text-embedding-3-small")`, or the step
`EmbeddingGeneration(embeddings=...)`. A vector is kept like any reply: the same text of the same model is paid for
once. `batch_size` texts share a request; `dimensions`, prefixes and normalizing are fields of the classes and the step.
Any server with OpenAI's embeddings is asked with `OpenAIEmbeddings(base_url=...)`. `make test-engines` holds the
real libraries of the local ones to their tests, on a tiny model.
"""


IMAGE_HEAD = """
## Models that draw

They make an image of each row's prompt: `p.ask(ImageGeneration(image_generation_model="openai:gpt-image-1"))`. Their
generation parameters are those of the images (`size`, `quality`, `width`, `num_inference_steps` …). An image is kept
like any reply: a run that goes on, or a later one, pays for none twice.
"""


def class_table(kinds: Iterable[str], providers: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Return the rows of the table of some classes, its head first."""
    rows: list[tuple[str, ...]] = [("class", "by name", "extra to install", "runs", "key")]
    for kind in kinds:
        cls = load_kind(kind)
        assert issubclass(cls, LLM)
        names = ", ".join(f"`{name}:`" for name, named in providers.items() if named == kind)
        extra = f'`pip install "distilnb[{cls.extra_name}]"`' if cls.extra_name else "–"
        where = (
            "here, in its host" if issubclass(cls, LocalLLM) else "here" if cls.is_local else "on a server"
        )
        key = f"`{cls.key_variable}`" if cls.key_variable else "–"
        rows.append((f"`{kind}`", names, extra, where, key))
    return rows

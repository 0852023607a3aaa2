"""The same behaviour of every real engine that makes vectors, on the tiny model, through the model host."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from distilnb.errors import RefusedRequestError
from distilnb.llms import LlamaCppEmbeddings, SentenceTransformerEmbeddings, vLLMEmbeddings
from distilnb.llms.calling import answer_now
from distilnb.llms.local_embeddings import LocalEmbeddings
from distilnb.llms.request import Reply, Request
from distilnb.pipeline import Pipeline
from distilnb.vectors import unpack_vector

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

ENGINES = ["sentence_transformers", "llama_cpp", "vllm"]
Make = Callable[..., LocalEmbeddings]


@pytest.fixture(params=ENGINES)
def make(request: pytest.FixtureRequest, tiny_model: Path) -> Make:
    """Return what makes the tiny model for an engine."""
    if find_spec(request.param) is None:
        pytest.skip(f"the package {request.param!r} is not installed")
    if request.param == "sentence_transformers":
        return lambda **fields: SentenceTransformerEmbeddings(model=str(tiny_model), **fields)
    if request.param == "llama_cpp":
        gguf = request.getfixturevalue("tiny_gguf")
        return lambda **fields: LlamaCppEmbeddings(model_path=str(gguf), **fields)
    extra = {"max_model_len": 512, "max_num_seqs": 16}
    return lambda **fields: vLLMEmbeddings(
        model=str(tiny_model), enforce_eager=True, extra_kwargs=extra, **fields
    )


def reply_of(model: LocalEmbeddings, text: str) -> Reply:
    model.check()
    [reply] = answer_now(model, Request(({"role": "user", "content": text},))).replies
    return reply


def vector_of(model: LocalEmbeddings, text: str) -> list[float]:
    return unpack_vector(reply_of(model, text).text or "")


def cosine(one: list[float], other: list[float]) -> float:
    together = sum(a * b for a, b in zip(one, other, strict=True))
    return together / (math.hypot(*one) * math.hypot(*other))


def test_a_text_has_the_same_vector_whatever_is_embedded_beside_it(make: Make) -> None:
    texts = ["Name three uses of argon.", "Name a bird.", *(f"word {n} " * n for n in range(1, 30))]
    alone = vector_of(make(), texts[0])
    rows: list[dict[str, Any]] = [{"text": text} for text in texts]
    together = Pipeline("beside").from_dicts(rows).embed("text", model=make(batch_size=8)).preview(31)
    made = {row["text"]: row["embedding"] for row in together.rows}
    assert len(made) == len(texts)
    assert cosine(made[texts[0]], alone) > 0.999
    assert cosine(made[texts[0]], made[texts[1]]) < 0.999


def test_vectors_are_normalized_and_shortened_as_asked(make: Make) -> None:
    plain, unit = vector_of(make(), "kite"), vector_of(make(normalize_embeddings=True), "kite")
    assert math.hypot(*unit) == pytest.approx(1.0, abs=1e-4)
    assert cosine(plain, unit) == pytest.approx(1.0, abs=1e-3)
    assert len(vector_of(make(dimensions=16), "kite")) == 16


def test_the_tokens_of_a_text_are_counted(make: Make) -> None:
    short, long = reply_of(make(), "one"), reply_of(make(), "one two three four five six seven eight")
    assert short.input_tokens
    assert long.input_tokens
    assert 0 < short.input_tokens < long.input_tokens
    assert short.output_tokens == 0


def test_a_text_beyond_the_context_is_refused_or_cut_as_the_library_says(make: Make) -> None:
    text = "word " * 2000
    if isinstance(make(), SentenceTransformerEmbeddings):  # which cuts
        tokens = reply_of(make(), text).input_tokens
        assert tokens
        return
    with pytest.raises(RefusedRequestError):
        vector_of(make(), text)

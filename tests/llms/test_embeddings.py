"""Embedding models: the request, the vectors, the errors; and what names stand for which."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from distilnb.errors import (
    AuthenticationError,
    MalformedReplyError,
    MissingKeyError,
    ParseError,
    SpecError,
    StepRowError,
    UnknownKindError,
    UnknownModelError,
    UnknownParameterError,
    UnsupportedParameterError,
)
from distilnb.llms import LlamaCppEmbeddings, OpenAIEmbeddings, OpenAILLM, RehearsalEmbeddings
from distilnb.llms.base import LLM
from distilnb.llms.catalog import as_embeddings, embeddings
from distilnb.llms.failures import Target
from distilnb.llms.openai_embeddings import read_vectors
from distilnb.llms.prices import price_of
from distilnb.spec.registry import EMBEDDINGS, build, load_kind
from distilnb.tasks import EmbeddingGeneration, TextGeneration
from distilnb.vectors import pack_vector, unpack_vector
from tests.llms.conformance.providers import CANARY, call
from tests.llms.scripted import ask
from tests.servers import MockLLM, mock_llm

TARGET = Target("openai", "m", "here")


def model(server: MockLLM, **fields: Any) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(**{"model": "mock-model", "base_url": server.base_url, **fields})


def vectors(llm: LLM, *texts: str) -> list[list[float]]:
    return [unpack_vector(answer.replies[0].text or "") for answer in call(llm, *map(ask, texts))]


# --- what goes out, what comes back ---


@pytest.mark.parametrize("transport", ["aiohttp", "sdk"])
def test_texts_go_out_together_and_vectors_come_back_in_their_order(transport: str) -> None:
    with mock_llm(record=10) as server:
        made = vectors(model(server, dimensions=8, batch_size=2, transport=transport), "a", "b", "c")
        [alone] = vectors(model(server, dimensions=8), "b")
        bodies = [seen["body"] for seen in server.seen()]
    assert [len(vector) for vector in made] == [8, 8, 8]
    assert made[1] == alone
    assert math.hypot(*made[0]) == pytest.approx(1.0, abs=1e-5)
    shared = {"model": "mock-model", "encoding_format": "base64", "dimensions": 8}
    both = sorted(bodies[:2], key=lambda body: str(body["input"]))  # they are on their way at the same time
    assert both == [{**shared, "input": ["a", "b"]}, {**shared, "input": ["c"]}]


def test_both_transports_send_the_same() -> None:
    with mock_llm(record=10) as server:
        for transport in ("aiohttp", "sdk"):
            given = {"user": "u", "extra": {"truncate": True}}
            vectors(model(server, transport=transport, api_key=CANARY, generation_kwargs=given), "é", "x")
        first, second = server.seen()
    assert first["body"] == second["body"]
    assert (first["body"]["user"], first["body"]["truncate"]) == ("u", True)
    assert first["headers"]["authorization"] == second["headers"]["authorization"] == f"Bearer {CANARY}"


def test_the_tokens_of_a_request_are_shared_out() -> None:
    raw = json.dumps(
        {
            "data": [{"index": 1, "embedding": [1, 0]}, {"index": 0, "embedding": pack_vector([0.0, 0.5])}],
            "usage": {"prompt_tokens": 5, "total_tokens": 5},
            "model": "served",
        }
    )
    first, second = read_vectors(raw.encode(), TARGET).replies
    assert [unpack_vector(first.text or ""), unpack_vector(second.text or "")] == [[0.0, 0.5], [1.0, 0.0]]
    assert (first.input_tokens, second.input_tokens, first.output_tokens) == (3, 2, 0)
    assert first.model == "served"


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"{}",
        b'{"data": [{"index": 0}]}',
        b'{"data": [{"index": 1, "embedding": [1.0]}]}',
        b'{"data": [{"index": 0, "embedding": []}]}',
        b'{"data": [{"index": 0, "embedding": ["a"]}]}',
        b'{"data": [{"index": 0, "embedding": "AAA="}]}',
    ],
)
def test_what_is_no_answer_with_vectors_is_said_so(body: bytes) -> None:
    with pytest.raises(MalformedReplyError, match="holds no embeddings"):
        read_vectors(body, TARGET)


def test_errors_are_those_of_all_models() -> None:
    with mock_llm(require_key="right", known_models_only=True) as server:
        with pytest.raises(AuthenticationError) as told:
            vectors(model(server, api_key="wrong-key-1234"), "a", "b")
        assert "wrong-key-1234" not in str(told.value)
        assert server.stats()["rejected_401"] == 1
        with pytest.raises(UnknownModelError):
            vectors(model(server, api_key="right", model="nobody"), "a")


# --- as data ---


def test_what_changes_a_vector_is_in_the_identity_and_nothing_else() -> None:
    plain = OpenAIEmbeddings(model="m")
    assert plain.identity() != OpenAILLM(model="m").identity()
    assert plain.identity() != OpenAIEmbeddings(model="m", dimensions=9).identity()
    same = OpenAIEmbeddings(model="m", batch_size=3, max_concurrency=1, rpm=5, api_key="k")
    assert (plain.identity(), plain.digest) == (same.identity(), same.digest)


@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_a_model_comes_back_from_what_it_writes_down(kind: str) -> None:
    made = load_kind(kind)(model="some/model.gguf")
    assert build(made.dump()) == made
    assert isinstance(made, LLM)
    assert made.makes == "vector"


def test_a_generation_parameter_makes_no_sense_and_is_refused_by_name() -> None:
    given = OpenAIEmbeddings(model="m", api_key="k", generation_kwargs={"temperature": 0.5})
    with pytest.raises(UnsupportedParameterError, match="temperature"):
        given.check()
    with pytest.raises(UnsupportedParameterError, match="seed"):
        LlamaCppEmbeddings(model="m.gguf", generation_kwargs={"seed": 1}).check_parameters()
    with pytest.raises(UnknownParameterError, match="dimensions"):
        embeddings("openai:m", dimension=3)


def test_a_key_is_missed_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(MissingKeyError, match="openai"):
        OpenAIEmbeddings(model="m").check()


def test_prices_are_those_of_the_list() -> None:
    price = price_of(OpenAIEmbeddings(model="text-embedding-3-small"))
    assert price is not None
    assert price.input_usd > 0
    assert price.output_usd == 0


# --- names ---


def test_names_stand_for_models() -> None:
    small = embeddings("openai:text-embedding-3-small", dimensions=256, batch_size=9)
    assert small == OpenAIEmbeddings(model="text-embedding-3-small", dimensions=256, batch_size=9)
    assert embeddings("ollama:nomic-embed-text").endpoint == "http://127.0.0.1:11434/v1"
    assert embeddings("sentence-transformers:a/b").kind() == "SentenceTransformerEmbeddings"
    assert embeddings("gguf:a.gguf").kind() == "LlamaCppEmbeddings"
    assert embeddings("vllm_engine:a/b").kind() == "vLLMEmbeddings"
    assert embeddings("rehearsal") == RehearsalEmbeddings()
    with pytest.raises(UnknownKindError, match="no provider 'anthropic'"):
        embeddings("anthropic:x")


def test_a_model_that_writes_is_not_taken_for_one_that_makes_vectors_nor_the_other_way() -> None:
    with pytest.raises(UnknownKindError, match="no vectors"):
        as_embeddings(OpenAILLM(model="gpt-4o-mini"))
    with pytest.raises(SpecError, match="needs a model that makes texts; rehearsal makes vectors"):
        TextGeneration(name="answer", llm=RehearsalEmbeddings()).check()


# --- the task ---


def test_a_vector_can_be_normalized_and_its_text_prefixed() -> None:
    plain = EmbeddingGeneration(embeddings=RehearsalEmbeddings(dimensions=3))
    row = {"text": "kite"}
    prefixed = EmbeddingGeneration(llm="rehearsal", prefix="query: ")
    assert prefixed.format_input(row) == [{"role": "user", "content": "query: kite"}]
    reply = pack_vector([3.0, 0.0, 4.0])
    assert plain.format_output(reply, row) == {"embedding": [3.0, 0.0, 4.0]}
    normal = EmbeddingGeneration(embeddings=RehearsalEmbeddings(dimensions=3), normalize=True)
    assert normal.format_output(reply, row) == {"embedding": [0.6, 0.0, 0.8]}
    assert normal.format_output(pack_vector([0.0] * 3), row) == {"embedding": [0.0] * 3}


@pytest.mark.parametrize(
    "numbers, words",
    [([1.0, 2.0], "has 2 numbers, and dimensions=3"), ([1.0, math.nan, 0.0], "NaN"), ([], "no vector")],
)
def test_a_reply_that_is_not_the_vector_is_the_rows_failure(numbers: list[float], words: str) -> None:
    task = EmbeddingGeneration(embeddings=RehearsalEmbeddings(dimensions=3))
    with pytest.raises(ParseError, match=words):
        task.format_output(pack_vector(numbers), {"text": "kite"})


@pytest.mark.parametrize("text, words", [("", "is empty"), (" \n", "is empty"), (7, "holds a int")])
def test_a_row_without_a_text_is_told_of_its_column(text: object, words: str) -> None:
    task = EmbeddingGeneration(embeddings="rehearsal", input_mappings={"text": "question"})
    with pytest.raises(StepRowError, match=f"'question' {words}"):
        task.format_input({"text": text})


def test_a_text_has_one_vector() -> None:
    with pytest.raises(SpecError, match="num_generations"):
        EmbeddingGeneration(num_generations=2)

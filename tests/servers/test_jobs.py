"""The mock server's offline jobs, proved with the SDKs of OpenAI, Groq and Anthropic: handed over, read, cancelled."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers import MockLLM, mock_llm

KEY = "any-key-0123456789"
MODEL = "mock-model"


@pytest.fixture(scope="module")
def holding() -> Iterator[MockLLM]:
    with mock_llm(hold_jobs=True, job_max_requests=10, require_key=KEY) as running:
        yield running


@pytest.fixture
def server(holding: MockLLM) -> MockLLM:
    holding.reset()
    return holding


def lines_of(prompts: list[str]) -> bytes:
    return b"".join(
        json.dumps(
            {
                "custom_id": f"one-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": MODEL, "messages": [{"role": "user", "content": prompt}]},
            }
        ).encode()
        + b"\n"
        for number, prompt in enumerate(prompts)
    )


class OpenAILike:
    """OpenAI's jobs through its SDK, or Groq's through Groq's."""

    def __init__(self, package: str, cls: str, address: str, key: str = KEY) -> None:
        kind = getattr(importlib.import_module(package), cls)
        self.client: Any = kind(base_url=address, api_key=key, max_retries=0)

    def create(self, prompts: list[str]) -> Any:
        file = self.client.files.create(file=("a.jsonl", io.BytesIO(lines_of(prompts))), purpose="batch")
        return self.client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"whose": "mine"},
        )

    def results(self, name: str | None) -> dict[str, Any]:
        assert name is not None
        content = self.client.files.content(name)
        raw = content.text if hasattr(content, "text") else content.read().decode()
        raw = raw() if callable(raw) else raw
        return {data["custom_id"]: data for data in map(json.loads, raw.splitlines())}


@pytest.fixture(params=["openai", "groq"])
def like(request: pytest.FixtureRequest, server: MockLLM) -> OpenAILike:
    pytest.importorskip(request.param, reason="the provider's SDK is not installed")
    if request.param == "openai":
        return OpenAILike("openai", "OpenAI", server.base_url)
    return OpenAILike("groq", "Groq", server.base_url.removesuffix("/v1") + "/groq")


def test_a_job_is_parked_until_it_is_told_to_end_and_its_files_are_read(
    server: MockLLM, like: OpenAILike
) -> None:
    job = like.create(["hello", "[[400]]"])
    assert (job.status, job.request_counts.total, job.metadata) == ("in_progress", 2, {"whose": "mine"})
    assert job.expires_at - job.created_at == 86_400
    server.order(progress=1)
    assert like.client.batches.retrieve(job.id).request_counts.completed == 1
    assert server.order(end="completed") == 1
    job = like.client.batches.retrieve(job.id)
    assert (job.status, job.request_counts.completed, job.request_counts.failed) == ("completed", 1, 1)
    good, bad = like.results(job.output_file_id), like.results(job.error_file_id)
    assert good["one-0"]["response"]["status_code"] == 200
    assert good["one-0"]["response"]["body"]["choices"][0]["message"]["content"]
    assert bad["one-1"]["response"]["status_code"] == 400
    assert bad["one-1"]["response"]["body"]["error"]["message"] == "injected refusal"
    assert [listed.id for listed in like.client.batches.list().data] == [job.id]


@pytest.mark.parametrize("how, code", [("expired", "batch_expired"), ("cancelled", "batch_cancelled")])
def test_what_a_job_did_not_come_to_stands_among_its_errors(
    server: MockLLM, like: OpenAILike, how: str, code: str
) -> None:
    job = like.create(["a", "b", "c"])
    if how == "cancelled":
        assert like.client.batches.cancel(job.id).status == "cancelling"
    server.order(end=how, done=1)
    job = like.client.batches.retrieve(job.id)
    assert (job.status, job.request_counts.completed) == (how, 1)
    bad = like.results(job.error_file_id)
    assert {data["error"]["code"] for data in bad.values()} == {code}
    assert len(bad) == 2


def test_a_job_that_is_too_large_or_crowded_fails_as_a_whole(server: MockLLM, like: OpenAILike) -> None:
    job = like.client.batches.retrieve(like.create(["a"] * 11).id)
    assert (job.status, job.errors.data[0].code) == ("failed", "too_many_tasks")
    server.order(arm={"crowded": 1})
    job = like.client.batches.retrieve(like.create(["a"]).id)
    assert (job.status, job.errors.data[0].code) == ("failed", "token_limit_exceeded")


def test_a_wrong_key_an_unknown_job_and_a_wrong_field_are_told_in_openais_way(server: MockLLM) -> None:
    openai = pytest.importorskip("openai", reason="the provider's SDK is not installed")
    right = OpenAILike("openai", "OpenAI", server.base_url)
    with pytest.raises(openai.AuthenticationError):
        OpenAILike("openai", "OpenAI", server.base_url, key="wrong").create(["a"])
    with pytest.raises(openai.NotFoundError):
        right.client.batches.retrieve("batch_none")
    with pytest.raises(openai.BadRequestError):
        right.client.batches.create(
            input_file_id="file-none", endpoint="/v1/chat/completions", completion_window="12h"
        )


# --- Anthropic ----------------------------------------------------------------


@pytest.fixture
def anthropic_client(server: MockLLM) -> Any:
    anthropic = pytest.importorskip("anthropic", reason="the provider's SDK is not installed")
    root = server.base_url.removesuffix("/v1")
    return anthropic.Anthropic(base_url=f"{root}/anthropic", api_key=KEY, max_retries=0)


def messages_of(prompts: list[str]) -> list[Any]:
    return [
        {
            "custom_id": f"one-{number}",
            "params": {
                "model": MODEL,
                "max_tokens": 100,
                "messages": [{"role": "user", "content": prompt}],
            },
        }
        for number, prompt in enumerate(prompts)
    ]


def test_message_batches_are_read_by_anthropics_sdk(server: MockLLM, anthropic_client: Any) -> None:
    batches = anthropic_client.messages.batches
    job = batches.create(requests=messages_of(["hello", "[[400]]", "late"]))
    assert (job.processing_status, job.request_counts.processing, job.results_url) == ("in_progress", 3, None)
    assert (job.expires_at - job.created_at).total_seconds() == 86_400
    server.order(end="expired", done=2)
    job = batches.retrieve(job.id)
    counts = job.request_counts
    assert (job.processing_status, counts.succeeded, counts.errored, counts.expired) == ("ended", 1, 1, 1)
    results = {result.custom_id: result.result for result in batches.results(job.id)}
    assert results["one-0"].message.content[0].text
    assert results["one-1"].error.error.type == "invalid_request_error"
    assert results["one-2"].type == "expired"
    assert [listed.id for listed in batches.list()] == [job.id]


def test_message_batches_are_cancelled_and_refused_in_anthropics_way(
    server: MockLLM, anthropic_client: Any
) -> None:
    anthropic = importlib.import_module("anthropic")
    batches = anthropic_client.messages.batches
    job = batches.create(requests=messages_of(["a", "b"]))
    assert batches.cancel(job.id).processing_status == "canceling"
    server.order(end="cancelled", done=1)
    job = batches.retrieve(job.id)
    assert (job.request_counts.succeeded, job.request_counts.canceled) == (1, 1)
    with pytest.raises(anthropic.BadRequestError):
        batches.create(requests=messages_of(["a"] * 11))
    with pytest.raises(anthropic.NotFoundError):
        batches.retrieve("msgbatch_none")

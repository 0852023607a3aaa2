"""Models that go by offline batch: who may, under which names, at which price; and what a job's answers say."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from distilnb.errors import (
    ContentFilterError,
    MalformedReplyError,
    NoBatchesError,
    ServerError,
    SpecError,
    UnknownModelError,
)
from distilnb.llms import remote
from distilnb.llms.anthropic import AnthropicLLM
from distilnb.llms.base import LLM
from distilnb.llms.batches import Job, Outcome
from distilnb.llms.groq import GroqLLM
from distilnb.llms.openai import OpenAILLM
from distilnb.llms.openai_embeddings import OpenAIEmbeddings
from distilnb.llms.prices import price_of, run_price_of
from distilnb.llms.remote import RemoteLLM
from distilnb.llms.request import Request
from tests.llms.conformance.providers import PROVIDERS
from tests.servers import MockLLM

ASKED = Request(({"role": "user", "content": "hi"},), n=2)


def openai(**options: Any) -> OpenAILLM:
    return OpenAILLM(model="gpt-4o-mini", offline_batch=True, **options)


# --- the option -----------------------------------------------------------------


def test_who_has_no_offline_batches_refuses_the_option_by_name() -> None:
    for provider in PROVIDERS:
        cls = provider.cls
        assert issubclass(cls, RemoteLLM)
        if cls.batch_limits is None:
            with pytest.raises(SpecError, match=f"{cls.__name__} has no offline_batch"):
                cls(model="m", offline_batch=True)
        else:
            assert cls(model="m", offline_batch=True).goes_by_batch
    having = {provider.kind for provider in PROVIDERS if provider.cls.batch_limits is not None}  # type: ignore[attr-defined]
    assert having == set(remote._HAVE_BATCHES)


def test_vectors_are_not_made_by_batch() -> None:
    with pytest.raises(SpecError, match="OpenAIEmbeddings has no offline_batch"):
        OpenAIEmbeddings(model="m", offline_batch=True)


def test_the_names_of_1x_are_understood() -> None:
    llm = OpenAILLM(
        model="m", use_offline_batch_generation=True, offline_batch_generation_block_until_done=30
    )
    assert (llm.offline_batch, llm.offline_batch_poll) == (True, 30)
    assert llm == OpenAILLM(model="m", offline_batch=True, offline_batch_poll=30)


def test_how_requests_travel_changes_nothing_about_the_replies() -> None:
    direct = OpenAILLM(model="m")
    batch = direct.updated(offline_batch=True, offline_batch_size=9, offline_batch_poll=1.0)
    assert direct.digest == batch.digest
    assert direct.identity() == batch.identity()
    assert direct.dump() != batch.dump()


def test_a_model_that_goes_by_batch_answers_a_question_at_once(server: MockLLM) -> None:
    llm = OpenAILLM(model="mock-model", base_url=server.base_url, offline_batch=True)
    assert llm.ask("hi")
    assert server.jobs() == []


# --- the price ------------------------------------------------------------------


@pytest.mark.parametrize(
    "llm, share",
    [
        (openai(), 0.5),
        (AnthropicLLM(model="claude-sonnet-4-5", offline_batch=True), 0.5),
        (GroqLLM(model="llama-3.3-70b-versatile", offline_batch=True), 0.5),  # the list knows none
        (openai(price=(1.0, 2.0)), 0.5),  # its own host gives it
        (openai(price=(1.0, 2.0), base_url="https://gate.example/v1"), 1.0),  # who knows what that one gives
        (openai(price=(1.0, 2.0), base_url="https://gate.example/v1", offline_batch_discount=0.25), 0.75),
        (openai(offline_batch_discount=0.0), 1.0),
        (OpenAILLM(model="gpt-4o-mini"), 1.0),
    ],
)
def test_a_run_pays_what_the_discount_leaves(llm: LLM, share: float) -> None:
    full, paid = price_of(llm), run_price_of(llm)
    assert full is not None
    assert paid is not None
    assert paid == pytest.approx(full.times(share))


def test_a_price_that_nobody_knows_stays_unknown() -> None:
    assert run_price_of(openai(base_url="https://gate.example/v1")) is None


# --- OpenAI's words -------------------------------------------------------------


def outcomes_of(*lines: dict[str, Any], folder: Path) -> list[Outcome]:
    path = folder / "results"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return list(openai(api_key="k").make_batches().outcomes(path))


def answered_with(status: int, body: Any) -> dict[str, Any]:
    response = {"status_code": status, "request_id": "req_7", "body": body}
    return {"id": "b", "custom_id": "m-0", "response": response, "error": None}


def test_the_lines_of_openais_results_are_read(tmp_path: Path) -> None:
    message = {"role": "assistant", "content": "hello"}
    good = {"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    error = {"error": {"code": "content_filter", "message": "No.", "type": "invalid_request_error"}}
    unanswered = {"custom_id": "m-1", "response": None}
    [fine, refused, odd, expired, cancelled, failed] = outcomes_of(
        answered_with(200, good),
        answered_with(400, error),
        answered_with(200, {"choices": 7}),
        {**unanswered, "error": {"code": "batch_expired", "message": "Late."}},
        {**unanswered, "error": {"code": "batch_cancelled", "message": "Off."}},
        {**unanswered, "error": {"code": "internal", "message": "Bang."}},
        folder=tmp_path,
    )
    assert fine.answer is not None
    assert (fine.name, fine.answer.replies[0].text, fine.answer.request_id) == ("m-0", "hello", "req_7")
    assert isinstance(refused.failure, ContentFilterError)
    assert refused.failure.request_id == "req_7"
    assert isinstance(odd.failure, MalformedReplyError)
    assert (expired.end, cancelled.end) == ("expired", "cancelled")
    assert isinstance(failed.failure, ServerError)
    assert "Bang." in failed.failure.what


def test_a_line_holds_the_request_and_no_key() -> None:
    batches = openai(api_key="canary-0123456789", generation_kwargs={"temperature": 0.5}).make_batches()
    line = json.loads(batches.line("m-3", ASKED))
    assert line == {
        "custom_id": "m-3",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "gpt-4o-mini",
            "temperature": 0.5,
            "messages": [{"role": "user", "content": "hi"}],
            "n": 2,
        },
    }
    anthropic = AnthropicLLM(model="c", offline_batch=True, api_key="canary-0123456789").make_batches()
    line = json.loads(anthropic.line("m-3", ASKED))
    assert line == {
        "custom_id": "m-3",
        "params": {"model": "c", "max_tokens": 4096, "messages": [{"role": "user", "content": "hi"}]},
    }


# --- against the server ---------------------------------------------------------


def asked(llm: RemoteLLM, what: str, *values: Any) -> Any:
    async def ask() -> Any:
        batches = llm.make_batches()
        try:
            return await getattr(batches, what)(*values)
        finally:
            await batches.close()

    return asyncio.run(ask())


@pytest.fixture(params=["openai", "anthropic"])
def llm(request: pytest.FixtureRequest, server: MockLLM) -> RemoteLLM:
    if request.param == "openai":
        return OpenAILLM(model="mock-model", base_url=server.base_url, offline_batch=True)
    pytest.importorskip("anthropic", reason="the provider's SDK is not installed")
    root = server.base_url.removesuffix("/v1")
    return AnthropicLLM(model="mock-model", base_url=f"{root}/anthropic", offline_batch=True)


def hand_over(llm: RemoteLLM, folder: Path, marker: str, n: int = 2) -> Job:
    lines = [llm.make_batches().line(f"{marker}-{number}", ASKED) for number in range(n)]
    path = folder / marker
    path.write_bytes(b"\n".join(lines) + b"\n")

    async def send() -> Job:
        batches = llm.make_batches()
        try:
            return await batches.create(path, await batches.prepare(path, marker), marker)
        finally:
            await batches.close()

    return asyncio.run(send())


def test_a_job_is_found_by_its_marker_among_others(llm: RemoteLLM, tmp_path: Path) -> None:
    jobs = {marker: hand_over(llm, tmp_path, marker) for marker in ("aaaa", "bbbb", "cccc")}
    for marker, job in jobs.items():
        others = {other.id for other in jobs.values()} - {job.id}
        assert asked(llm, "find", marker, 2, 0.0, others).job.id == job.id
        assert asked(llm, "find", marker, 2, 0.0, set()).job.id == job.id
    assert asked(llm, "find", "dddd", 2, 0.0, set()) == (None, False)


def test_a_job_that_nobody_knows_and_a_server_without_jobs_are_told(llm: RemoteLLM, server: MockLLM) -> None:
    with pytest.raises(UnknownModelError):  # what a 404 stands for elsewhere
        asked(llm, "job", "none")
    elsewhere = llm.updated(base_url=server.base_url.removesuffix("/v1") + "/vllm/v1")
    with pytest.raises(NoBatchesError, match="offline batches"):
        asked(elsewhere, "look")

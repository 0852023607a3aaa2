"""How the address of an endpoint is looked up: every way in which that fails is an error of the family."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub import constants

from distilnb.errors import (
    AuthenticationError,
    MalformedReplyError,
    ModelError,
    RequestTimeoutError,
    ServerError,
    SpecError,
    UnknownModelError,
    UnreachableError,
)
from distilnb.llms import huggingface
from distilnb.llms.huggingface import InferenceEndpointsLLM, address_of
from distilnb.llms.huggingface_images import InferenceEndpointsImageGeneration
from tests.llms.scripted import ask
from tests.servers import MockLLM

CANARY = "hf_canary0123456789abcdef"
NAMED: dict[str, Any] = {"endpoint_name": "ours", "endpoint_namespace": "argilla", "api_key": CANARY}


class Hub:
    """What the stand-in for the Hub answers, and what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.body: bytes = b""
        self.paths: list[str] = []

    def has(self, url: str | None, state: str) -> None:
        model = {
            "image": {},
            "repository": "org/m",
            "framework": "pytorch",
            "revision": "1",
            "task": "text",
            "healthRoute": "/",
        }
        stamps = dict.fromkeys(("createdAt", "updatedAt"), "2024-01-01T00:00:00.000Z")
        raw = {
            "name": "ours",
            "healthRoute": "/",
            "model": model,
            "status": {"state": state, **stamps},
            "type": "protected",
        }
        if url:
            raw["status"]["url"] = url  # type: ignore[index]
        self.body = json.dumps(raw).encode()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    answering = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answering.paths.append(self.path)
            self.send_response(answering.status)
            self.send_header("Content-Length", str(len(answering.body)))
            self.end_headers()
            self.wfile.write(answering.body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{running.server_port}"
        monkeypatch.setattr(constants, "INFERENCE_ENDPOINTS_ENDPOINT", url)
        yield answering
        running.shutdown()


def test_an_endpoint_has_one_address() -> None:
    urls = ["http://one.test:1/v1", "http://two.test:2/v1"]
    for kind in (InferenceEndpointsLLM, InferenceEndpointsImageGeneration):
        with pytest.raises(SpecError, match="both endpoint_name= and base_urls="):
            kind(endpoint_name="mine", base_urls=urls)
        assert len(kind(base_urls=urls).endpoints) == 2


def test_an_endpoint_that_runs_has_an_address(hub: Hub) -> None:
    hub.has("https://x.endpoints.huggingface.cloud/", "running")
    assert address_of(InferenceEndpointsLLM(**NAMED)) == "https://x.endpoints.huggingface.cloud/v1"
    assert hub.paths == ["/endpoint/argilla/ours"]


@pytest.mark.parametrize(
    "status, kind",
    [(401, AuthenticationError), (403, AuthenticationError), (404, UnknownModelError), (500, ServerError)],
)
def test_what_the_hub_refuses_is_an_error_of_the_family(
    hub: Hub, status: int, kind: type[ModelError]
) -> None:
    hub.status, hub.body = status, json.dumps({"error": f"no, not with {CANARY}"}).encode()
    with pytest.raises(ModelError) as caught:
        address_of(InferenceEndpointsLLM(**NAMED))
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert caught.value.__cause__ is None
    assert CANARY not in str(caught.value)
    assert "'ours'" in str(caught.value)


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[]"])
def test_an_answer_that_is_none_is_told(hub: Hub, body: bytes) -> None:
    hub.body = body
    with pytest.raises(MalformedReplyError, match="did not tell the endpoint's address"):
        address_of(InferenceEndpointsLLM(**NAMED))


def test_a_hub_out_of_reach_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "INFERENCE_ENDPOINTS_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UnreachableError, match="No answer from huggingface"):
        address_of(InferenceEndpointsLLM(**NAMED))


@pytest.mark.parametrize("state, kind", [("paused", UnknownModelError), ("initializing", UnreachableError)])
def test_an_endpoint_without_an_address_is_refused(hub: Hub, state: str, kind: type[ModelError]) -> None:
    hub.has(None, state)
    with pytest.raises(kind, match=f"'ours' has no address: it is '{state}'"):
        address_of(InferenceEndpointsLLM(**NAMED))


def test_a_look_up_that_failed_is_made_again(server: MockLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.base_url.removesuffix("/v1") + "/huggingface/v1"
    answers: list[Any] = [UnreachableError("gone", "wait"), url]

    def look_up(llm: InferenceEndpointsLLM) -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(huggingface, "address_of", look_up)

    async def main() -> None:
        client = InferenceEndpointsLLM(**NAMED).make_client()
        both = await asyncio.gather(*[client.send(ask("hi")) for _ in range(2)], return_exceptions=True)
        assert [type(one) for one in both] == [UnreachableError] * 2
        assert (await client.send(ask("hi"))).replies
        await client.close()

    asyncio.run(main())
    assert answers == []


def test_a_look_up_lasts_no_longer_than_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def look_up(llm: InferenceEndpointsLLM) -> str:
        released.wait(60)
        return ""

    monkeypatch.setattr(huggingface, "address_of", look_up)
    client = InferenceEndpointsLLM(**NAMED, timeout=0.05).make_client()
    try:
        with pytest.raises(RequestTimeoutError, match=r"did not answer within 0\.05 s"):
            asyncio.run(client.send(ask("hi")))
        assert not released.is_set()
    finally:
        released.set()

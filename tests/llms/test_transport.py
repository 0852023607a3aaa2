"""Both transports against real servers: the same answers, the same errors, no key anywhere."""

from __future__ import annotations

import asyncio
import gzip
import json
import pickle
import socket
import traceback
from pathlib import Path
from typing import Any

import pytest

from distilnb.errors import (
    AuthenticationError,
    MalformedReplyError,
    ModelError,
    RateLimitError,
    RefusedRequestError,
    RequestTimeoutError,
    ServerError,
    UnknownModelError,
    UnreachableError,
)
from distilnb.llms.openai import OpenAILLM
from distilnb.llms.request import Answer, Request
from distilnb.llms.shape import ReplyShape
from distilnb.llms.transport import certificates
from tests.llms.scripted import Seen, ask, scripted_server
from tests.servers import MockLLM, mock_llm

CANARY = "sk-canary-0123456789abcdef"
TRANSPORTS = ("aiohttp", "sdk")

both = pytest.mark.parametrize("transport", TRANSPORTS)


def send(request: Request, **fields: Any) -> Answer:
    async def main() -> Answer:
        client = OpenAILLM(**{"model": "mock-model", **fields}).make_client()
        try:
            return await client.send(request)
        finally:
            await client.close()

    return asyncio.run(main())


def send_to_script(status: int, body: bytes, headers: dict[str, str] | None = None, **fields: Any) -> Seen:
    """Send one request to a server that answers so; return what the server saw."""

    async def main() -> Seen:
        async with scripted_server(status, body, headers) as seen:
            client = OpenAILLM(**{"model": "m", "base_url": seen.url, **fields}).make_client()
            try:
                await client.send(ask())
            finally:
                await client.close()
            return seen

    return asyncio.run(main())


GOOD = json.dumps({"choices": [{"message": {"content": "hi"}}]}).encode()


@pytest.mark.parametrize(
    "request_",
    [
        ask("plain"),
        ask("three", n=3),
        ask("nothing [[null]]"),
        ask("cut [[length]]"),
        Request(
            ({"role": "system", "content": "be brief"}, {"role": "user", "content": "日本語 🎏"}),
            shape=ReplyShape(
                "json", {"type": "object", "properties": {"score": {"type": "integer", "minimum": 1}}}
            ),
        ),
    ],
    ids=["plain", "n", "null", "length", "schema"],
)
def test_both_transports_bring_equal_answers(server: MockLLM, request_: Request) -> None:
    answers = [send(request_, base_url=server.base_url, transport=transport) for transport in TRANSPORTS]
    assert answers[0] == answers[1]
    assert len(answers[0].replies) == request_.n


@pytest.mark.parametrize(
    "mark, kind",
    [
        ("401", AuthenticationError),
        ("404", UnknownModelError),
        ("429", RateLimitError),
        ("500", ServerError),
        ("garbage", MalformedReplyError),
    ],
)
def test_both_transports_raise_equal_errors(server: MockLLM, mark: str, kind: type[ModelError]) -> None:
    told = []
    for transport in TRANSPORTS:
        with pytest.raises(kind) as caught:
            send(ask(f"x [[{mark}x9]]"), base_url=server.base_url, transport=transport)
        told.append((str(caught.value), caught.value.status, caught.value.retry_after_s))
    assert told[0] == told[1]
    assert server.base_url.removeprefix("http://").removesuffix("/v1") in told[0][0]


@both
def test_what_a_429_asks_for_is_carried(server: MockLLM, transport: str) -> None:
    with pytest.raises(RateLimitError) as caught:
        send(ask("x [[429]]"), base_url=server.base_url, transport=transport)
    assert caught.value.retry_after_s == pytest.approx(0.05)


@both
@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_called_invalid_is_refused(transport: str, status: int) -> None:
    with pytest.raises(RefusedRequestError, match=f"HTTP {status}: too long"):
        send_to_script(status, b'{"error": {"message": "too long"}}', transport=transport)


@both
def test_a_redirect_is_not_followed(transport: str) -> None:
    with pytest.raises(RefusedRequestError, match="redirects elsewhere: HTTP 307"):
        send_to_script(307, b"", {"Location": "http://127.0.0.1:1/elsewhere"}, transport=transport)


@both
def test_a_server_that_never_answers_times_out(server: MockLLM, transport: str) -> None:
    with pytest.raises(RequestTimeoutError, match=r"did not answer within 0.05 s"):
        send(ask("x [[never]]"), base_url=server.base_url, transport=transport, timeout=0.05)


@both
def test_a_port_where_nothing_listens_is_unreachable(transport: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(
        UnreachableError, match=f"No answer from openai .127.0.0.1:{port}, model 'mock-model'."
    ):
        send(ask(), base_url=f"http://127.0.0.1:{port}/v1", transport=transport)


@both
def test_a_connection_that_breaks_is_unreachable(transport: str) -> None:
    with mock_llm(error_reset_rate=1.0) as broken, pytest.raises(UnreachableError):
        send(ask(), base_url=broken.base_url, transport=transport)


def test_what_is_no_http_is_unreachable_and_hides_the_key() -> None:
    async def main() -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
            writer.close()

        listening = await asyncio.start_server(talk, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        client = OpenAILLM(model="m", base_url=f"http://127.0.0.1:{port}", api_key=CANARY).make_client()
        try:
            await client.send(ask())
        finally:
            await client.close()
            listening.close()

    with pytest.raises(UnreachableError, match="the response is not HTTP") as caught:
        asyncio.run(main())
    assert caught.value.__cause__ is None
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@both
def test_what_a_proxy_compressed_unasked_is_read(transport: str) -> None:
    seen = send_to_script(200, gzip.compress(GOOD), {"Content-Encoding": "gzip"}, transport=transport)
    assert len(seen.bodies) == 1


@both
@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
def test_what_is_said_to_be_uncompressed_is_read_as_it_is(transport: str, encoding: str) -> None:
    assert len(send_to_script(200, GOOD, {"Content-Encoding": encoding}, transport=transport).bodies) == 1


def test_compression_that_is_broken_is_a_malformed_reply() -> None:
    with pytest.raises(MalformedReplyError, match="compression cannot be undone"):
        send_to_script(200, GOOD, {"Content-Encoding": "gzip"})


@both
def test_both_transports_send_the_same_body(transport: str) -> None:
    parameters = {
        "max_new_tokens": 9,
        "temperature": 0.5,
        "stop": ["\n"],
        "seed": 3,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "logprobs": True,
        "top_logprobs": 2,
        "extra": {"chat_template_kwargs": {"enable_thinking": False}},
    }
    seen = send_to_script(200, GOOD, transport=transport, generation_kwargs=parameters)
    extra = parameters.pop("extra")
    limit = parameters.pop("max_new_tokens")
    messages = [{"role": "user", "content": "hi"}]
    assert isinstance(extra, dict)
    assert seen.bodies == [{"model": "m", "messages": messages, "max_tokens": limit, **parameters, **extra}]


@both
def test_headers_are_sent_and_the_key_only_if_there_is_one(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, CANARY)
    without = send_to_script(200, GOOD, transport=transport, default_headers={"X-Team": "blue"})
    assert without.headers[0]["x-team"] == "blue"
    assert "authorization" not in without.headers[0]
    assert CANARY not in str(without.headers)
    with_key = send_to_script(200, GOOD, transport=transport, api_key="mine")
    assert with_key.headers[0]["authorization"] == "Bearer mine"


@both
@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
def test_no_key_is_in_any_error_nor_in_its_traceback_or_pickle(transport: str, status: int) -> None:
    body = json.dumps({"detail": f"the key {CANARY} is odd"}).encode()
    with pytest.raises(ModelError) as caught:
        send_to_script(status, body, transport=transport, api_key=CANARY)
    shown = "".join(traceback.format_exception(caught.value))
    assert CANARY not in shown
    assert CANARY.encode() not in pickle.dumps(caught.value)


@both
def test_what_is_not_json_is_refused_before_it_is_sent(server: MockLLM, transport: str) -> None:
    odd = Request(({"role": "user", "content": object()},))
    with pytest.raises(RefusedRequestError, match="cannot be written as JSON: Object of type object"):
        send(odd, base_url=server.base_url, transport=transport)
    assert server.stats()["requests"] == 0


@pytest.mark.parametrize(
    "value", ["é", "half \ud83d", None, 10**30, 1.5, float("nan"), float("inf"), ["a", {"b": None}], "null"]
)
def test_a_body_means_what_the_standard_library_writes(value: object) -> None:
    extra = {"extra": {"odd": value}}
    seen = send_to_script(200, GOOD, generation_kwargs=extra)
    assert repr(seen.bodies[0]["odd"]) == repr(json.loads(json.dumps(value)))


def test_an_answer_is_read_where_it_is_no_strict_json() -> None:
    odd = b'{"choices": [{"message": {"content": "hi"}, "logprobs": {"content": [NaN]}}]}'

    async def main() -> Answer:
        async with scripted_server(200, odd) as seen:
            client = OpenAILLM(model="m", base_url=seen.url).make_client()
            try:
                return await client.send(ask())
            finally:
                await client.close()

    assert repr(asyncio.run(main()).extra) == "{'logprobs': [{'content': [nan]}]}"


@both
def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    server: MockLLM, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert send(ask(), base_url=server.base_url, transport=transport).replies[0].text


@both
def test_a_proxy_of_the_environment_is_asked_for_other_hosts(
    server: MockLLM, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.base_url.removesuffix("/v1"))
    with pytest.raises(ModelError):  # the mock server is no proxy; what counts is that it was asked
        send(ask(), base_url="http://example.invalid/v2", transport=transport)


def test_a_key_is_sent_where_the_file_of_passwords_has_an_entry_for_the_host_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine api.example login a password b\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "127.0.0.1:1")
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1"):
        send(ask(), base_url="http://api.example/v1", api_key=CANARY)


@both
def test_a_cancelled_request_ends_at_once(server: MockLLM, transport: str) -> None:
    async def main() -> None:
        client = OpenAILLM(model="mock-model", base_url=server.base_url, transport=transport).make_client()
        task = asyncio.ensure_future(client.send(ask("x [[never]]")))
        while server.stats()["in_flight"] == 0:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.close()

    asyncio.run(main())


@both
def test_a_client_is_closed_more_than_once_without_harm(transport: str) -> None:
    async def main() -> None:
        client = OpenAILLM(model="m", base_url="http://127.0.0.1:1", transport=transport).make_client()
        await client.close()
        await client.close()

    asyncio.run(main())


def test_certificates_are_the_systems_or_those_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import certifi

    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    assert certificates().cert_store_stats()["x509_ca"] > 0

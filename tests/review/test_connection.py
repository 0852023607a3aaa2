"""The connection to Argilla: wrong settings are told in one try, the SDK's errors in one sentence."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from distilnb.errors import ReviewError
from distilnb.review.connection import connected, explain, server_detail


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARGILLA_API_URL", raising=False)
    monkeypatch.delenv("ARGILLA_API_KEY", raising=False)


def told(url: str | None, key: str | None = "key") -> str:
    pytest.importorskip("argilla", reason="the SDK of Argilla is not installed: make parts")
    with pytest.raises(ReviewError) as raised, connected(url, key):
        pass
    assert "\n" not in raised.value.what
    assert raised.value.fix
    return raised.value.what


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """Answer every request alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.argilla
def test_what_is_not_set_is_told() -> None:
    assert told(None) == "No Argilla server is named."
    assert told("http://127.0.0.1:9", None) == "No API key for Argilla is set."
    assert told("localhost:6900") == "The address 'localhost:6900' lacks http:// or https://."


@pytest.mark.argilla
def test_a_server_that_is_not_there_is_told_in_one_try() -> None:
    start = time.monotonic()
    assert "No Argilla server answers at http://127.0.0.1:9" in told("http://127.0.0.1:9")
    assert time.monotonic() - start < 5  # the SDK alone takes 7.5 s


@pytest.mark.argilla
@pytest.mark.parametrize(
    "status,body,words",
    [
        (401, "{}", "refused the API key"),
        (500, "{}", "failed with status 500"),
        (200, "<html>", "no Argilla 2 server"),
        (200, "{}", "no Argilla 2 server"),
        (404, "{}", "no Argilla 2 server"),
    ],
)
def test_each_wrong_answer_has_its_words(status: int, body: str, words: str) -> None:
    with answering(status, body) as url:
        assert words in told(url)


@pytest.mark.argilla
def test_the_environment_says_where_and_who(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGILLA_API_KEY", "key")
    with answering(401, "{}") as url:
        monkeypatch.setenv("ARGILLA_API_URL", url)
        assert url in told(None, None)


class SDKError(Exception):
    def __init__(self, text: str, status_code: int | None = None) -> None:
        super().__init__(text)
        self.status_code = status_code


@pytest.mark.parametrize(
    "status,words",
    [
        (401, "refused the API key"),
        (403, "Your role in Argilla does not allow this: not you"),
        (404, "does not find it: not you"),
        (409, "exists in Argilla already: not you"),
        (422, "refused the content: not you"),
        (500, "failed: not you"),
        (None, "Argilla refused: not you"),
    ],
)
def test_each_status_of_the_sdk_has_its_words(status: int | None, words: str) -> None:
    error = explain(SDKError('Bad. Details: {"detail": "not you"}', status), "http://x")
    assert words in error.what
    assert error.fix


def test_the_reason_is_taken_from_the_cause_where_the_error_has_none() -> None:
    outer = SDKError("Argilla SDK error")
    outer.__cause__ = SDKError('Details: {"detail": {"params": {"message": "too many options"}}}', 422)
    assert "too many options" in explain(outer, "http://x").what


@pytest.mark.parametrize(
    "detail,words",
    [
        ({"detail": "plain"}, "plain"),
        ({"detail": {"code": "x", "params": {"errors": [{"msg": "a"}, {"msg": "b"}]}}}, "a; b"),
        ({"detail": {"code": "argilla.api.errors::X"}}, "argilla.api.errors::X"),
    ],
)
def test_the_servers_own_words_are_dug_out(detail: object, words: str) -> None:
    assert server_detail(SDKError(f"Unprocessable. Details: {json.dumps(detail)}")) == words
    assert server_detail(SDKError("no details\nat all")) == "no details"


@pytest.mark.argilla
def test_the_root_logger_gets_no_handler() -> None:
    before = list(logging.getLogger().handlers)
    told("http://127.0.0.1:9")
    assert logging.getLogger().handlers == before

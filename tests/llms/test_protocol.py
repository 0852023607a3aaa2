from __future__ import annotations

import json
import pickle
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from distilnb.llms.protocol import Target, error_of, read_answer, timed_out, unreachable

CANARY = "canary-0123456789"
TARGET = Target("openai", "m", "api.openai.com", "Check the key.", "Correct the name.", (CANARY,))


def body(**changes: Any) -> bytes:
    message = {"role": "assistant", "content": "hi"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 7, "completion_tokens": 5}
    return json.dumps({"id": "r-1", "model": "m-2", "choices": [choice], "usage": usage, **changes}).encode()


def choice(index: int, content: object, **more: object) -> dict[str, object]:
    return {"index": index, "message": {"content": content, **more}, "finish_reason": "stop"}


# answers ---------------------------------------------------------------------------------------------------


def test_an_answer_holds_text_reason_model_tokens_and_id() -> None:
    answer = read_answer(body(), TARGET)
    (reply,) = answer.replies
    assert (reply.text, reply.finish_reason, reply.model) == ("hi", "stop", "m-2")
    assert (reply.input_tokens, reply.output_tokens, reply.is_cached) == (7, 5, False)
    assert answer.request_id == "r-1"
    assert read_answer(body(), TARGET, "from-header").request_id == "from-header"


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 9))
def test_tokens_of_n_replies_add_up(prompt: int, completion: int, n: int) -> None:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    replies = read_answer(body(choices=[choice(i, "x") for i in range(n)], usage=usage), TARGET).replies
    assert [reply.input_tokens for reply in replies] == [prompt] + [0] * (n - 1)
    shares = [reply.output_tokens or 0 for reply in replies]
    assert sum(shares) == completion
    assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}])
def test_tokens_that_nobody_told_are_none(usage: object) -> None:
    (reply,) = read_answer(body(usage=usage), TARGET).replies
    assert (reply.input_tokens, reply.output_tokens) == (None, None)


def test_replies_come_in_the_order_of_their_index() -> None:
    shuffled = [choice(2, "c"), choice(0, "a"), choice(1, "b")]
    assert [reply.text for reply in read_answer(body(choices=shuffled), TARGET).replies] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "content, more, text, reason",
    [
        (None, {}, None, "stop"),
        (None, {"refusal": "I cannot."}, None, "refusal"),
        ("", {}, "", "stop"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], {}, "ab", "stop"),
    ],
)
def test_contents_of_all_shapes_are_read(
    content: object, more: dict[str, object], text: str | None, reason: str
) -> None:
    (reply,) = read_answer(body(choices=[choice(0, content, **more)]), TARGET).replies
    assert (reply.text, reply.finish_reason) == (text, reason)


def test_logprobs_come_along_where_they_were_sent() -> None:
    with_logprobs = {**choice(0, "x"), "logprobs": {"content": []}}
    answer = read_answer(body(choices=[with_logprobs]), TARGET)
    assert answer.extra == {"logprobs": [{"content": []}]}
    assert read_answer(body(), TARGET).extra == {}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>Bad gateway</html>",
        b'{"choices": [{"message": {"con',
        b"[]",
        b"null",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": {"content": 5}}]}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_chat_completion_is_a_malformed_reply(raw: bytes) -> None:
    with pytest.raises(
        MalformedReplyError, match=r"openai \(api\.openai\.com, model 'm'\) sent an answer"
    ) as caught:
        read_answer(raw, TARGET)
    assert caught.value.retryable
    assert caught.value.provider == "openai"


def test_an_error_inside_a_good_status_is_that_error() -> None:
    with pytest.raises(RateLimitError, match="HTTP 429: slow down"):
        read_answer(b'{"error": {"code": 429, "message": "slow down"}}', TARGET)
    with pytest.raises(ServerError, match="HTTP 500: upstream"):
        read_answer(b'{"error": {"code": "bad", "message": "upstream"}}', TARGET)


# failures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status, kind, retryable, fatal",
    [
        (307, RefusedRequestError, False, False),
        (400, RefusedRequestError, False, False),
        (401, AuthenticationError, False, True),
        (402, AuthenticationError, False, True),
        (403, AuthenticationError, False, True),
        (404, UnknownModelError, False, True),
        (408, RequestTimeoutError, True, False),
        (409, ServerError, True, False),
        (413, RefusedRequestError, False, False),
        (422, RefusedRequestError, False, False),
        (429, RateLimitError, True, False),
        (500, ServerError, True, False),
        (503, ServerError, True, False),
        (529, ServerError, True, False),
    ],
)
def test_each_status_is_its_kind_of_error(
    status: int, kind: type[ModelError], retryable: bool, fatal: bool
) -> None:
    error = error_of(status, {"x-request-id": "r-9"}, b'{"error": {"message": "why"}}', TARGET)
    assert type(error) is kind
    assert (error.retryable, error.fatal) == (retryable, fatal)
    assert (error.status, error.request_id, error.provider) == (status, "r-9", "openai")
    assert error.what.startswith("openai (api.openai.com, model 'm') ")
    assert error.what.endswith(f": HTTP {status}: why")
    assert error.hint
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.status, back.request_id) == (str(error), status, "r-9")


def test_an_account_without_credit_is_fatal_although_its_status_says_try_again() -> None:
    said = b'{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}'
    error = error_of(429, {"retry-after": "1"}, said, TARGET)
    assert isinstance(error, AuthenticationError)
    assert (error.fatal, error.retryable) == (True, False)
    assert "has no credit left" in str(error)


@pytest.mark.parametrize(
    "headers, wait_s",
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "-1"}, 0.0),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_the_wait_that_a_server_asks_for_is_read(headers: dict[str, str], wait_s: float | None) -> None:
    assert error_of(429, headers, b"", TARGET).retry_after_s == wait_s


def test_the_wait_may_be_a_date() -> None:
    date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=100), usegmt=True)
    wait_s = error_of(503, {"retry-after": date}, b"", TARGET).retry_after_s
    assert wait_s is not None
    assert 90 < wait_s <= 100


@pytest.mark.parametrize(
    "raw, said",
    [
        (b'{"error": {"message": "m1"}}', "m1"),
        (b'{"error": "m2"}', "m2"),
        (b'{"message": "m3", "code": 3}', "m3"),
        (b'{"detail": [{"loc": "body"}]}', "[{'loc': 'body'}]"),
        (b"<h1>Bad</h1> <p>gateway</p>", "Bad gateway"),
        (b'"m4"', "m4"),
        (b"", ""),
    ],
)
def test_a_server_is_quoted_whatever_the_shape_of_its_error(raw: bytes, said: str) -> None:
    what = error_of(500, {}, raw, TARGET).what
    assert what == "openai (api.openai.com, model 'm') failed to answer: HTTP 500" + (said and f": {said}")


def test_a_long_message_is_cut() -> None:
    what = error_of(400, {}, json.dumps({"error": {"message": "x" * 1000}}).encode(), TARGET).what
    assert what.endswith("x…")
    assert len(what) < 400


@pytest.mark.parametrize("shown", [CANARY, "sk-proj-abc_DEF-123", "Bearer abcdef.123"])
def test_no_key_that_a_server_repeats_gets_into_a_message(shown: str) -> None:
    errors = [
        error_of(401, {}, json.dumps({"error": {"message": f"Wrong key {shown}!"}}).encode(), TARGET),
        unreachable(TARGET, f"proxy said {shown}"),
    ]
    with pytest.raises(MalformedReplyError) as caught:
        read_answer(f"<p>{shown}</p>".encode(), TARGET)
    for error in (*errors, caught.value):
        assert shown not in str(error)
        assert "***" in str(error)
    assert CANARY not in repr(TARGET)


def test_errors_without_a_response_say_who_and_what_to_do() -> None:
    assert timed_out(TARGET, 1.5).what == "openai (api.openai.com, model 'm') did not answer within 1.5 s."
    broken = unreachable(TARGET, OSError("connection reset"))
    assert broken.what == "No answer from openai (api.openai.com, model 'm'): connection reset."
    assert isinstance(broken, UnreachableError)
    assert unreachable(TARGET, OSError()).what.endswith("OSError.")

from __future__ import annotations

import json
import pickle
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from distilnb.errors import (
    AuthenticationError,
    ContentFilterError,
    ContextLengthError,
    MalformedReplyError,
    ModelError,
    QuotaExhaustedError,
    RateLimitError,
    RefusedRequestError,
    RequestTimeoutError,
    ServerError,
    UnknownModelError,
    UnreachableError,
)
from distilnb.llms.failures import NO_CREDIT, Sign, Target, error_of, on, quote, timed_out, unreachable
from distilnb.llms.protocol import read_answer

CANARY = "canary-0123456789"
TARGET = Target("openai", "m", "api.openai.com", "Check the key.", "Correct the name.", (CANARY,))


@pytest.mark.parametrize(
    "status, kind, retryable, fatal",
    [
        (307, RefusedRequestError, False, False),
        (400, RefusedRequestError, False, False),
        (401, AuthenticationError, False, True),
        (402, QuotaExhaustedError, False, True),
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
    assert isinstance(error, QuotaExhaustedError)
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


@pytest.mark.parametrize(
    "status, said, kind",
    [
        (400, {"error": {"message": "m", "code": "context_length_exceeded"}}, ContextLengthError),
        (413, {"message": "the prompt is too long: 900 tokens"}, ContextLengthError),
        (400, {"error": {"message": "m", "code": "content_filter"}}, ContentFilterError),
        (
            400,
            {"error": {"message": "m", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
            ContentFilterError,
        ),
        (400, {"error": {"message": "m", "code": "model_not_found"}}, UnknownModelError),
        (400, {"error": {"message": "the word content_filter is in the prompt"}}, RefusedRequestError),
        (500, {"error": {"message": "the prompt is too long"}}, ServerError),
    ],
)
def test_what_is_told_apart_by_codes_and_words(status: int, said: object, kind: type[ModelError]) -> None:
    assert type(error_of(status, {}, json.dumps(said).encode(), TARGET)) is kind


def test_a_providers_own_table_comes_before_what_all_share() -> None:
    own = Target("p", "m", "h", signs=(Sign(NO_CREDIT, on(404), code="broke", words="no +money"),))
    for code, words, kind in (
        ("broke", "NO  money", QuotaExhaustedError),
        ("broken", "no money", UnknownModelError),
        ("broke", "no time", UnknownModelError),
    ):
        said = json.dumps({"error": {"type": code, "message": words}}).encode()
        assert type(error_of(404, {}, said, own)) is kind


@pytest.mark.parametrize(
    "said, wait_s",
    [
        ({"error": {"message": "Please try again in 1.5s."}}, 1.5),
        ({"error": {"message": "Please retry after 6 seconds."}}, 6.0),
        ({"error": {"message": "Try again in 250ms"}}, 0.25),
        ({"error": {"message": "Try again in 2m"}}, None),
        ({"error": {"message": "x", "details": [{"@type": "RetryInfo", "retryDelay": "37s"}]}}, 37.0),
        ([{"error": {"message": "x", "details": [{"retryDelay": "0.5s"}, 3]}}], 0.5),
        ({"error": {"message": "x", "details": [{"retryDelay": "soon"}]}}, None),
    ],
)
def test_the_wait_may_stand_in_the_body(said: object, wait_s: float | None) -> None:
    assert error_of(429, {}, json.dumps(said).encode(), TARGET).retry_after_s == wait_s
    assert error_of(429, {"retry-after": "9"}, json.dumps(said).encode(), TARGET).retry_after_s == 9


@pytest.mark.parametrize(
    "key, shown",
    [
        ("sk-proj-0123_456789abc", "sk-***"),
        ("gsk_0123456789abcdefABCDEF", "gsk_***"),
        ("AIzaSyA0123456789-abc_def", "AIza***"),
        ("hf_abcdefghijKLMNOPqrst", "hf_***"),
        ("Bearer eyJhbGciOi.J9/+x=.sig", "Bearer ***"),
        ("bearer abc~def", "bearer ***"),
        ("ya29.a0AfH6SMB0123456789", "ya29.***"),
    ],
)
@pytest.mark.parametrize("before", ["", "key=", "'", "(", "your_"])
def test_what_looks_like_a_key_is_not_quoted(before: str, key: str, shown: str) -> None:
    assert quote(f"wrong: {before}{key}, try another", TARGET) == f"wrong: {before}{shown}, try another"


def test_words_that_begin_like_a_key_are_quoted() -> None:
    said = "hf_model is not in task-list, gsk_x, risk-averse AIzawa"
    assert quote(said, TARGET) == said

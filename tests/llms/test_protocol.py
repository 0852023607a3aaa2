from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilnb.errors import (
    MalformedReplyError,
    RateLimitError,
    ServerError,
)
from distilnb.llms.failures import Target
from distilnb.llms.protocol import read_answer

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

"""OpenAI's chat protocol as bytes: how an answer is read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from distilnb.errors import MalformedReplyError, ModelError
from distilnb.llms.failures import Target, error_of, quote
from distilnb.llms.request import Answer, Reply


def read_answer(raw: bytes, target: Target, request_id: str = "") -> Answer:
    """Return what the body of a good response holds.

    Raises MalformedReplyError when it is not what the protocol says, or the error that it reports instead.
    """
    try:
        data = _parse(raw)
        if not data.get("choices") and data.get("error"):
            raise _error_in_body(data["error"], raw, target, request_id)
        replies = _read_replies(data)
        extra = _read_logprobs(data)
        own_id = str(data.get("id") or "")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MalformedReplyError(
            f"{target} sent an answer that is not a chat completion ({type(error).__name__}: "
            f"{quote(str(error), target)}): {quote(raw.decode('utf-8', 'replace'), target)!r}",
            "A proxy may stand between, or base_url= leads to a server with another protocol.",
            provider=target.provider,
            request_id=request_id,
        ) from error
    return Answer(replies, request_id or own_id, extra)


def _parse(raw: bytes) -> Any:
    """Read JSON; where it is not strict (NaN, half of a surrogate pair, UTF-16), as the standard library reads it."""
    try:
        return orjson.loads(raw)
    except ValueError:
        return json.loads(raw)


def _read_replies(data: Mapping[str, Any]) -> tuple[Reply, ...]:
    choices = data["choices"]
    if not choices:
        raise ValueError("no choices")
    if len(choices) > 1:
        choices = sorted(choices, key=lambda choice: choice.get("index") or 0)
    model = str(data.get("model") or "")
    usage = data.get("usage") or {}
    input_tokens = _whole(usage.get("prompt_tokens"))
    shares = share_out(_whole(usage.get("completion_tokens")), len(choices))
    replies = []
    for choice, output_tokens in zip(choices, shares, strict=True):
        message = choice["message"]
        text = _text_of(message.get("content"))
        finish_reason = choice.get("finish_reason") or "stop"
        if text is None and message.get("refusal"):
            finish_reason = "refusal"
        replies.append(Reply(text, finish_reason, model, input_tokens, output_tokens))
        if input_tokens is not None:
            input_tokens = 0  # the prompt's stand on the first reply
    return tuple(replies)


def _text_of(content: object) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list):  # some servers send a list of parts
        return "".join(str(part.get("text", "")) for part in content)
    raise TypeError(f"content is a {type(content).__name__}")


def _whole(count: object) -> int | None:
    return int(count) if isinstance(count, (int, float)) else None


def share_out(total: int | None, n: int) -> list[int | None]:
    """Return n counts that add up to the total; the first ones take the remainder."""
    if total is None:
        return [None] * n
    share, remainder = divmod(total, n)
    return [share + (index < remainder) for index in range(n)]


def _read_logprobs(data: Mapping[str, Any]) -> Mapping[str, Any]:
    logprobs = [_in_one_form(choice.get("logprobs")) for choice in data["choices"]]
    return {"logprobs": logprobs} if any(logprobs) else {}


def _in_one_form(told: Any) -> Any:
    """Return the log-probabilities of one reply in OpenAI's form, also where they came as lists side by side."""
    if not isinstance(told, dict) or "content" in told or not isinstance(told.get("tokens"), list):
        return told
    pairs = zip(told["tokens"], told.get("token_logprobs") or (), strict=False)
    return {"content": [token_logprob(token, value) for token, value in pairs]}


def token_logprob(
    token: str, logprob: float | None, others: Iterable[tuple[str, float]] = ()
) -> dict[str, Any]:
    """Return the log-probability of one token, and of those that could have stood there, as OpenAI writes it."""
    top = [{"token": other, "logprob": value} for other, value in others]
    return {"token": token, "logprob": logprob, "top_logprobs": top}


def _error_in_body(detail: Any, raw: bytes, target: Target, request_id: str) -> ModelError:
    # Routers answer 200 and put the failure of the provider behind them into the body.
    code = detail.get("code") if isinstance(detail, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return error_of(status, {"x-request-id": request_id}, raw, target)

"""OpenAI's chat protocol as bytes and statuses: how an answer is read, and what each failure means."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

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
from distilnb.llms.request import Answer, Reply

MAX_QUOTED_CHARACTERS = 300  # of what a server says, in an error


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked, as messages tell it. The secrets are here only to be cut out of what the server says."""

    provider: str
    model: str
    host: str
    key_hint: str = ""  # what to do when the key is refused
    model_hint: str = ""  # what to do when the model is unknown
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return f"{self.provider} ({self.host}, model {self.model!r})"


# --- answers ------------------------------------------------------------------


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
            f"{_quote(str(error), target)}): {_quote(raw.decode('utf-8', 'replace'), target)!r}",
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
    shares = _share_out(_whole(usage.get("completion_tokens")), len(choices))
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


def _share_out(total: int | None, n: int) -> list[int | None]:
    """Return n counts that add up to the total; the first ones take the remainder."""
    if total is None:
        return [None] * n
    share, remainder = divmod(total, n)
    return [share + (index < remainder) for index in range(n)]


def _read_logprobs(data: Mapping[str, Any]) -> Mapping[str, Any]:
    logprobs = [choice.get("logprobs") for choice in data["choices"]]
    return {"logprobs": logprobs} if any(logprobs) else {}


def _error_in_body(detail: Any, raw: bytes, target: Target, request_id: str) -> ModelError:
    # Routers answer 200 and put the failure of the provider behind them into the body.
    code = detail.get("code") if isinstance(detail, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return error_of(status, {"x-request-id": request_id}, raw, target)


# --- failures -----------------------------------------------------------------


def error_of(status: int, headers: Mapping[str, str], raw: bytes, target: Target) -> ModelError:
    """Return the error that a response which is not 200 stands for. `headers` is read in lower case."""
    said, code = _read_error(raw, target)
    kind, happened, fix = _meaning(status, code, target)
    return kind(
        f"{target} {happened}: HTTP {status}" + (f": {said}" if said else ""),
        fix,
        provider=target.provider,
        request_id=headers.get("x-request-id", ""),
        status=status,
        retry_after_s=_retry_after_s(headers),
    )


def _meaning(status: int, code: str, target: Target) -> tuple[type[ModelError], str, str]:
    if status == 402 or (status == 429 and code in ("insufficient_quota", "billing_hard_limit_reached")):
        # Waiting does not help and every other request would fail too: fatal, as a wrong key is.
        return (
            AuthenticationError,
            "has no credit left on this account",
            "Add credit, or use another account's key.",
        )
    if status in (401, 403):
        return AuthenticationError, "refused the API key", target.key_hint
    if status == 404:
        return UnknownModelError, "does not know the model", target.model_hint
    if status == 429:
        return RateLimitError, "asks for fewer requests", "Lower max_concurrency=, or set rpm= and tpm=."
    if status == 408:
        return RequestTimeoutError, "gave up waiting for the request", "Lower max_concurrency=."
    if status >= 500 or status in (409, 425):
        return (
            ServerError,
            "failed to answer",
            "It is asked again; when it stays so, see the provider's status page.",
        )
    if 300 <= status < 400:
        return RefusedRequestError, "redirects elsewhere", "Set base_url= to the address it redirects to."
    return (
        RefusedRequestError,
        "called the request invalid",
        "Change what the message names in the step or its model.",
    )


def timed_out(target: Target, timeout_s: float) -> RequestTimeoutError:
    """Make the error for a request that brought no answer in time."""
    return RequestTimeoutError(
        f"{target} did not answer within {timeout_s:g} s.",
        "Raise timeout=, lower max_new_tokens, or lower max_concurrency=.",
        provider=target.provider,
    )


def unreachable(target: Target, reason: object) -> UnreachableError:
    """Make the error for a connection that could not be made, or broke."""
    return UnreachableError(
        f"No answer from {target}: {_quote(str(reason) or type(reason).__name__, target)}.",
        "Check that the server runs, the network and the proxy settings (HTTPS_PROXY, SSL_CERT_FILE).",
        provider=target.provider,
    )


def _read_error(raw: bytes, target: Target) -> tuple[str, str]:
    """Return the server's words and its code, from any of the shapes that servers use."""
    text = raw.decode("utf-8", "replace")
    try:
        data = json.loads(text)
    except ValueError:
        return _quote(re.sub(r"<[^>]*>", " ", text), target), ""
    detail = data.get("error", data) if isinstance(data, dict) else data
    if not isinstance(detail, dict):
        return _quote(str(detail), target), ""
    words = detail.get("message") or detail.get("detail") or text
    return _quote(str(words), target), str(detail.get("code") or detail.get("type") or "")


def _quote(text: str, target: Target) -> str:
    """Return what a server says on one line, cut, without any key."""
    for secret in target.secrets:
        text = text.replace(secret, "***")
    text = re.sub(r"\b(sk-|Bearer )[\w*.-]{4,}", r"\1***", text)
    text = " ".join(text.split())
    return text if len(text) <= MAX_QUOTED_CHARACTERS else text[: MAX_QUOTED_CHARACTERS - 1] + "…"


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return how long the server asks to wait: exact milliseconds, else seconds or a date."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value:
            try:
                wait_s = float(value) * unit_s
            except ValueError:
                return _seconds_until(value)
            return max(0.0, wait_s) if math.isfinite(wait_s) else None
    return None


def _seconds_until(date: str) -> float | None:
    from datetime import datetime, timezone
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(date)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())

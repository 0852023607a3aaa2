"""What each failure means: one family of errors, signs that providers share, a table of its own for each."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from distilnb.errors import (
    AuthenticationError,
    ContentFilterError,
    ContextLengthError,
    ModelError,
    QuotaExhaustedError,
    RateLimitError,
    RefusedRequestError,
    RequestTimeoutError,
    ServerError,
    UnknownModelError,
    UnreachableError,
)

MAX_QUOTED_CHARACTERS = 300  # of what a server says, in an error
_MAX_READ_CHARACTERS = 20_000  # in which signs are looked for


class Meaning(NamedTuple):
    """What a failure is; where `fix` is empty the model's own hint stands there."""

    kind: type[ModelError]
    happened: str
    fix: str = ""


class Sign(NamedTuple):
    """How a meaning shows in a response; of `code` and `words`, regular expressions, the empty one always fits.

    `code` is all of the error's code or type, `words` stands anywhere in the body, in any case.
    """

    meaning: Meaning
    statuses: frozenset[int] = frozenset()  # empty: any
    code: str = ""
    words: str = ""

    def fits(self, status: int, codes: tuple[str, ...], text: str) -> bool:
        """Tell whether a response shows this."""
        if self.statuses and status not in self.statuses:
            return False
        if self.code and not any(re.fullmatch(self.code, code) for code in codes):
            return False
        return not self.words or re.search(self.words, text, re.IGNORECASE) is not None


def on(*statuses: int) -> frozenset[int]:
    """Return statuses as a sign holds them."""
    return frozenset(statuses)


WRONG_KEY = Meaning(AuthenticationError, "refused the API key")
UNKNOWN_MODEL = Meaning(UnknownModelError, "does not know the model")
# Waiting does not help and every other request would fail too: fatal, as a wrong key is.
NO_CREDIT = Meaning(
    QuotaExhaustedError, "has no credit left on this account", "Add credit, or use another account's key."
)
TOO_FAST = Meaning(RateLimitError, "asks for fewer requests", "Lower max_concurrency=, or set rpm= and tpm=.")
TOO_SLOW = Meaning(RequestTimeoutError, "gave up waiting for the request", "Lower max_concurrency=.")
FAILED = Meaning(
    ServerError,
    "failed to answer",
    "It is asked again; when it stays so, see the provider's status page.",
)
TOO_LONG = Meaning(
    ContextLengthError,
    "finds the request too long for the model",
    "Shorten the prompt, lower max_new_tokens, or use a model that reads more.",
)
FILTERED = Meaning(
    ContentFilterError,
    "refused the request for its content",
    "Change the prompt, or the filter in the provider's settings.",
)
REDIRECTED = Meaning(
    RefusedRequestError, "redirects elsewhere", "Set base_url= to the address it redirects to."
)
INVALID = Meaning(
    RefusedRequestError,
    "called the request invalid",
    "Change what the message names in the step or its model.",
)

# What many providers have in common; a provider's own table comes before it.
_SHARED = (
    Sign(NO_CREDIT, on(402)),
    Sign(NO_CREDIT, on(429), code="insufficient_quota|billing_hard_limit_reached"),
    Sign(UNKNOWN_MODEL, on(400), code="model_not_found"),
    Sign(FILTERED, on(400, 403), code="content_filter|content_policy_violation|ResponsibleAIPolicyViolation"),
    Sign(TOO_LONG, on(400, 413, 422), code="context_length_exceeded"),
    Sign(
        TOO_LONG, on(400, 413, 422), words=r"maximum context length|context window|(prompt|input) is too long"
    ),
    Sign(WRONG_KEY, on(401, 403)),
    Sign(UNKNOWN_MODEL, on(404)),
    Sign(TOO_FAST, on(429)),
    Sign(TOO_SLOW, on(408)),
    Sign(FAILED, on(409, 425)),
    Sign(
        INVALID, on(500), words=r"validation errors?:.{0,100}'loc': \('body'"
    ),  # so says llama.cpp's in Python
)


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked, as messages tell it. The secrets are here only to be cut out of what the server says."""

    provider: str
    model: str
    host: str
    key_hint: str = ""  # what to do when the key is refused
    model_hint: str = ""  # what to do when the model is unknown
    secrets: tuple[str, ...] = field(default=(), repr=False)
    signs: tuple[Sign, ...] = field(default=(), repr=False)  # the provider's own table

    def __str__(self) -> str:
        return f"{self.provider} ({self.host}, model {self.model!r})"


def error_of(status: int, headers: Mapping[str, str], raw: bytes, target: Target) -> ModelError:
    """Return the error that a response which is not 200 stands for. `headers` is read in lower case."""
    text = raw.decode("utf-8", "replace")
    said, codes, details = _read_error(text, target)
    kind, happened, fix = _meaning(status, codes, text[:_MAX_READ_CHARACTERS], target)
    return kind(
        f"{target} {happened}: HTTP {status}" + (f": {said}" if said else ""),
        fix or _own_hint(kind, target),
        provider=target.provider,
        request_id=request_id_of(headers),
        status=status,
        retry_after_s=_retry_after_s(headers, details, said),
    )


def _meaning(status: int, codes: tuple[str, ...], text: str, target: Target) -> Meaning:
    for sign in (*target.signs, *_SHARED):
        if sign.fits(status, codes, text):
            return sign.meaning
    if status >= 500:
        return FAILED
    return REDIRECTED if 300 <= status < 400 else INVALID


def _own_hint(kind: type[ModelError], target: Target) -> str:
    return target.key_hint if kind is AuthenticationError else target.model_hint


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
        f"No answer from {target}: {quote(str(reason) or type(reason).__name__, target)}.",
        "Check that the server runs, the network and the proxy settings (HTTPS_PROXY, SSL_CERT_FILE).",
        provider=target.provider,
    )


def request_id_of(headers: Mapping[str, str]) -> str:
    """Return the name that the provider gave a request; its support asks for it."""
    for name in ("x-request-id", "request-id", "apim-request-id", "mistral-correlation-id"):
        if headers.get(name):
            return headers[name]
    return ""


# What keys look like; after a short beginning that words may have too, only what is long.
_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:((?i:bearer\s+)|sk-)[\w*.~+/=-]{4,}"
    r"|(AIza|AKIA|ASIA|gsk_|hf_|xai-|pplx-|nvapi-|r8_|fw_|tgp_v1_|ya29\.|gh[pousr]_|github_pat_)[\w*.~+/=-]{12,})"
)


def quote(text: str, target: Target) -> str:
    """Return what a server says on one line, cut, without any key."""
    for secret in sorted(target.secrets, key=len, reverse=True):  # one may be the beginning of another
        text = text.replace(secret, "***")
    text = _KEY.sub(lambda found: f"{found[1] or found[2]}***", text)
    text = " ".join(text.split())
    return text if len(text) <= MAX_QUOTED_CHARACTERS else text[: MAX_QUOTED_CHARACTERS - 1] + "…"


def _read_error(text: str, target: Target) -> tuple[str, tuple[str, ...], Any]:
    """Return the server's words, its codes and what else it says, from any of the shapes that servers use."""
    try:
        data = json.loads(text)
    except ValueError:
        return quote(re.sub(r"<[^>]*>", " ", text), target), (), None
    if isinstance(data, list) and len(data) == 1:  # Google's, now and then
        data = data[0]
    detail = data.get("error", data) if isinstance(data, dict) else data
    if not isinstance(detail, dict):
        return quote(str(detail), target), _codes_in(data), None
    words = detail.get("message") or detail.get("detail") or text
    return quote(str(words), target), _codes_in(detail, detail.get("innererror")), detail.get("details")


def _codes_in(*places: Any) -> tuple[str, ...]:
    found = [
        place.get(name)
        for place in places
        if isinstance(place, dict)
        for name in ("code", "type", "status", "error_type")
    ]
    return tuple(str(code) for code in found if isinstance(code, (str, int)))


_SAID_WAIT = re.compile(r"(?:try again|retry) (?:in|after) ([\d.]+) ?(ms|s|seconds?)\b", re.IGNORECASE)


def _retry_after_s(headers: Mapping[str, str], details: Any, said: str) -> float | None:
    """Return how long the server asks to wait: exact milliseconds, else seconds or a date, else in its words."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value:
            try:
                wait_s = float(value) * unit_s
            except ValueError:
                return _seconds_until(value)
            return max(0.0, wait_s) if math.isfinite(wait_s) else None
    if isinstance(details, list):
        for detail in details:
            delay = detail.get("retryDelay") if isinstance(detail, dict) else None
            if isinstance(delay, str) and re.fullmatch(r"\d+(\.\d+)?s", delay):
                return float(delay[:-1])
    found = _SAID_WAIT.search(said)
    if found and re.fullmatch(r"\d+(\.\d+)?", found[1].rstrip(".")):
        return float(found[1].rstrip(".")) * (0.001 if found[2].lower() == "ms" else 1.0)
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

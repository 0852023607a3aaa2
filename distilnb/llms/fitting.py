"""Reading a reply that should have a shape: what it holds, or where and why it does not fit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from distilnb.errors import ParseError, SpecError
from distilnb.llms.request import Message, Request
from distilnb.llms.shape import WRAPPED, ReplyShape

MAX_PROBLEMS = 3  # of a document, in one message
MAX_QUOTED = 200  # characters of what is wrong
_FIX = "Say in the prompt what is wanted, loosen the schema, or raise max_reasks=."
_FENCE = re.compile(r"```[\w-]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_AROUND = " \t\r\n\"'`*“”"
_CLOSERS = {"{": "}", "[": "]"}


class Fitted(NamedTuple):
    """What a reply holds: as JSON-ready data, as text without all that stood around it, and as its reader gets it.

    `read` is an instance of the pydantic model where there is one, else the data.
    """

    value: Any
    text: str
    read: Any


def fit(
    text: str | None, shape: ReplyShape, model: type[BaseModel] | None = None, *, is_truncated: bool = False
) -> Fitted:
    """Return what a reply holds, validated against its shape, and by `model` where there is one.

    JSON is taken out of a fence or the words around it and mended where its syntax is slightly wrong, but never
    where it was cut off. Case, spaces and quotes around a choice do not count. Raises ParseError, which names the
    place in the document and what was expected.

    >>> fit(' "YES" ', ReplyShape("choice", choices=("yes", "no"))).value
    'yes'
    """
    if text is None or not text.strip():
        raise ParseError(
            "The reply is empty.", "Raise max_new_tokens if the model thinks first, or ask again."
        )
    said = without_thoughts(text)
    try:
        if shape.kind == "json":
            value, read = _fit_json(said, shape, model, is_truncated)
            return Fitted(value, json.dumps(value, ensure_ascii=False), read)
        found = _fit_choice(said, shape) if shape.kind == "choice" else _fit_pattern(said, shape)
        return Fitted(found, found, found)
    except ParseError as error:
        if not is_truncated:
            raise
        raise ParseError(
            f"The reply was cut off at the token limit. {error.what}", "Raise max_new_tokens."
        ) from error


def without_thoughts(reply: str) -> str:
    """Return what a reply says after the thinking that some models show before it."""
    after = reply.rpartition("</think>")[2]
    return after if after.strip() else reply


def asked_again(request: Request, reply: str | None, wrong: str, number: int) -> Request:
    """Return the request that quotes a reply which does not fit, says what is wrong with it, and asks for another.

    The request may be such a re-ask itself: then the model sees all that was wrong so far.

    `number` tells the re-asks of one reply apart, for stand-ins that rehearse.
    """
    assert request.shape is not None
    words = f"That reply cannot be used. {wrong}\nReply again with {request.shape.in_words()}\nWrite nothing else."
    said: list[Message] = [
        {"role": "assistant", "content": reply if reply and reply.strip() else "(no reply)"},
        {"role": "user", "content": words},
    ]
    return Request((*request.messages, *said), 1, request.shape, request.sample, f"{request.salt}~{number}")


# --- text -----------------------------------------------------------------------


def _fit_choice(text: str, shape: ReplyShape) -> str:
    for candidate in _texts(text):
        if candidate in shape.choices:
            return candidate
    folded: dict[str, list[str]] = {}
    for choice in shape.choices:
        folded.setdefault(_folded(choice), []).append(choice)
    for candidate in _texts(text):
        found = folded.get(_folded(candidate)) or folded.get(_folded(candidate.rstrip(".。!")), [])
        if len(found) == 1:
            return found[0]
    raise ParseError(f"The reply {_quoted(text)} is none of {list(shape.choices)}.", _FIX)


def _fit_pattern(text: str, shape: ReplyShape) -> str:
    pattern = re.compile(shape.pattern)
    for candidate in _texts(text):
        if pattern.fullmatch(candidate):
            return candidate
    raise ParseError(
        f"The reply {_quoted(text)} does not match, as a whole, the regular expression {shape.pattern!r}.",
        _FIX,
    )


def _texts(text: str) -> Iterator[str]:
    """Yield what a reply may mean: itself, without spaces, as a field of an object, without fence and quotes."""
    yield text
    stripped = text.strip()
    yield stripped
    if (fence := _FENCE.fullmatch(stripped)) is not None:
        yield fence[1].strip()
        stripped = fence[1].strip()
    try:
        data = json.loads(stripped, strict=False)
    except (ValueError, RecursionError):
        data = None
    if isinstance(data, dict) and data.keys() == {WRAPPED}:
        data = data[WRAPPED]
    if isinstance(data, str):
        yield data
    yield stripped.strip(_AROUND)


def _folded(text: str) -> str:
    return " ".join(text.strip(_AROUND).casefold().split())


# --- JSON -----------------------------------------------------------------------


def _fit_json(
    text: str, shape: ReplyShape, model: type[BaseModel] | None, is_truncated: bool
) -> tuple[Any, Any]:
    """Return the first document found in a reply that fits, as data and as read.

    Raises what is wrong with the first that there is.
    """
    failure: ParseError | None = None
    for document in _documents(text, shape, mends=not is_truncated):
        if not shape.is_object and isinstance(document, dict) and document.keys() == {WRAPPED}:
            document = document[WRAPPED]
        try:
            return _validated(document, shape, model)
        except ParseError as error:
            failure = failure or error
    raise failure or ParseError(f"The reply {_quoted(text)} is no JSON{_where(text)}.", _FIX)


def _documents(text: str, shape: ReplyShape, *, mends: bool) -> Iterator[Any]:
    """Yield the JSON documents that a reply may hold, the likeliest first; mended ones only after the others."""
    parts = [text.strip(), *(fence[1] for fence in _FENCE.finditer(text))]
    for part in parts:
        try:
            # Not strict: guided decoding lets control characters into texts.
            yield json.loads(part, strict=False, parse_constant=_no_number)
        except (ValueError, RecursionError):
            continue
    decoder = json.JSONDecoder(strict=False, parse_constant=_no_number)
    openings = ("{",) if shape.is_object else ("{", "[")
    starts = [at for at in (text.find(one) for one in openings) if at >= 0]
    for start in sorted(starts):
        try:
            yield decoder.raw_decode(text, start)[0]
        except (ValueError, RecursionError):
            continue
    for start in sorted(starts) if mends else ():
        mended = _mended(next((p for p in parts[1:] if p.strip()[:1] in openings), text[start:]))
        if isinstance(mended, (dict, list)) and mended:
            yield mended


def _mended(text: str) -> Any:
    """Return a document whose syntax is wrong somewhere, mended; None when it may have been cut off."""
    text = text.strip()
    if text.count('"') - text.count('\\"') & 1:  # a text that does not end
        return None
    n_open = [text.count(one) - text.count(closer) for one, closer in _CLOSERS.items()]
    if any(n > 0 for n in n_open) and text[-1:] in ",:{[\"'":
        return None
    try:
        from json_repair import repair_json

        return repair_json(text, return_objects=True)
    except (ValueError, RecursionError, IndexError):
        return None


def _validated(document: Any, shape: ReplyShape, model: type[BaseModel] | None) -> tuple[Any, Any]:
    if shape.is_object and not isinstance(document, dict):
        raise _misfit([f"at $: expected an object, got {_quoted(json.dumps(document))}"])
    if model is not None:
        try:
            instance = model.model_validate(document)
        except ValidationError as error:
            problems = [
                f"at {_path(problem['loc'])}: {problem['msg']}{_got(problem)}" for problem in error.errors()
            ]
            raise _misfit(problems) from error
        return instance.model_dump(mode="json", by_alias=True), instance
    if shape.schema is None:
        return document, document
    found = _problems(document, json.dumps(shape.schema))
    if found:
        raise _misfit([f"at {error.json_path}: {error.message:.{MAX_QUOTED}}" for error in found])
    return document, document


def _problems(document: Any, schema: str) -> list[Any]:
    from referencing.exceptions import Unresolvable

    try:
        return sorted(_validator(schema).iter_errors(document), key=lambda error: len(error.path))
    except Unresolvable as error:
        raise SpecError(
            f"The JSON schema refers to {error.ref!r}, which is not in it.", "Put it below '$defs'."
        ) from error


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    import jsonschema
    from jsonschema.validators import validator_for
    from referencing import Registry

    data = json.loads(schema)
    kind = validator_for(data, default=jsonschema.Draft202012Validator)
    # Its own registry, which is empty: a schema from a row must not make this process fetch what it refers to.
    return kind(data, registry=Registry())


def _misfit(problems: list[str]) -> ParseError:
    more = f" (and {len(problems) - MAX_PROBLEMS} more)" if len(problems) > MAX_PROBLEMS else ""
    return ParseError(f"The reply does not fit: {'; '.join(problems[:MAX_PROBLEMS])}{more}.", _FIX)


def _path(loc: tuple[int | str, ...]) -> str:
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)


def _got(problem: Any) -> str:
    return "" if problem["type"] == "missing" else f" (got {problem.get('input')!r:.60})"


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _quoted(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 80 else text[:79] + "…")


def _where(text: str) -> str:
    """Return where the parser of JSON gave up; "" where the reply does not even begin as a document."""
    start = next((at for at, letter in enumerate(text) if letter in "{["), None)
    if start is None:
        return ""
    try:
        json.loads(text[start:], strict=False)
    except ValueError as error:
        return f": {error}"
    except RecursionError:
        return ": it is nested too deeply"
    return ""

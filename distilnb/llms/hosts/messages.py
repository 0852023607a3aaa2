"""What clients and a model host say to each other: JSON messages, each behind its length.

client → host   {"do": "hello", keep_alive}   {"do": "ask", id, messages, n, first, shape, mode, parameters}
                {"do": "cancel", id}          {"do": "unload"}
host → client   {"say": "state", state, what}  {"say": "answer", id, completions, input_tokens}
                {"say": "error", id, kind, what, fix}  {"say": "failed", kind, what, fix}
                {"say": "beat", still_s}       {"say": "bye", why}

A host that was told to leave, or that nobody asked for a while, says `bye` before it hangs up; one that hangs up
without it has died.
"""

from __future__ import annotations

import asyncio
import json
import struct
from dataclasses import asdict
from typing import Any, TypeAlias

from distilnb import errors
from distilnb.errors import ModelError, ServerError
from distilnb.llms.shape import ReplyShape

Message: TypeAlias = dict[str, Any]

_LENGTH = struct.Struct(">I")


def encode(message: Message) -> bytes:
    """Return a message as it goes over the socket."""
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":"), default=str)
    data = text.encode("utf-8", "surrogatepass")
    return _LENGTH.pack(len(data)) + data


async def read_message(reader: asyncio.StreamReader) -> Message | None:
    """Return the next message; None at the end, where a half one counts for none."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        data = await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    message: Message = json.loads(data.decode("utf-8", "surrogatepass"))
    return message


def dump_shape(shape: ReplyShape | None) -> dict[str, Any] | None:
    """Return a shape as JSON-ready data."""
    return None if shape is None else asdict(shape)


def read_shape(data: dict[str, Any] | None) -> ReplyShape | None:
    """Return the shape that `dump_shape` wrote."""
    return None if data is None else ReplyShape(**{**data, "choices": tuple(data["choices"])})


def dump_error(error: BaseException) -> Message:
    """Return an error as JSON-ready data."""
    what = error.what if isinstance(error, errors.DistilnbError) else f"{type(error).__name__}: {error}"
    fix = error.fix if isinstance(error, errors.DistilnbError) else ""
    return {"kind": type(error).__name__, "what": what, "fix": fix}


def read_error(message: Message, provider: str, otherwise: type[ModelError] = ServerError) -> ModelError:
    """Return the model's error that a message tells; of the kind `otherwise` where it was none of ours."""
    kind = getattr(errors, message["kind"], None)
    if not (isinstance(kind, type) and issubclass(kind, ModelError)):
        kind = otherwise
    return kind(message["what"], message["fix"], provider=provider)

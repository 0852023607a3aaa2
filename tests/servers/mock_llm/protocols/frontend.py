"""What the server needs of a provider's protocol."""

import base64
import json
import math
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from ..config import Config
from ..faults import Failure
from ..replies import Call, JsonObject, Picture, Vectors, Written

Headers = Mapping[str, str]
Response = tuple[int, JsonObject | str, dict[str, str]]  # status, body, headers


IMAGE_TYPES: dict[str, bytes] = {  # and how their files begin
    "image/png": b"\x89PNG",
    "image/jpeg": b"\xff\xd8\xff",
    "image/gif": b"GIF8",
    "image/webp": b"RIFF",
}


class Invalid(Exception):
    """The request is not what the provider's reference says."""


class FrontEnd:
    """How one provider's API reads requests, and words replies and failures.

    `name` is the first part of its paths on the server, which its own paths follow.
    """

    name: ClassVar[str]

    def endpoint(self, method: str, path: str) -> str:
        """Return what is asked for: "chat", another that `read` knows, "models", or "" for nothing."""
        raise NotImplementedError

    def key_in(self, headers: Headers) -> str:
        """Return the API key of a request."""
        return headers.get("Authorization", "").removeprefix("Bearer ")

    def read(self, endpoint: str, path: str, body: JsonObject, config: Config) -> Call:
        """Read a request; raise Invalid, ValueError, KeyError, TypeError or AttributeError when it is wrong."""
        raise NotImplementedError

    def word(self, call: Call, written: Written | Vectors, config: Config) -> JsonObject:
        """Return the body of a good answer."""
        raise NotImplementedError

    def word_picture(self, call: Call, picture: Picture, config: Config) -> JsonObject | bytes:
        """Return the body of a good answer with an image."""
        raise NotImplementedError

    def fail(self, failure: Failure) -> Response:
        """Return the response to a request that fails."""
        raise NotImplementedError

    def models(self, path: str, config: Config) -> Response:
        """Return the list of models, or one of them."""
        return self.fail(Failure("route", f"no route for {path}"))

    def answer_headers(self, key: str) -> dict[str, str]:
        """Return the headers of a good answer, but those that every answer has."""
        return {}


def fields(names: str) -> frozenset[str]:
    """Return the names of fields that a text lists."""
    return frozenset(names.split())


def refuse_unknown(body: Mapping[str, Any], known: Collection[str], where: str = "") -> None:
    """Raise Invalid for a field that the reference does not list."""
    for name in body:
        if name not in known:
            raise Invalid(f"Unknown field: {where}{name}")


def refuse_wrong(value: Any, kind: type | tuple[type, ...], name: str) -> None:
    """Raise Invalid for a value of a type that the reference does not say."""
    is_bool_for_number = isinstance(value, bool) and kind is not bool
    if value is not None and (is_bool_for_number or not isinstance(value, kind)):
        raise Invalid(f"{name}: wrong type {type(value).__name__}")


def texts(value: Any) -> tuple[str, ...]:
    """Return a stop sequence, or a list of them, as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(str(item) for item in value)


def as_prompt(messages: Any) -> str:
    """Return messages as the text in which marks are looked for; raise Invalid when there are none."""
    if not isinstance(messages, list) or not messages:
        raise Invalid("messages must be a non-empty list")
    return json.dumps(messages, sort_keys=True)


def check_image(media_type: Any, data: Any, name: str) -> None:
    """Raise Invalid for an image that is no base64 text of one of the four kinds of files."""
    if media_type not in IMAGE_TYPES:
        raise Invalid(f"{name}: media type {media_type!r} is not supported")
    try:
        begin = base64.b64decode(data, validate=True)[:12]
    except (TypeError, ValueError):
        raise Invalid(f"{name}: invalid base64") from None
    if not begin.startswith(IMAGE_TYPES[media_type]):
        raise Invalid(f"{name}: the content is no {media_type}")


def check_address(address: Any, name: str) -> None:
    """Raise Invalid for what is neither a web address nor a data URI of an image."""
    head, is_data, data = str(address).partition(";base64,")
    if is_data and head.startswith("data:"):
        check_image(head.removeprefix("data:"), data, name)
    elif not str(address).startswith(("http://", "https://")):
        raise Invalid(f"{name}: not an address")


def check_openai_parts(messages: Any) -> None:
    """Raise Invalid for a part of a message that OpenAI's reference does not list."""
    for message in messages:
        for part in message["content"] if isinstance(message.get("content"), list) else ():
            if part.get("type") == "image_url":
                image = part["image_url"]
                check_address(image if isinstance(image, str) else image["url"], "image_url")
            elif part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise Invalid(f"Invalid content part of type {part.get('type')!r}")


def text_of(content: Any) -> str:
    """Return the text of a message's content, a string or a list of parts."""
    if isinstance(content, str):
        return content
    return " ".join(str(part.get("text", "")) for part in content or ())


def blank_out(key: str) -> str:
    """Return a key as the real API quotes it: its middle blanked out."""
    return f"{key[:4]}{'*' * 8}{key[-4:]}" if len(key) > 12 else "*" * len(key)


def retry_after(wait_s: float) -> dict[str, str]:
    """Return the header that tells a client to wait.

    It is in whole seconds by its standard; a fraction is sent only for waits under one, where rounding up
    would make a short test long.
    """
    return {"Retry-After": f"{math.ceil(wait_s)}" if wait_s >= 1 else f"{wait_s:.3g}"}

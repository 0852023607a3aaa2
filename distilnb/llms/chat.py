"""A request in the words of OpenAI's chat protocol: its body, and the ways to force a shape on the replies."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from distilnb.llms.images import check_sees, for_openai, has_parts
from distilnb.llms.request import Message, Request
from distilnb.llms.shape import PROMPT, ReplyShape, told

# What each server of the protocol forces a shape with; the first that it does not refuse is used. OpenAI's own takes
# `json_schema`, llama.cpp's only `json_object` with the schema beside it, vLLM's also `structured_outputs` (before
# 0.11 `guided_*`), and some nothing but `json_object`.
JSON_MODES = ("json_schema", "json_object_schema", "json_object")
TEXT_MODES = ("json_schema", "json_object_schema")  # the text stands in an object
VLLM_TEXT_MODES = ("structured_outputs", *TEXT_MODES)
OPENAI_JSON_MODES = ("json_schema", "json_object")
OPENAI_TEXT_MODES = ("json_schema",)


class BodyMaker:
    """Makes the body of a request; what all requests share is made once.

    `max_n` is the most replies that one request may ask for. A request for the rest of them has another seed
    (`seed_name`), or it would bring those that are there. `shows_schema` says that the server itself shows the
    model the schema that it forces, so the prompt need not.
    """

    def __init__(
        self,
        shared: Mapping[str, Any],
        extra: Mapping[str, Any],
        *,
        max_n: int | None = None,
        seed_name: str = "seed",
        shows_schema: bool = False,
        title: str = "This model",
        takes_images: Collection[str] = ("url", "file"),
    ) -> None:
        self._shared = shared
        self._extra = extra
        self._max_n = max_n
        self._seed_name = seed_name
        self._shows_schema = shows_schema
        self._title = title
        self._takes_images = takes_images

    def __call__(self, request: Request) -> dict[str, Any]:
        messages: Sequence[Message] = request.messages
        if has_parts(messages):
            check_sees(self._title, self._takes_images, messages)
            messages = for_openai(messages)
        body = {**self._shared, "messages": messages}
        if request.n > 1 and self._max_n != 1:
            body["n"] = min(request.n, self._max_n or request.n)
        if request.first and isinstance(body.get(self._seed_name), int):
            body[self._seed_name] += request.first
        if request.shape is not None and request.mode != PROMPT:
            body.update(forcing(request.shape, request.mode))
            if not (self._shows_schema and request.mode in ("", "json_schema")):
                body["messages"] = told(messages, request.shape)
        if self._extra:
            body.update(self._extra)
        return body


def forcing(shape: ReplyShape, mode: str) -> dict[str, Any]:
    """Return the fields of a body that force a shape in one of the modes above; `json_schema` when none is named."""
    if mode == "json_object":
        return {"response_format": {"type": "json_object"}}
    if mode == "json_object_schema":
        return {"response_format": {"type": "json_object", "schema": shape.as_object()}}
    if mode == "structured_outputs":
        return {"structured_outputs": _constraint(shape)}
    if mode == "guided":
        return {f"guided_{name}": value for name, value in _constraint(shape).items()}
    return {"response_format": _json_schema(shape)}


def _constraint(shape: ReplyShape) -> dict[str, Any]:
    if shape.kind == "choice":
        return {"choice": list(shape.choices)}
    return (
        {"regex": shape.pattern}
        if shape.kind == "regex"
        else {"json": dict(shape.schema or {"type": "object"})}
    )


def _json_schema(shape: ReplyShape) -> dict[str, Any]:
    schema = shape.as_object()
    return {
        "type": "json_schema",
        "json_schema": {"name": shape.name, "schema": schema, "strict": _is_strict(schema)},
    }


def _is_strict(schema: object) -> bool:
    """Tell whether OpenAI's strict mode takes a schema: objects closed, all their fields required."""
    if isinstance(schema, list):
        return all(_is_strict(item) for item in schema)
    if not isinstance(schema, Mapping):
        return True
    if "properties" in schema or schema.get("type") == "object":
        fields = schema.get("properties") or {}
        if schema.get("additionalProperties") is not False or fields.keys() != set(
            schema.get("required", ())
        ):
            return False
    return all(_is_strict(value) for value in schema.values())

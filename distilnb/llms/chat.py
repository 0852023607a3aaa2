"""A request in the words of OpenAI's chat protocol: its body, and the JSON schema that replies follow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from distilnb.errors import SpecError, UnsupportedParameterError
from distilnb.llms.request import Request


class BodyMaker:
    """Makes the body of a request; what all requests share is made once."""

    def __init__(self, shared: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
        self._shared = shared
        self._extra = extra

    def __call__(self, request: Request) -> dict[str, Any]:
        body = {**self._shared, "messages": request.messages}
        if request.n > 1:
            body["n"] = request.n
        if request.schema is not None:
            body["response_format"] = _json_schema(request.schema)
        if self._extra:
            body.update(self._extra)
        return body


def response_format(wanted: Mapping[str, Any] | None, provider: str) -> dict[str, Any] | None:
    """Return OpenAI's `response_format` for a `structured_output` as 1.x pipelines write it.

    Raises UnsupportedParameterError for a format other than JSON, SpecError for a schema that is none.
    """
    if wanted is None:
        return None
    form = wanted.get("format", "json")
    if form != "json":
        raise UnsupportedParameterError(
            f"structured_output has format {form!r}; OpenAI's protocol knows 'json' only.",
            "Use a JSON schema, or put the server's own field into generation_kwargs: extra={...}.",
            provider=provider,
        )
    schema = wanted.get("schema")
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        schema = schema.model_json_schema()
    if schema is not None and not isinstance(schema, Mapping):
        raise SpecError(
            f"structured_output has a schema of type {type(schema).__name__!r}.",
            "Give a JSON schema as a dict, or a pydantic model.",
        )
    return {"type": "json_object"} if schema is None else _json_schema(schema)


def _json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    name = re.sub(r"[^a-zA-Z0-9_-]+", "_", str(schema.get("title") or "reply"))[:64]
    return {
        "type": "json_schema",
        "json_schema": {"name": name, "schema": schema, "strict": _is_strict(schema)},
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

"""From a JSON schema to a value that satisfies it."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from .chance import Draw

Schema = Mapping[str, Any]

_ALTERNATIVES = re.compile(r"\^\(\?:([\w ]+(?:\|[\w ]+)*)\)\$")

# Past this depth optional branches are cut, so that a recursive schema ends.
DEEP = 4


def instance_of(schema: object, draw: Draw) -> Any:
    """Return a JSON value that satisfies `schema`.

    Covers what structured outputs use: $ref, $defs, enum, const, anyOf, oneOf, allOf, type lists,
    objects, arrays, numeric bounds, string lengths, the common formats, and a `pattern` of words to choose from.
    """
    return _Maker(schema, draw).make(schema)


class _Maker:
    """Walks one schema; keeps its root (for references) and its draw."""

    def __init__(self, root: object, draw: Draw) -> None:
        self.root = root
        self.draw = draw

    def make(self, schema: object, depth: int = 0) -> Any:
        if not isinstance(schema, Mapping):
            return self.draw.words(1)
        if "$ref" in schema:
            return self.make(self._target(schema["$ref"]), depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self.draw.choice(schema["enum"])
        if options := schema.get("anyOf") or schema.get("oneOf"):
            plain = [option for option in options if "$ref" not in option and "items" not in option]
            chosen = self.draw.choice(plain if depth > DEEP and plain else options)
            return self.make(chosen, depth + 1)
        if "allOf" in schema:
            return self.make(self._merged(schema), depth + 1)
        return self._of_type(schema, depth)

    def _of_type(self, schema: Schema, depth: int) -> Any:
        kind = _type_of(schema)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        if kind == "integer":
            return self._integer(schema)
        if kind == "number":
            return self._number(schema)
        if kind == "boolean":
            return self.draw.unit() < 0.5
        return None if kind == "null" else self._string(schema)

    def _target(self, reference: str) -> Any:
        node: Any = self.root
        for part in reference.removeprefix("#").strip("/").split("/"):
            if part:
                node = node[part.replace("~1", "/").replace("~0", "~")]
        return node

    def _merged(self, schema: Schema) -> dict[str, Any]:
        """Fold the parts of an allOf into one schema."""
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            while "$ref" in part:
                part = self._target(part["$ref"])
            for key, value in part.items():
                if key == "properties":
                    merged[key] = {**merged.get(key, {}), **value}
                elif key == "required":
                    merged[key] = [*merged.get(key, []), *value]
                else:
                    merged[key] = value
        return merged

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        required = set(schema.get("required", ()))
        return {
            name: self.make(value, depth + 1)
            for name, value in schema.get("properties", {}).items()
            if depth <= DEEP + 2 or name in required
        }

    def _array(self, schema: Schema, depth: int) -> list[Any]:
        prefix = list(schema.get("prefixItems", ()))
        low = int(schema.get("minItems", 0))
        high = int(schema.get("maxItems", max(low, len(prefix), 2)))
        count = low if depth > DEEP else self.draw.integer(max(low, min(1, high)), max(low, high))
        count = max(count, min(len(prefix), high))
        tail = schema.get("items", {"type": "string"})
        items = [*prefix, *[tail] * max(0, count - len(prefix))]
        return [self.make(item, depth + 1) for item in items[:count]]

    def _integer(self, schema: Schema) -> int:
        low, high = _bounds(schema, step=1)
        step = schema.get("multipleOf", 1)
        first, last = math.ceil(low / step), math.floor(high / step)
        return int(self.draw.integer(first, max(first, last)) * step)

    def _number(self, schema: Schema) -> float:
        low, high = _bounds(schema, step=1e-3)
        if step := schema.get("multipleOf"):
            first, last = math.ceil(low / step), math.floor(high / step)
            return float(self.draw.integer(first, max(first, last)) * step)
        return low + self.draw.unit() * (high - low)

    def _string(self, schema: Schema) -> str:
        if make := _FORMATS.get(str(schema.get("format"))):
            return make(self.draw)
        if alternatives := _ALTERNATIVES.fullmatch(str(schema.get("pattern", ""))):
            return self.draw.choice(alternatives[1].split("|"))
        text = self.draw.words(4)
        while len(text) < int(schema.get("minLength", 0)):
            text += " " + self.draw.words(4)
        return text[: int(schema["maxLength"])] if "maxLength" in schema else text


def _type_of(schema: Schema) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        return next((str(name) for name in kind if name != "null"), "null")
    if kind is None:
        return "object" if "properties" in schema else "array" if "items" in schema else "string"
    return str(kind)


def _bounds(schema: Schema, step: float) -> tuple[float, float]:
    """Return the closed range of a number; `step` is how far an exclusive bound is kept away."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + step
    if high is None and "exclusiveMaximum" in schema:
        high = schema["exclusiveMaximum"] - step
    if low is None:
        low = 0 if high is None else high - 10
    return float(low), float(low + 10 if high is None else high)


def _date(draw: Draw) -> str:
    return f"20{draw.integer(10, 29)}-{draw.integer(1, 12):02d}-{draw.integer(1, 28):02d}"


_FORMATS: Mapping[str, Callable[[Draw], str]] = {
    "date": _date,
    "date-time": lambda draw: f"{_date(draw)}T12:00:00Z",
    "time": lambda draw: f"{draw.integer(0, 23):02d}:00:00Z",
    "email": lambda draw: f"{draw.words(1)}@example.com",
    "uri": lambda draw: f"https://example.com/{draw.words(1)}",
    "uuid": lambda draw: f"{draw.bits(32):08x}-0000-4000-8000-{draw.bits(48):012x}",
}

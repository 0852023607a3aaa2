"""A value that satisfies a JSON schema, made by chance: what the rehearsal model answers to one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from distilnb.llms.patterns import text_matching

Schema = Mapping[str, Any]

DEEP = (
    5  # below this, optional parts are left out and plain alternatives chosen, so that recursive schemas end
)
_WORDS = """
amber basin cedar delta ember fjord grove harbor island juniper kettle lagoon meadow north orchard prairie
quartz ridge summit tundra upland valley willow zephyr anchor beacon copper drift engine fabric
""".split()  # noqa: SIM905 - thirty strings in quotes would be a page


def instance_of(schema: Schema | bool, random: Random) -> Any:
    """Return a JSON value that satisfies a schema.

    It covers what structured outputs use: references, enumerations, alternatives, objects, arrays, bounds,
    lengths, formats and patterns. Not covered: `not`, `if`, `dependentRequired` and other conditions.

    >>> instance_of({"type": "object", "required": ["a"], "properties": {"a": {"const": 1}}}, Random(0))
    {'a': 1}
    """
    return _Maker(schema, random).make(schema, 0)


class _Maker:
    """Walks one schema; keeps its root, for references."""

    def __init__(self, root: Schema | bool, random: Random) -> None:
        self.root = root
        self.random = random

    def make(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, Mapping):  # `true`: anything
            return self.random.choice(_WORDS)
        schema = self.resolved(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self.random.choice(schema["enum"])
        for key in ("anyOf", "oneOf"):
            if key in schema:
                rest = {name: value for name, value in schema.items() if name != key}
                return self.make(self._merged([rest, self._choose(schema[key], depth)]), depth + 1)
        return self._of_type(schema, self._type_of(schema, depth), depth)

    def resolved(self, schema: Schema) -> Schema:
        """Return a schema with its references followed and its `allOf` folded in."""
        while "$ref" in schema or "allOf" in schema:
            if "$ref" in schema:
                rest = {name: value for name, value in schema.items() if name != "$ref"}
                schema = self._merged([rest, self._target(schema["$ref"])])
            else:
                rest = {name: value for name, value in schema.items() if name != "allOf"}
                schema = self._merged([rest, *(self.resolved(part) for part in schema["allOf"])])
        return schema

    def _target(self, reference: str) -> Any:
        node: Any = self.root
        for part in reference.removeprefix("#").strip("/").split("/"):
            if part:
                key = part.replace("~1", "/").replace("~0", "~")
                node = node[int(key)] if isinstance(node, list) else node[key]
        return node

    def _merged(self, parts: list[Any]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for part in parts:
            for key, value in (part if isinstance(part, Mapping) else {}).items():
                merged[key] = _combine(key, merged[key], value) if key in merged else value
        return merged

    def _choose(self, options: list[Any], depth: int) -> Any:
        if depth > DEEP:
            return min(options, key=_weight)
        return self.random.choice(options)

    def _type_of(self, schema: Schema, depth: int) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            simple = [name for name in kind if name not in ("object", "array")] if depth > DEEP else kind
            return str(self.random.choice(simple or kind))
        if kind is not None:
            return str(kind)
        return next((name for name, keys in _KEYS_OF.items() if keys & schema.keys()), "string")

    def _of_type(self, schema: Schema, kind: str, depth: int) -> Any:
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        if kind in ("integer", "number"):
            return self._number(schema, whole=kind == "integer")
        if kind == "boolean":
            return self.random.random() < 0.5
        return None if kind == "null" else self._string(schema)

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        required = schema.get("required", ())
        fields = schema.get("properties", {})
        made = {
            name: self.make(field, depth + 1)
            for name, field in fields.items()
            if name in required or (depth < DEEP and self.random.random() < 0.8)
        }
        others = schema.get("additionalProperties", True)
        for name in required:
            if name not in made:
                made[name] = self.make(others, depth + 1)
        n_wanted = max(schema.get("minProperties", 0), 0 if fields or others is True or depth > DEEP else 1)
        spare = (name for name in (*fields, *_WORDS) if name not in made)
        while len(made) < n_wanted and (name := next(spare, None)) is not None and (name in fields or others):
            made[name] = self.make(fields.get(name, others), depth + 1)
        return made

    def _array(self, schema: Schema, depth: int) -> list[Any]:
        prefix = schema.get("prefixItems", [])
        rest = schema.get("items", True)
        low = schema.get("minItems", 0)
        high = min(schema.get("maxItems", math.inf), math.inf if rest is not False else len(prefix))
        usual = 0 if depth > DEEP else self.random.randint(1, 3)
        n_items = int(min(max(low, usual, len(prefix)), high))
        made: list[Any] = []
        for index in range(n_items):
            item = prefix[index] if index < len(prefix) else rest
            value = self.make(item, depth + 1)
            for _ in range(50 if schema.get("uniqueItems") else 0):
                if value not in made:
                    break
                value = self.make(item, depth + 1)
            if value not in made or not schema.get("uniqueItems"):
                made.append(value)
        return made

    def _number(self, schema: Schema, *, whole: bool) -> float | int:
        low, high = _bounds(schema, step=1 if whole else 1e-6)
        step = schema.get("multipleOf", 1 if whole else None)
        if step is None:
            return min(high, max(low, round(self.random.uniform(low, high), 3)))
        first, last = math.ceil(low / step), math.floor(high / step)
        value = self.random.randint(first, max(first, last)) * step
        return int(value) if whole else value

    def _string(self, schema: Schema) -> str:
        if "pattern" in schema:
            return text_matching(schema["pattern"], self.random)
        make = _FORMATS.get(schema.get("format", ""))
        if make is not None:
            return make(self.random)
        low, high = schema.get("minLength", 0), schema.get("maxLength", math.inf)
        text = " ".join(self.random.choices(_WORDS, k=self.random.randint(1, 4)))
        while len(text) < low:
            text += " " + self.random.choice(_WORDS)
        return text if len(text) <= high else text[: int(high)]


# Which keys tell the type of a schema that does not name it.
_KEYS_OF: Mapping[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties", "minProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
}


def _combine(key: str, old: Any, new: Any) -> Any:
    """Return one value for a key that two parts of a schema have: the narrower, where that can be told."""
    if key == "properties":
        return {**old, **new}
    if key == "required":
        return [*old, *(name for name in new if name not in old)]
    if key in ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"):
        return max(old, new)
    if key in ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"):
        return min(old, new)
    if key == "additionalProperties":
        return False if old is False or new is False else new
    return new


def _weight(schema: Any) -> int:
    """Return how deep an alternative is likely to lead, for choosing the shallowest."""
    if not isinstance(schema, Mapping) or schema.get("type") == "null" or "const" in schema:
        return 0
    if "$ref" in schema or "allOf" in schema or "anyOf" in schema or "oneOf" in schema:
        return 3
    return 2 if schema.get("type") in ("object", "array") or "properties" in schema else 1


def _bounds(schema: Schema, *, step: float) -> tuple[float, float]:
    """Return the closed range of a number; `step` keeps away from a bound that is excluded."""
    lows = [schema[key] + away for key, away in (("minimum", 0), ("exclusiveMinimum", step)) if key in schema]
    highs = [
        schema[key] - away for key, away in (("maximum", 0), ("exclusiveMaximum", step)) if key in schema
    ]
    width = max(10, 2 * schema.get("multipleOf", 1))
    low = max(lows) if lows else min(0, min(highs) - width) if highs else 0
    return low, min(highs) if highs else low + width


def _date(random: Random) -> str:
    return f"20{random.randint(10, 29)}-{random.randint(1, 12):02d}-{random.randint(1, 28):02d}"


_FORMATS: Mapping[str, Callable[[Random], str]] = {
    "date": _date,
    "date-time": lambda random: f"{_date(random)}T{random.randint(0, 23):02d}:00:00Z",
    "time": lambda random: f"{random.randint(0, 23):02d}:00:00Z",
    "duration": lambda random: f"P{random.randint(1, 9)}D",
    "email": lambda random: f"{random.choice(_WORDS)}@example.com",
    "hostname": lambda random: f"{random.choice(_WORDS)}.example.com",
    "ipv4": lambda random: f"192.0.2.{random.randint(1, 254)}",
    "ipv6": lambda random: f"2001:db8::{random.randint(1, 9999)}",
    "uri": lambda random: f"https://example.com/{random.choice(_WORDS)}",
    "uuid": lambda random: f"{random.getrandbits(32):08x}-0000-4000-8000-{random.getrandbits(48):012x}",
}

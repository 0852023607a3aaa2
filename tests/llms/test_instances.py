from __future__ import annotations

import json
from enum import Enum
from random import Random
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from distilnb.llms.instances import instance_of

names = st.sampled_from(["a", "b", "c", "d"])
whole = st.integers(-50, 50)


@st.composite
def leaves(draw: st.DrawFn) -> dict[str, Any]:
    low = draw(whole)
    high = low + draw(st.integers(1, 60))
    length = draw(st.integers(0, 12))
    return draw(
        st.sampled_from(
            [
                {"type": "string"},
                {"type": "string", "minLength": length, "maxLength": length + 5},
                {"type": "string", "pattern": "^[a-f]{2}-[0-9]+$"},
                {"type": "string", "enum": ["x", "y"]},
                {"const": low},
                {"type": "integer", "minimum": low, "maximum": high},
                {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": high + 1},
                {"type": "integer", "minimum": low, "multipleOf": 7},
                {"type": "number", "minimum": low, "exclusiveMaximum": high},
                {"type": "number", "maximum": high},
                {"minimum": low},
                {"type": "boolean"},
                {"type": "null"},
                {"type": ["integer", "null"], "minimum": low},
                {"enum": [1, None, "z"]},
            ]
        )
    )


def composites(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    @st.composite
    def objects(draw: st.DrawFn) -> dict[str, Any]:
        fields = draw(st.dictionaries(names, inner, min_size=1, max_size=4))
        schema: dict[str, Any] = {
            "type": "object",
            "properties": fields,
            "required": draw(st.lists(names, unique=True)),
        }
        if set(schema["required"]) <= fields.keys() and draw(st.booleans()):
            schema["additionalProperties"] = False
        return schema

    @st.composite
    def arrays(draw: st.DrawFn) -> dict[str, Any]:
        low = draw(st.integers(0, 4))
        return {
            "type": "array",
            "items": draw(inner),
            "minItems": low,
            "maxItems": low + draw(st.integers(0, 3)),
        }

    alternatives = st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options})
    return objects() | arrays() | alternatives


schemas = st.recursive(leaves(), composites, max_leaves=12)


@settings(max_examples=150, deadline=None)
@given(schemas, st.integers())
def test_an_instance_satisfies_its_schema(schema: dict[str, Any], seed: int) -> None:
    jsonschema.validate(instance_of(schema, Random(seed)), schema)


class Colour(Enum):
    """A choice of text."""

    RED = "red"
    BLUE = "blue"


class Node(BaseModel):
    """A schema with all that pydantic writes: references, recursion, defaults, alternatives, bounds."""

    name: str = Field(min_length=3, max_length=20)
    colour: Colour
    kind: Literal["leaf", "branch"]
    rating: int = Field(ge=1, le=5)
    weight: float | None = None
    tags: set[Literal["p", "q", "r"]] = Field(min_length=2)
    pair: tuple[int, str]
    scores: dict[str, Annotated[float, Field(gt=0, lt=1)]]
    children: list[Node] = []
    parent: Node | None = None


@given(st.integers())
def test_pydantic_takes_what_is_made_from_its_schema(seed: int) -> None:
    made = instance_of(Node.model_json_schema(), Random(seed))
    Node.model_validate_json(json.dumps(made))


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}}, {"required": ["a"]}]},
        {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 3}]},
        {"$ref": "#/$defs/x", "$defs": {"x": {"type": "integer", "minimum": 5}}},
        {"$defs": {"x~y/z": {"const": 1}}, "$ref": "#/$defs/x~0y~1z"},
        {"type": "object", "minProperties": 3, "additionalProperties": {"type": "integer"}},
        {"type": "object", "required": ["unlisted"]},
        {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": False},
        {"type": "array", "uniqueItems": True, "minItems": 3, "items": {"enum": [1, 2, 3]}},
        {"oneOf": [{"type": "integer"}, {"type": "null"}]},
        {"anyOf": [{"minimum": 3}, {"minimum": 5}], "type": "integer", "maximum": 6},
        {},
    ],
    ids=str,
)
def test_corners_of_schemas(schema: dict[str, Any]) -> None:
    for seed in range(30):
        jsonschema.validate(instance_of(schema, Random(seed)), schema)


@pytest.mark.parametrize("format_", ["date", "date-time", "email", "ipv4", "ipv6", "uuid", "duration", "uri"])
def test_formats_are_kept(format_: str) -> None:
    schema = {"type": "string", "format": format_}
    for seed in range(30):
        jsonschema.validate(
            instance_of(schema, Random(seed)), schema, format_checker=jsonschema.FormatChecker()
        )


def test_a_schema_that_holds_itself_ends() -> None:
    schema = {
        "$ref": "#/$defs/tree",
        "$defs": {
            "tree": {
                "type": "object",
                "required": ["next"],
                "properties": {
                    "next": {
                        "anyOf": [
                            {"$ref": "#/$defs/tree"},
                            {"type": "array", "items": {"$ref": "#/$defs/tree"}},
                        ]
                    }
                },
            }
        },
    }
    for seed in range(30):
        jsonschema.validate(instance_of(schema, Random(seed)), schema)


def test_one_seed_gives_one_instance() -> None:
    schema = Node.model_json_schema()
    assert instance_of(schema, Random(4)) == instance_of(schema, Random(4))

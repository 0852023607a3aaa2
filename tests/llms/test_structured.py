from __future__ import annotations

import enum
import re
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, Field

from distilnb.errors import SpecError, StepRowError
from distilnb.llms.shape import ReplyShape
from distilnb.llms.structured import (
    fields_of,
    plain_output,
    shape_in,
    shape_of,
    structured_output,
    types_of,
)
from distilnb.spec.registry import build
from distilnb.tasks import TextGeneration


class Colour(enum.Enum):
    """A few colours."""

    RED = "red"
    BLUE = "blue"


class Pet(BaseModel):
    """An animal."""

    name: str
    colour: Colour | None = None


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int = Field(ge=0)
    pets: list[Pet] = []


OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    "given, wanted",
    [
        (None, None),
        (OBJECT, {"format": "json", "schema": OBJECT}),
        ({}, {"format": "json", "schema": {}}),
        ({"type": "array"}, {"format": "json", "schema": {"type": "array"}}),
        ({"format": "date"}, {"format": "json", "schema": {"format": "date"}}),
        ({"format": "json"}, {"format": "json"}),
        ({"format": "json", "schema": OBJECT}, {"format": "json", "schema": OBJECT}),
        ({"schema": OBJECT, "mode": "tool_call", "max_retries": 3}, {"format": "json", "schema": OBJECT}),
        ({"format": "json", "schema": '{"type": "array"}'}, {"format": "json", "schema": {"type": "array"}}),
        ({"format": "regex", "schema": "a+"}, {"format": "regex", "schema": "a+"}),
        ({"format": "regex", "schema": "{a}"}, {"format": "regex", "schema": "{a}"}),
        ("a+", {"format": "regex", "schema": "a+"}),
        (re.compile("a+"), {"format": "regex", "schema": "a+"}),
        ("[ab]", {"format": "regex", "schema": "[ab]"}),
        ('["a", "b"]', {"format": "choice", "schema": ["a", "b"]}),
        (["yes", "no", "yes"], {"format": "choice", "schema": ["yes", "no"]}),
        (("yes", "no"), {"format": "choice", "schema": ["yes", "no"]}),
        (Literal["yes", "no"], {"format": "choice", "schema": ["yes", "no"]}),
        (Colour, {"format": "choice", "schema": ["red", "blue"]}),
        ("{{ form }}", {"column": "form"}),
        ({"column": "form"}, {"column": "form"}),
    ],
    ids=str,
)
def test_what_a_schema_may_be(given: Any, wanted: Any) -> None:
    assert structured_output(given) == wanted
    assert structured_output(wanted) == wanted  # as a file has it


@pytest.mark.parametrize(
    "given, told",
    [
        (3, "A schema was given as 'int'"),
        (str, "A schema was given as 'type'"),
        ([], "A list of choices holds"),
        ([1, 2], "enum"),
        (["a", " "], "A list of choices holds"),
        ("(", "is no regular expression: missing"),
        ("", "A regular expression was given as ''"),
        (re.compile("a", re.IGNORECASE), "with flags"),
        ({"type": "objekt"}, r"at \$.type"),
        ({"properties": {"a": 3}}, r"at \$.properties.a"),
        ({"enum": {1, 2}}, "holds what JSON has not"),
        ({"format": "yaml", "schema": OBJECT}, "format 'yaml'; there are"),
        ({"format": "regex"}, "format 'regex' and no schema"),
        ({"format": "choice", "schema": OBJECT}, "a schema that is json"),
        ({"column": 3}, "names the column"),
    ],
    ids=str,
)
def test_what_is_no_schema_is_told(given: Any, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        structured_output(given)


def test_a_model_brings_its_schema_and_itself() -> None:
    wanted = structured_output(Person)
    assert wanted is not None
    assert wanted["schema"] == Person.model_json_schema()
    assert wanted["model"].live is Person
    assert fields_of(wanted) == ["name", "age", "pets"]
    assert shape_of(wanted) == ReplyShape("json", Person.model_json_schema())
    assert structured_output({"format": "json", "schema": Person}) == wanted
    assert plain_output(Person) == {"format": "json", "schema": Person.model_json_schema()}


def positive(value: int) -> int:
    assert value > 0
    return value


def even(value: int) -> int:
    assert value % 2 == 0
    return value


def model(check: Any, inner: type = int, doc: str = "A number.") -> type[BaseModel]:
    class Number(BaseModel):
        number: Annotated[inner, AfterValidator(check)]  # type: ignore[valid-type]

    Number.__doc__ = doc
    return Number


def digest(value: Any) -> str:
    return TextGeneration(schema=value).digest


def test_models_are_equal_by_what_they_say_and_check() -> None:
    assert digest(model(positive)) == digest(model(positive))
    assert digest(model(positive)) != digest(model(even))
    assert digest(model(positive)) != digest(model(positive, float))
    equal, other = (structured_output(model(check)) for check in (positive, even))
    assert equal is not None
    assert other is not None
    assert shape_of(equal).key == shape_of(other).key  # what only we check is no part of what is asked


def test_a_nested_model_counts() -> None:
    def outer(inner: type[BaseModel]) -> type[BaseModel]:
        class Outer(BaseModel):
            one: inner  # type: ignore[valid-type]

        return Outer

    assert digest(outer(model(positive))) == digest(outer(model(positive)))
    assert digest(outer(model(positive))) != digest(outer(model(even)))


def test_a_task_with_a_model_is_built_again_from_its_dump() -> None:
    task = TextGeneration(name="t", schema=Person, llm="rehearsal")
    assert task.structured_output is not None
    code = task.structured_output["model"]
    again = build(task.dump(), codes={code.digest: Person})
    assert again == task
    assert isinstance(again, TextGeneration)
    assert again.made() == ["generation", "name", "age", "pets", "model_name"]
    assert again.format_output('{"name": "Ann", "age": "3"}', {})["age"] == 3
    untrusted = build(task.dump())
    with pytest.raises(SpecError, match="'Person' came from a file and was not trusted"):
        untrusted.check()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "schema, told",
    [
        ({"type": "string"}, "str | None"),
        ({"type": "string", "default": "x"}, "str"),
        ({"type": ["integer", "null"]}, "int | None"),
        ({"enum": ["a", 1, None]}, "str | int | None"),
        ({"const": True}, "bool | None"),
        ({"type": "array", "items": {"$ref": "#/$defs/pet"}}, "list[dict] | None"),
        ({"type": "array"}, "list[Any] | None"),
        ({"anyOf": [{"type": "number"}, {"type": "number"}]}, "float | None"),
        ({"$ref": "#/$defs/loop"}, "Any"),
        ({}, "Any"),
        (True, "Any"),
    ],
    ids=str,
)
def test_types_are_told_in_words_of_python(schema: Any, told: str) -> None:
    shared = {"pet": {"type": "object"}, "loop": {"anyOf": [{"$ref": "#/$defs/loop"}]}}
    wanted = {"format": "json", "schema": {"type": "object", "properties": {"a": schema}, "$defs": shared}}
    assert types_of(wanted) == {"a": told}


@pytest.mark.parametrize(
    "value, shape",
    [
        (OBJECT, ReplyShape("json", OBJECT)),
        ('{"type": "array"}', ReplyShape("json", {"type": "array"})),
        (["a", "b"], ReplyShape("choice", choices=("a", "b"))),
        ("a|b", ReplyShape("regex", pattern="a|b")),
        ({"format": "regex", "schema": "a"}, ReplyShape("regex", pattern="a")),
    ],
)
def test_a_row_may_bring_its_schema(value: Any, shape: ReplyShape) -> None:
    assert shape_in(value, "form") == shape


@pytest.mark.parametrize("value", [3, "(", {"type": "objekt"}, [], "{{ other }}"])
def test_a_bad_schema_is_the_rows_own_error(value: Any) -> None:
    with pytest.raises(StepRowError, match="Column 'form' holds no schema"):
        shape_in(value, "form")


def test_a_model_of_a_provider_sees_no_rows() -> None:
    with pytest.raises(SpecError, match="names a column"):
        plain_output("{{ form }}")

"""Tasks with a schema, without a run: their columns, what they read, what they complain of."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from distilnb.errors import MissingValueError, ParseError, SpecError
from distilnb.llms.request import Reply
from distilnb.llms.shape import ReplyShape
from distilnb.spec.registry import build
from distilnb.tasks import Task, TextGeneration, task


class Point(BaseModel):
    """A place."""

    x: int
    y: int = 0


OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"]}


@task(schema=Point)
def place(reply: Point, text: str) -> dict[str, Any]:
    """Where is this? {{ text }}"""  # noqa: D400, D415
    if reply.x > 9:
        raise ParseError("That is too far.")
    return {"x": reply.x, "length": len(text)}


@task(schema=OBJECT)
def facts(text: str) -> None:
    """Find a and b in: {{ text }}."""


@task
def mood(reply: str) -> dict[str, Any]:
    """How is this? {{ text }}"""  # noqa: D400, D415
    return {"mood": reply}


def test_a_function_gets_what_the_reply_holds() -> None:
    made = place.to_step()
    assert made.made() == ["x", "length", "model_name"]
    assert made.format_output('```json\n{"x": "3"}\n```', {"text": "hill"}) == {"x": 3, "length": 4}
    assert made.request({"text": "hill"}).shape == ReplyShape("json", Point.model_json_schema())
    chosen = mood.to_step(schema=["glad", "sad"])
    assert chosen.format_output(" SAD.", {"text": "x"}) == {"mood": "sad"}
    assert mood.to_step(structured_output={"format": "choice", "schema": ["glad", "sad"]}) == chosen


def test_a_function_without_a_body_makes_the_columns_of_the_schema() -> None:
    made = facts.to_step()
    assert made.made() == ["facts", "a", "b", "model_name"]
    assert made.format_output("{'a': 1,}", {}) == {"facts": '{"a": 1}', "a": 1, "b": None}
    with pytest.raises(SpecError, match="'facts'"):
        facts.to_step(schema={"type": "object", "properties": {"facts": {}}})


def test_a_complaint_is_what_makes_a_reply_of_no_use() -> None:
    made, row = place.to_step(), {"text": "hill"}
    assert made.complaint(Reply('{"x": 1}'), row) == ""
    assert "at $.x: Field required" in made.complaint(Reply("{}"), row)
    assert made.complaint(Reply('{"x": 10}'), row) == "That is too far."
    assert "cut off" in made.complaint(Reply('{"x": 1', "length"), row)


def test_an_error_in_a_validator_is_no_complaint_about_the_reply() -> None:
    class Broken(TextGeneration):
        def format_output(self, output: str | None, input: dict[str, Any]) -> dict[str, Any]:
            raise KeyError("a bug")

    assert Broken(schema=Point).complaint(Reply("{}"), {}) == ""


def test_a_task_with_its_own_schema_for_each_row_complains_too() -> None:
    class Digits(Task):
        outputs = ["n"]

        def schema_for(self, row: dict[str, Any]) -> dict[str, Any] | None:
            return {"type": "integer", "maximum": row["n"]} if row["n"] else None

        def format_input(self, input: dict[str, Any]) -> list[dict[str, Any]]:
            return [{"role": "user", "content": "A number?"}]

        def format_output(self, output: str | None, input: dict[str, Any]) -> dict[str, Any]:
            if not (output or "").isdigit():
                raise ParseError("It is no number.")
            return {"n": int(output or "")}

    made = Digits(name="digits")
    assert made.request({"n": 3}).shape == ReplyShape("json", {"type": "integer", "maximum": 3})
    assert made.request({"n": 0}).shape is None
    assert made.complaint(Reply("three"), {"n": 3}) == "It is no number."


def test_the_column_with_the_schema_is_read_and_must_have_a_value() -> None:
    made = TextGeneration(template="{{ text }}", schema="{{ form }}", input_mappings={"form": "shape"})
    assert made.needed() == ["text", "shape"]
    row = {"text": "hi", "shape": ["a", "b"], "form": ["a", "b"]}
    assert made.request(row).shape == ReplyShape("choice", choices=("a", "b"))
    assert made.rows_from(row, [Reply("A")]).rows[0]["value"] == "a"
    with pytest.raises(MissingValueError, match="form"):
        made.request({"text": "hi", "form": None})


def test_lists_hold_one_item_a_reply_and_single_values_are_a_choice() -> None:
    reply = Reply('{"x": 1, "y": 2}', model="m")
    fields: dict[str, Any] = {"schema": Point, "group_generations": True}
    assert TextGeneration(**fields).rows_from({}, [reply]).rows[0]["x"] == [1]
    assert TextGeneration(**fields, unlists_fields=True).rows_from({}, [reply]).rows[0]["x"] == 1
    two = TextGeneration(**fields, num_generations=2, unlists_fields=True)
    assert two.rows_from({}, [reply, reply]).rows[0]["x"] == [1, 1]
    some = TextGeneration(**fields, num_generations=2, min_generations=1)
    assert some.rows_from({}, [reply, Reply("no")]).rows[0]["x"] == [1, None]


@pytest.mark.parametrize("schema", [OBJECT, ["a", "b"], "a+", "{{ form }}", {"type": "array"}])
def test_a_dump_builds_the_same_task(schema: Any) -> None:
    made = TextGeneration(name="t", schema=schema, max_reasks=5)
    assert build(made.dump()) == made
    assert build(made.dump()).digest == made.digest
    assert made.digest == TextGeneration(name="t", schema=schema).digest  # how often we ask changes no reply
    assert made.digest != TextGeneration(name="t").digest

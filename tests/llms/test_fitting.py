"""What a reply holds is found in what a model writes around it, and what does not fit is told by its place."""

from __future__ import annotations

import json
import socket
from datetime import date
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, field_serializer, field_validator

from distilnb.errors import ParseError, SpecError
from distilnb.llms.fitting import asked_again, fit
from distilnb.llms.instances import instance_of
from distilnb.llms.request import Request
from distilnb.llms.shape import ReplyShape
from tests.llms.test_instances import schemas


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int = Field(ge=0)
    tags: list[str] = []

    @field_validator("name")
    @classmethod
    def _has_capital(cls, name: str) -> str:
        if not name[:1].isupper():
            raise ValueError("a name begins with a capital")
        return name


PERSON = ReplyShape("json", Person.model_json_schema())
LIST = ReplyShape("json", {"type": "array", "items": {"type": "integer"}})
CHOICE = ReplyShape("choice", choices=("very good", "bad", "Bad"))
CODE = ReplyShape("regex", pattern=r"[A-Z]{2}-\d+")
ANN = {"name": "Ann", "age": 3}


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Ann", "age": 3}',
        '  {"name": "Ann", "age": 3}\n',
        '```json\n{"name": "Ann", "age": 3}\n```',
        'Here it is:\n```\n{"name": "Ann", "age": 3}\n```\nAnything else?',
        'Sure! {"name": "Ann", "age": 3} I hope that helps {you}.',
        '<think>{"name": "Bob"} no, {"a": 1}</think>\n{"name": "Ann", "age": 3}',
        '{"name": "Ann", "age": 3,}',
        "{'name': 'Ann', 'age': 3}",
        '{name: "Ann", age: 3}',
        '{"name": "Ann", "age": 3 // years\n}',
        '{"name": "Ann" "age": 3}',
        '{"name": "Ann", "age": 3',
        '{"name": "Ann", "age": 3}}',
    ],
)
def test_a_document_is_found_and_mended(text: str) -> None:
    assert fit(text, PERSON).value == ANN
    assert json.loads(fit(text, PERSON).text) == ANN


def test_control_characters_in_texts_are_taken() -> None:
    assert fit('{"name": "A\x05\tn\n", "age": 3}', PERSON).value["name"] == "A\x05\tn\n"
    assert json.loads(fit('{"name": "A\x05", "age": 3}', PERSON).text)["name"] == "A\x05"


@pytest.mark.parametrize(
    "text",
    ['{"name": "Ann", "age": 3, "tags": ["a", "b', '{"name": "Ann", "age": 3, "tags":', '{"name": "An'],
)
@pytest.mark.parametrize("is_truncated", [True, False])
def test_what_was_cut_off_is_never_mended(text: str, is_truncated: bool) -> None:
    with pytest.raises(ParseError) as caught:
        fit(text, PERSON, is_truncated=is_truncated)
    assert ("cut off at the token limit" in str(caught.value)) is is_truncated


def test_a_truncated_reply_that_is_whole_all_the_same_is_used() -> None:
    assert fit('{"name": "Ann", "age": 3}\n\n\n', PERSON, is_truncated=True).value == ANN
    with pytest.raises(ParseError, match="cut off"):
        fit('{"name": "Ann", "age": 3', PERSON, is_truncated=True)


@pytest.mark.parametrize(
    "text, told",
    [
        ('{"name": "Ann"}', r"at \$: 'age' is a required property"),
        ('{"name": "Ann", "age": "x"}', r"at \$\.age: 'x' is not of type 'integer'"),
        ('{"name": "Ann", "age": -1}', r"at \$\.age: -1 is less than the minimum of 0"),
        ('{"name": "Ann", "age": 1, "tags": ["a", 2]}', r"at \$\.tags\[1\]: 2 is not of type 'string'"),
        ("[1]", r"at \$: expected an object, got '\[1\]'"),
        ("I would rather not.", "'I would rather not.' is no JSON"),
        ('{"name": "Ann", "age": NaN}', "is no JSON|not"),
        ("", "The reply is empty"),
        ("{" * 100_000, "is no JSON"),
    ],
)
def test_what_does_not_fit_is_told_by_its_place(text: str, told: str) -> None:
    with pytest.raises(ParseError, match=told):
        fit(text, PERSON)


@pytest.mark.parametrize(
    "text, told",
    [
        ('{"name": "Ann"}', r"at \$\.age: Field required"),
        (
            '{"name": "ann", "age": 3}',
            r"at \$\.name: Value error, a name begins with a capital \(got 'ann'\)",
        ),
        ('{"name": "Ann", "age": 3, "tags": [4]}', r"at \$\.tags\[0\]: Input should be a valid string"),
    ],
)
def test_a_pydantic_model_has_the_last_word(text: str, told: str) -> None:
    with pytest.raises(ParseError, match=told):
        fit(text, PERSON, Person)


def test_a_pydantic_model_reads_what_can_be_read_and_adds_its_defaults() -> None:
    assert fit('{"name": "Ann", "age": "3"}', PERSON, Person).value == {**ANN, "tags": []}


class Meeting(BaseModel):
    """A model whose data do not make it again."""

    day: date = Field(alias="on")

    @field_serializer("day")
    def _in_words(self, day: date) -> str:
        return f"{day:%A}"


def test_an_instance_is_made_of_the_reply_and_not_of_its_data() -> None:
    shape = ReplyShape("json", Meeting.model_json_schema())
    fitted = fit('{"on": "2026-11-21"}', shape, Meeting)
    assert fitted.value == {"on": "Saturday"}
    assert fitted.read.day == date(2026, 11, 21)
    assert fit('{"on": 1}', ReplyShape("json")).read == {"on": 1}


def test_of_many_faults_three_are_told() -> None:
    text = json.dumps({"name": 1, "age": "x", "tags": [1, 2, 3]})
    with pytest.raises(ParseError, match=r"\(and 2 more\)"):
        fit(text, PERSON)


def test_what_is_no_object_is_read_plain_and_in_an_object() -> None:
    for text in ("[1, 2]", '{"value": [1, 2]}', "Here: [1, 2]", "```json\n[1, 2]\n```"):
        assert fit(text, LIST).value == [1, 2]
    for text in ('{"value": "AB-12"}', "AB-12", '"AB-12"', "`AB-12`", "```\nAB-12\n```", " AB-12\n"):
        assert fit(text, CODE).value == "AB-12"


@pytest.mark.parametrize("text", ["ab-12", "AB-12.", "The code is AB-12", "AB-12 AB-12"])
def test_a_pattern_matches_as_a_whole(text: str) -> None:
    with pytest.raises(ParseError, match="does not match, as a whole"):
        fit(text, CODE)


@pytest.mark.parametrize(
    "text",
    ["very good", "Very  Good", '"very good"', "very good.", '{"value": "VERY GOOD"}', "**very\ngood**"],
)
def test_case_spaces_and_quotes_around_a_choice_do_not_count(text: str) -> None:
    assert fit(text, CHOICE).value == "very good"


def test_choices_that_differ_in_case_alone_are_told_apart_by_it() -> None:
    assert (fit("bad", CHOICE).value, fit(" Bad", CHOICE).value) == ("bad", "Bad")
    with pytest.raises(ParseError, match=r"'BAD' is none of \['very good', 'bad', 'Bad'\]"):
        fit("BAD", CHOICE)
    with pytest.raises(ParseError, match="is none of"):
        fit("It is very good", CHOICE)


def test_a_schema_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    shape = ReplyShape("json", {"properties": {"a": {"$ref": "http://127.0.0.1:9/schema.json"}}})
    with pytest.raises(SpecError, match=r"refers to 'http://127.0.0.1:9/schema.json'"):
        fit('{"a": 1}', shape)


def test_a_re_ask_quotes_the_reply_and_what_is_wrong_with_it() -> None:
    request = Request(({"role": "user", "content": "Well?"},), n=3, shape=CODE, salt="1")
    again = asked_again(request, "no", "The reply is no code.", 2)
    assert again.messages[0] == request.messages[0]
    assert again.messages[1] == {"role": "assistant", "content": "no"}
    assert "The reply is no code." in again.messages[2]["content"]
    assert CODE.pattern in again.messages[2]["content"]
    assert (again.n, again.shape, again.salt) == (1, CODE, "1~2")
    assert asked_again(request, None, "It is empty.", 1).messages[1]["content"] == "(no reply)"


@settings(max_examples=100, deadline=None)
@given(schemas, st.integers(), st.sampled_from(["{}", "```json\n{}\n```", "So: {}"]))
def test_what_is_rehearsed_for_a_schema_fits_it(schema: dict[str, Any], seed: int, around: str) -> None:
    made = instance_of(schema, Random(seed))
    shape = ReplyShape("json", schema)
    if around == "So: {}" and not isinstance(made, dict | list):
        around = "{}"
    assert fit(around.replace("{}", json.dumps(made), 1), shape).value == made

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from distilnb.llms.chat import BodyMaker
from distilnb.llms.request import Request
from distilnb.llms.shape import ReplyShape

MESSAGES = ({"role": "user", "content": "hi"},)


def test_a_body_holds_what_was_asked_and_no_more() -> None:
    make = BodyMaker({"model": "m", "temperature": 0.5}, {})
    assert json.loads(json.dumps(make(Request(MESSAGES)))) == {
        "model": "m",
        "temperature": 0.5,
        "messages": [{"role": "user", "content": "hi"}],
    }
    assert make(Request(MESSAGES, n=3))["n"] == 3


def test_extra_has_the_last_word() -> None:
    make = BodyMaker({"model": "m", "temperature": 0.5}, {"temperature": 1, "top_k": 3})
    assert make(Request(MESSAGES)) == {"model": "m", "temperature": 1, "top_k": 3, "messages": MESSAGES}


def test_bodies_do_not_share_what_they_hold() -> None:
    make = BodyMaker({"model": "m"}, {})
    make(Request(MESSAGES, n=2)).pop("model")
    assert make(Request(MESSAGES)) == {"model": "m", "messages": MESSAGES}


def test_strict_is_asked_for_only_where_openai_would_accept_it() -> None:
    closed = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}
    for schema, strict in (
        ({**closed, "required": ["a"]}, True),
        (closed, False),
        ({"type": "object", "properties": {"a": closed}, "required": ["a"]}, False),
        ({"anyOf": [{**closed, "required": ["a"]}, {"type": "object"}]}, False),
    ):
        body = BodyMaker({"model": "m"}, {})(Request(MESSAGES, shape=ReplyShape("json", schema)))
        assert body["response_format"]["json_schema"]["strict"] is strict


def test_the_schema_of_a_request_replaces_that_of_the_model() -> None:
    make = BodyMaker({"model": "m", "response_format": {"type": "json_object"}}, {})
    schema = {"title": "My reply!", "type": "object"}
    made = make(Request(MESSAGES, shape=ReplyShape("json", schema)))["response_format"]
    assert made["json_schema"]["name"] == "My_reply_"


@pytest.mark.parametrize(
    "mode, shape, fields",
    [
        ("json_object", ReplyShape("json", {"type": "object"}), {"response_format": {"type": "json_object"}}),
        (
            "json_object_schema",
            ReplyShape("json", {"type": "object"}),
            {"response_format": {"type": "json_object", "schema": {"type": "object"}}},
        ),
        ("structured_outputs", ReplyShape("regex", pattern="a+"), {"structured_outputs": {"regex": "a+"}}),
        ("guided", ReplyShape("choice", choices=("a", "b")), {"guided_choice": ["a", "b"]}),
        ("guided", ReplyShape("json", {"type": "object"}), {"guided_json": {"type": "object"}}),
        ("prompt", ReplyShape("json"), {}),
    ],
)
def test_each_mode_has_its_fields(mode: str, shape: ReplyShape, fields: dict[str, Any]) -> None:
    body = BodyMaker({}, {})(Request(MESSAGES, shape=shape, mode=mode))
    messages = body.pop("messages")
    assert body == fields
    assert ("Reply with" in messages[0]["content"]) is (mode != "prompt")  # the caller has said it there


def test_a_server_that_shows_the_schema_itself_needs_no_words() -> None:
    request = Request(MESSAGES, shape=ReplyShape("json", {"type": "object"}), mode="json_schema")
    assert BodyMaker({}, {}, shows_schema=True)(request)["messages"] == MESSAGES
    said = BodyMaker({}, {}, shows_schema=True)(replace(request, mode="json_object"))["messages"]
    assert "JSON" in said[0]["content"]

from __future__ import annotations

import re

import jsonschema
import pytest

from distilnb.llms.shape import ReplyShape, root_of, told

OBJECT = {"title": "My reply!", "type": "object", "properties": {"a": {"type": "integer"}}}
LIST = {"type": "array", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "integer"}}}
YES_NO = ReplyShape("choice", choices=("yes", "n.o"))


def test_what_is_no_object_stands_in_one() -> None:
    assert ReplyShape("json", OBJECT).as_object() == OBJECT
    assert ReplyShape("json").as_object() == {"type": "object"}
    for shape, good, bad in (
        (ReplyShape("json", LIST), [1, 2], ["a"]),
        (ReplyShape("regex", pattern="a|b"), "b", "ab"),
        (YES_NO, "n.o", "nxo"),
    ):
        assert not shape.is_object
        schema = shape.as_object()
        assert schema["type"] == "object"
        jsonschema.validate({"value": good}, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"value": bad}, schema)


def test_a_reference_at_the_root_is_followed() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
    schema = {"$ref": "#/$defs/Node", "$defs": {"Node": node}}
    assert ReplyShape("json", schema).is_object
    assert root_of(schema)["properties"] == node["properties"]
    assert root_of({"$ref": "#"}) == {"$ref": "#"}
    assert root_of({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})["$ref"] == "#/$defs/a"


def test_equal_shapes_have_equal_keys_and_others_have_not() -> None:
    shapes = [
        ReplyShape("json"),
        ReplyShape("json", OBJECT),
        ReplyShape("json", {}),
        YES_NO,
        ReplyShape("choice", choices=("yes",)),
        ReplyShape("regex", pattern="yes"),
    ]
    assert len({shape.key for shape in shapes}) == len(shapes)
    assert ReplyShape("json", dict(reversed(OBJECT.items()))).key == ReplyShape("json", OBJECT).key


def test_names_are_such_as_protocols_take() -> None:
    assert ReplyShape("json", OBJECT).name == "My_reply_"
    assert ReplyShape("json", {"title": "x" * 99}).name == "x" * 64
    assert YES_NO.name == "reply"


def test_a_choice_is_a_pattern_too() -> None:
    assert [word for word in ("yes", "n.o", "nxo") if re.fullmatch(YES_NO.as_pattern(), word)] == [
        "yes",
        "n.o",
    ]


def test_the_last_message_of_the_user_says_what_is_wanted() -> None:
    system, user = {"role": "system", "content": "Be terse."}, {"role": "user", "content": "Well?"}
    answer = {"role": "assistant", "content": "So"}
    said = told([system, user, answer], YES_NO)
    assert (said[0], said[2]) == (system, answer)
    assert said[1]["content"].startswith("Well?\n\nReply with exactly one of these, to the letter: yes | n.o")
    assert user["content"] == "Well?"
    image = {"type": "image_url", "image_url": {"url": "x"}}
    assert told([{"role": "user", "content": [image]}], YES_NO)[0]["content"][0] == image
    assert told([system], YES_NO)[-1]["role"] == "user"
    assert '"properties"' in told([user], ReplyShape("json", OBJECT))[0]["content"]

"""Generating text."""

from __future__ import annotations

import json

import pytest

from distilnb.errors import MissingValueError, ParseError, SpecError, TemplateError
from distilnb.spec.registry import build
from distilnb.tasks import TextGeneration


def test_the_rows_system_prompt_comes_before_the_tasks() -> None:
    task = TextGeneration(system_prompt="Be terse. {{ not a template }}")
    sent = [task.format_input({"instruction": "hi", **more}) for more in ({}, {"system_prompt": "Sing."})]
    assert [messages[0]["content"] for messages in sent] == ["Be terse. {{ not a template }}", "Sing."]
    assert task.format_input({"instruction": "hi", "system_prompt": None})[0]["role"] == "system"
    alone = TextGeneration(use_system_prompt=False)
    assert alone.format_input({"instruction": "hi", "system_prompt": "Sing."}) == [
        {"role": "user", "content": "hi"}
    ]


def test_messages_are_the_whole_prompt() -> None:
    task = TextGeneration(messages="system:\nBe {{ mood }}.\nuser:\n{{ q }}")
    row = {"mood": "kind", "q": "Wie?", "system_prompt": "not sent"}
    assert [one["content"] for one in task.format_input(row)] == ["Be kind.", "Wie?"]
    assert build(json.loads(json.dumps(task.dump()))) == task
    with pytest.raises(SpecError, match="both `messages`"):
        TextGeneration(messages="{{ q }}", system_prompt="Be terse.")


@pytest.mark.parametrize(
    "row, what", [({"instruction": None}, "is None"), ({"instructions": "x"}, "is absent")]
)
def test_a_row_without_the_column_is_an_error_of_the_row(row: dict[str, str | None], what: str) -> None:
    with pytest.raises(MissingValueError, match=what):
        TextGeneration().request(row)


def test_a_column_that_the_template_tests_may_be_none() -> None:
    task = TextGeneration(template="{{ q }}{% if context %} ({{ context }}){% endif %}")
    assert task.needed() == ["q", "context"]
    assert [task.request({"q": "a", "context": c}).messages[0]["content"] for c in (None, "b")] == [
        "a",
        "a (b)",
    ]


def test_columns_and_template_must_agree() -> None:
    with pytest.raises(SpecError, match="declares column 'b'"):
        TextGeneration(template="{{ a }}", columns=["a", "b"])
    with pytest.raises(SpecError, match="names 'b', but `columns` lists"):
        TextGeneration(template="{{ a }}{{ b }}", columns="a")
    with pytest.raises(TemplateError, match="Line 1"):
        TextGeneration(template="{{ a")


@pytest.mark.parametrize("reply", [None, "", " \n"])
def test_an_empty_reply_is_no_generation(reply: str | None) -> None:
    with pytest.raises(ParseError, match="empty"):
        TextGeneration().format_output(reply, {})


def test_a_reply_is_kept_as_it_is() -> None:
    assert TextGeneration().format_output(" Ja.\n", {}) == {"generation": " Ja.\n"}


def test_only_what_changes_the_request_changes_the_digest() -> None:
    task = TextGeneration(template="{{ a }}")
    assert task.digest == TextGeneration(template="{{ a }}", name="x", min_generations=1).digest
    assert task.digest != TextGeneration(template="{{ b }}").digest

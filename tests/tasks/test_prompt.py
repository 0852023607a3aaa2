"""Prompts as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilnb.errors import MissingValueError, TemplateError
from distilnb.tasks.prompt import PromptMessage, as_messages, may_be_none, parse_prompt, render, variables


@pytest.mark.parametrize(
    "text, messages",
    [
        ("{{ a }}", [("user", "{{ a }}")]),
        ("\n a \n\n", [("user", "a")]),
        (
            "system:\nBe terse.\n\nuser:\n{{ a }}\nuser: not a head\n",
            [("system", "Be terse."), ("user", "{{ a }}\nuser: not a head")],
        ),
        (
            "first\nassistant:  \nHm.\r\nuser:\r\nthen",
            [("user", "first"), ("assistant", "Hm."), ("user", "then")],
        ),
        ("User:\nis text, for a head is small", [("user", "User:\nis text, for a head is small")]),
        ("a\n  system:\nis indented, so text", [("user", "a\n  system:\nis indented, so text")]),
    ],
)
def test_lines_that_are_only_a_role_start_a_message(text: str, messages: list[tuple[str, str]]) -> None:
    assert [tuple(message) for message in parse_prompt(text)] == messages
    assert as_messages(messages) == parse_prompt(text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "The prompt is empty"),
        ("  \n", "The prompt is empty"),
        ("system:\nOnly this.", "no message of the user"),
        ("system:\n\nuser:\nhi", "Line 1 .* role 'system', but it is empty"),
        ("hi\n\nuser:\n", "Line 3 .* role 'user', but it is empty"),
        ("one\ntwo {{ a", "Line 2 of the template"),
        ("system:\nok\nuser:\n\n\n{{ a }}\n{% if b %}", "Line 7 of the template"),
        ("{% include 'x' %}", "Line 1 of the template includes another file"),
        ("{{ a | no_such_filter }}", "No filter named 'no_such_filter'"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        parse_prompt(text)


def test_variables_come_in_the_order_of_their_first_use() -> None:
    prompt = parse_prompt("system:\n{{ b }}\nuser:\n{% for x in items %}{{ x }}{{ a.c }}{% endfor %}{{ b }}")
    assert variables(prompt) == ("b", "items", "a")


def test_what_the_template_tests_may_be_none() -> None:
    prompt = parse_prompt(
        "{{ q }}{% if a and not b %}{{ a }}{% endif %}{{ c or '' }}{{ d if d is not none else 1 }}"
    )
    assert may_be_none(prompt) == {"a", "b", "c", "d"}
    assert render(prompt, {"q": "?", "a": None, "c": None}) == [{"role": "user", "content": "?1"}]


@pytest.mark.parametrize(
    "row, what", [({"a": None}, "'a' is None"), ({"b": 1}, "'a' is absent"), ({"a": {"b": None}}, "is None")]
)
def test_none_is_never_the_word_none(row: dict[str, object], what: str) -> None:
    with pytest.raises(MissingValueError, match=what):
        render(parse_prompt("{{ a.b }}"), row)


def test_text_is_kept_as_it_is() -> None:
    text = "<b>&amp; \"q\" {{ 'x' }} 日本 \u2028\n\n"
    [message] = render([PromptMessage("user", "{{ a }}\n")], {"a": text})
    assert message["content"] == text + "\n"


def test_a_megabyte_is_rendered() -> None:
    [message] = render(parse_prompt("{{ a }}"), {"a": "ü" * 1_000_000})
    assert len(message["content"]) == 1_000_000


@pytest.mark.parametrize("value", [3, ["x"], [("robot", "x")], [("user", 3)]])
def test_what_is_no_prompt_is_refused(value: object) -> None:
    with pytest.raises((TemplateError, TypeError)):
        as_messages(value)


@given(st.text(alphabet=st.sampled_from("{}%#ab |.\n:systemur()'\""), max_size=60))
def test_any_text_is_a_prompt_or_a_template_error(text: str) -> None:
    try:
        prompt = parse_prompt(text)
    except TemplateError:
        return
    assert all(message.template.strip() for message in prompt)
    assert as_messages([tuple(message) for message in prompt]) == prompt

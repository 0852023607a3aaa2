"""Prompts as text: split into messages, checked when they are written, filled from a row."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, get_args

from distilnb.errors import TemplateError
from distilnb.llms.request import Message
from distilnb.rows import Row
from distilnb.spec.template import compile_template, render_template

Role = Literal["system", "user", "assistant"]

_ROLE_LINE = re.compile(r"^(system|user|assistant):[ \t]*$", re.MULTILINE)


class PromptMessage(NamedTuple):
    """One message of a prompt: who speaks, and the template of what is said."""

    role: Role
    template: str


def parse_prompt(text: str) -> tuple[PromptMessage, ...]:
    r"""Split the text of a prompt into messages, and check each as a template.

    A line that is only `system:`, `user:` or `assistant:` starts a message; what precedes the first is
    the user's. Blank lines around a message are no part of it.

    Raises TemplateError, naming the line, when a template cannot be read, a message is empty, or no message
    is the user's.

    >>> for message in parse_prompt("system:\nBe terse.\nuser:\n{{ instruction }}"):
    ...     print(message.role, "says", message.template)
    system says Be terse.
    user says {{ instruction }}
    """
    text = text.replace("\r\n", "\n")
    heads = list(_ROLE_LINE.finditer(text))
    messages: list[PromptMessage] = []
    before = text[: heads[0].start()] if heads else text
    if before.strip():
        messages.append(_message("user", before, 1))
    for head, following in zip(heads, [*heads[1:], None], strict=False):
        body = text[head.end() : following.start() if following else len(text)]
        first_line = text.count("\n", 0, head.end()) + 1
        if not body.strip():
            raise TemplateError(
                f"Line {first_line} of the prompt starts a message of role {head[1]!r}, but it is empty.",
                "Write its text below that line, or remove the line.",
            )
        messages.append(_message(head[1], body, first_line))
    return check_messages(messages)


def as_messages(value: object) -> tuple[PromptMessage, ...]:
    """Return messages from what a user or a file gives: the text of a prompt, or pairs of role and
    template.
    """
    if isinstance(value, str):
        return parse_prompt(value)
    if not isinstance(value, (list, tuple)):
        raise TemplateError(f"A prompt is text or a list of (role, template), not {type(value).__name__}.")
    messages = []
    for item in value:
        pair = (item.get("role"), item.get("content")) if isinstance(item, dict) else tuple(item)
        if len(pair) != 2 or pair[0] not in get_args(Role) or not isinstance(pair[1], str):
            raise TemplateError(
                f"A message is {item!r:.80}.",
                f"A message is (role, template); the roles are {get_args(Role)}.",
            )
        compile_template(pair[1])
        messages.append(PromptMessage(*pair))
    return check_messages(messages) if messages else ()


def check_messages(messages: Iterable[PromptMessage]) -> tuple[PromptMessage, ...]:
    """Return the messages as a tuple; raises TemplateError when none is the user's."""
    checked = tuple(messages)
    if not any(message.role == "user" for message in checked):
        what = "The prompt has no message of the user." if checked else "The prompt is empty."
        raise TemplateError(what, "Write one: a line `user:` and its text below.")
    return checked


def variables(messages: Iterable[PromptMessage]) -> tuple[str, ...]:
    """Return the columns that the templates name, in the order of their first use."""
    return tuple(dict.fromkeys(name for one in messages for name in compile_template(one.template).variables))


def may_be_none(messages: Iterable[PromptMessage]) -> frozenset[str]:
    """Return the columns that the templates themselves test for being there: `{% if context %}`."""
    return frozenset(name for one in messages for name in compile_template(one.template).may_be_none)


def render(messages: Iterable[PromptMessage], row: Row) -> list[Message]:
    """Fill the templates from a row.

    Raises MissingValueError naming the column that is None or absent, StepRowError when the values do not
    fit.

    >>> render(parse_prompt("Shorten: {{ text }}"), {"text": "a long story"})
    [{'role': 'user', 'content': 'Shorten: a long story'}]
    """
    return [{"role": one.role, "content": render_template(one.template, row)} for one in messages]


def _message(role: Any, body: str, first_line: int) -> PromptMessage:
    lead = len(body) - len(body.lstrip())
    template = body.strip()
    compile_template(template, first_line + body.count("\n", 0, lead))
    return PromptMessage(role, template)

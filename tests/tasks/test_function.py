"""Tasks made of functions, in both forms."""

from __future__ import annotations

import json
from typing import Any

import pytest

from distilnb.errors import MissingValueError, ParseError, TemplateError, UnknownParameterError
from distilnb.llms.rehearsal import RehearsalLLM
from distilnb.spec.columns import Columns
from distilnb.spec.draft import Draft, drafting
from distilnb.spec.registry import build
from distilnb.tasks import Task, task
from distilnb.tasks.function import FunctionTask


@task
def keywords(reply: str, limit: int = 2) -> dict[str, Any]:
    """system:
    Be terse.
    user:
    List keywords of {{ text }}.
    """
    return {"keywords": reply.split(",")[:limit]}


@task
def translation(text: str) -> None:
    """Translate into German: {{ text }}."""


@task
def score(reply: str, row: dict[str, Any], weight: float) -> dict[str, Any]:
    """Rate {{ text }}."""
    return {"score": float(reply) * weight, "for": row["id"]}


@task(inputs=["instruction"], outputs=["reason", "n"])
def old(output: str | None, input: dict[str, Any]) -> dict[str, Any]:
    """---
    system_prompt: |
        You answer in JSON: {{"reason": "…", "n": 1}}. {{% raw %}}
    user_message_template: |
        Solve this:
        {instruction}
    ---
    """  # noqa: D400, D415 - the form of 1.x
    return json.loads(output or "")  # type: ignore[no-any-return]


def test_the_docstring_is_the_prompt_and_the_body_reads_the_reply() -> None:
    one = keywords()
    assert one.format_input({"text": "Salz"}) == [
        {"role": "system", "content": "Be terse."},
        {"role": "user", "content": "List keywords of Salz."},
    ]
    assert one.format_output("a,b,c", {"text": "x"}) == {"keywords": ["a", "b"]}
    assert one.format_output("a,b,c", {"text": "x", "limit": 1}) == {"keywords": ["a"]}
    assert (one.needed(), one.made()) == (["text"], ["keywords", "model_name"])


def test_a_function_without_a_body_makes_a_column_of_its_name() -> None:
    assert translation().made() == ["translation", "model_name"]
    assert translation().format_output(" Salz \n", {"text": "salt"}) == {"translation": "Salz"}


def test_the_body_may_read_columns_and_the_row() -> None:
    assert score().needed() == ["text", "weight"]
    assert score().format_output("2", {"id": 7, "text": "x", "weight": 1.5}) == {"score": 3.0, "for": 7}


@pytest.mark.parametrize("reply", ["many", "", None])
def test_what_the_body_cannot_read_is_a_parse_error(reply: str | None) -> None:
    with pytest.raises(ParseError):
        score().format_output(reply, {"id": 7, "text": "x", "weight": 1})


def test_a_body_that_returns_no_dict_is_a_parse_error() -> None:
    with pytest.raises(ParseError, match="returned 'a' "):
        task(lambda_with_prompt).to_step().format_output("a", {})


def lambda_with_prompt(reply: str) -> Any:
    """Say {{ a }}."""
    return reply


def test_columns_are_open_where_the_source_does_not_tell_them() -> None:
    assert task(lambda_with_prompt).to_step().columns_after([Columns(("a",))]).is_open
    assert not keywords().columns_after([Columns(("text",))]).is_open


def test_a_1x_docstring_is_yaml_with_braces_around_columns() -> None:
    one = old()
    assert one.format_input({"instruction": "1+{1}"}) == [
        {"role": "system", "content": 'You answer in JSON: {"reason": "…", "n": 1}. {% raw %}'},
        {"role": "user", "content": "Solve this:\n1+{1}"},
    ]
    assert one.format_output('{"reason": "r", "n": 2}', {}) == {"reason": "r", "n": 2}
    with pytest.raises(ParseError, match="raised JSONDecodeError"):
        one.format_output("no json", {})
    with pytest.raises(MissingValueError):
        one.request({"instruction": None})


@pytest.mark.parametrize(
    "docstring, message",
    [
        (None, "has no docstring"),
        ("---\nuser_message_template: '{b}'\n---", "names 'b', but the task reads"),
        ("---\nuser_message_template: '{a.__class__}'\n---", "names 'a.__class__'"),
        ("---\nuser_message_template: '{a!r}'\n---", "names 'a'"),
        ("---\nuser_message_template: '{a'\n---", "cannot be read"),
        ("---\nuser_message_template: [\n---", "holds no YAML"),
        ("---\nuser_message_template: x\nother: y\n---", "holds"),
        ("{{ a", "Line 1"),
    ],
)
def test_what_is_wrong_with_a_prompt_is_told_where_it_is_written(docstring: str | None, message: str) -> None:
    def broken(output: str, input: dict[str, Any]) -> dict[str, Any]:
        return {}

    broken.__doc__ = docstring
    with pytest.raises(TemplateError, match=message):
        task(inputs=["a"], outputs=["b"])(broken)


def test_asking_now() -> None:
    made = translation.ask({"text": "salt"}, llm="rehearsal")
    assert isinstance(made, dict)
    assert "(rehearsed)" in made["translation"]
    several = translation(num_generations=2, llm=RehearsalLLM()).ask({"text": "salt"})
    assert [set(one) for one in several] == [{"translation", "model_name"}] * 2


def test_asking_joins_no_open_pipeline() -> None:
    with drafting(Draft()) as _, pytest.raises(UnknownParameterError, match="no field 'temprature'"):
        keywords(temprature=1)
    draft = Draft()
    with drafting(draft):
        translation.ask({"text": "salt"}, llm="rehearsal")
        assert [translation().name, translation(name="de").name] == ["translation_0", "de"]
    assert list(draft.steps) == ["translation_0", "de"]


def test_a_function_task_is_built_again_from_its_dump_and_its_code() -> None:
    one = keywords(name="k")
    data = json.loads(json.dumps(one.dump()))
    again = build(data, codes={one.function.digest: one.function.live})
    assert again == one
    assert isinstance(again, FunctionTask)
    assert again.format_output("a,b", {"text": "x"}) == {"keywords": ["a", "b"]}
    assert isinstance(build(data), Task)  # untrusted: it can be looked at, and does not run

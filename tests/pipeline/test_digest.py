"""Equal digest means equal work: what changes the rows changes it, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from distilnb.llms.openai import OpenAILLM
from distilnb.pipeline import Pipeline

BASE = Pipeline("p", llm="rehearsal").from_dicts([{"instruction": "a"}])
LOCAL = "http://127.0.0.1:9/v1"


def model(**fields: object) -> OpenAILLM:
    return OpenAILLM(model="m", base_url=LOCAL, **fields)  # type: ignore[arg-type]  # the table gives right ones


def plain() -> Callable[..., dict[str, str]]:
    def shout(instruction: str) -> dict[str, str]:
        return {"loud": instruction.upper()}

    return shout


def commented() -> Callable[..., dict[str, str]]:
    def shout(instruction: str) -> dict[str, str]:
        """Say it loud."""
        # A comment changes nothing.
        return {"loud": instruction.upper()}

    return shout


def whispered() -> Callable[..., dict[str, str]]:
    def shout(instruction: str) -> dict[str, str]:
        return {"loud": instruction.lower()}

    return shout


SAME: list[tuple[Pipeline, Pipeline]] = [
    (BASE.generate(llm=model(max_concurrency=3)), BASE.generate(llm=model(max_concurrency=9, timeout=5.0))),
    (BASE.generate(llm=model(api_key="sk-one")), BASE.generate(llm=model(api_key="sk-two"))),
    (BASE.map(plain()), BASE.map(commented())),
    (BASE, Pipeline("p").from_dicts([{"instruction": "a"}])),
]
OTHER: list[tuple[Pipeline, Pipeline]] = [
    (BASE, BASE.with_rows([{"instruction": "b"}])),
    (BASE.generate(k=1), BASE.generate(k=2)),
    (BASE.generate("x"), BASE.generate("y")),
    (BASE.generate(llm=model()), BASE.generate(llm=model(generation_kwargs={"seed": 1}))),
    (BASE.map(plain()), BASE.map(whispered())),
    (BASE.generate(prompt="{{ instruction }}"), BASE.generate(prompt="{{ instruction }}!")),
    (BASE.filter("instruction == 'a'"), BASE.filter("instruction == 'b'")),
]


@pytest.mark.parametrize("one, two", SAME)
def test_what_does_not_change_the_rows_keeps_the_digest(one: Pipeline, two: Pipeline) -> None:
    assert one.digest == two.digest


@pytest.mark.parametrize("one, two", OTHER)
def test_what_changes_the_rows_changes_the_digest(one: Pipeline, two: Pipeline) -> None:
    assert one.digest != two.digest

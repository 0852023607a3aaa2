"""Code that a file carries: with what it needs, made live only by `make_live`, and without secrets."""

from __future__ import annotations

import inspect
import math as m
import re
from collections import Counter
from typing import Any

import pytest

from distilnb.errors import SpecError
from distilnb.spec.code import source_of
from distilnb.spec.step import Step
from distilnb.spec.trust import find_secret, make_live, needs_of, source_in, without_secrets

LIMIT = 3


def shorten(text: str) -> str:
    return re.sub("a", "b", text)[:LIMIT]


def measure(text):
    """Use a module, a class, a constant and another function."""
    return {"short": shorten(text), "area": m.pi, "most": Counter(text).most_common(1)}


class Shout(Step):
    inputs = ["text"]
    outputs = ["loud"]

    def process(self, rows):
        yield [{**row, "loud": shorten(row["text"]).upper()} for row in rows]


def moved(value: Any) -> Any:
    source = source_of(value)
    return make_live(value.__name__, source, needs_of(value, source))


def test_a_function_brings_its_imports_values_and_helpers() -> None:
    assert moved(measure)("aab") == measure("aab")


def test_a_class_brings_its_base() -> None:
    made = moved(Shout)
    assert [*made().process([{"text": "abcdef"}])] == [[{"text": "abcdef", "loud": "BBC"}]]


def test_what_was_moved_can_be_moved_again() -> None:
    again = moved(moved(measure))
    assert again("aab") == measure("aab")
    made = moved(Shout)
    assert source_in(made) == source_of(Shout)
    assert needs_of(made, source_in(made)) == needs_of(Shout, source_of(Shout))


def test_a_moved_function_shows_its_source() -> None:
    assert inspect.getsource(moved(measure)) == source_of(measure)


def test_a_value_of_an_enclosing_function_comes_along() -> None:
    factor = 7

    def times(x):
        return x * factor

    assert moved(times)(2) == 14


def test_the_one_lambda_of_a_line_is_found() -> None:
    pipeline = {"fn": lambda row: {"n": len(row["text"]), "limit": LIMIT}}
    live = moved(pipeline["fn"])
    assert live({"text": "abc"}) == {"n": 3, "limit": 3}


def test_of_two_lambdas_none_is_guessed() -> None:
    pair = [lambda row: row, lambda row: None]
    with pytest.raises(SpecError, match="not whole"):
        moved(pair[0])


def test_our_own_decorator_is_left_away() -> None:
    live = make_live("f", "@dn.step(inputs=['a'])\ndef f(a):\n    return {'b': a}\n")
    assert live(1) == {"b": 1}


def test_a_name_that_nothing_defines_is_told_before_the_run() -> None:
    with pytest.raises(SpecError, match=r"\['np'\]"):
        make_live("f", "def f(a):\n    return np.mean(a)\n")


@pytest.mark.parametrize("source", ["", "x = 1", "import os\ndef f(): pass", "def g(): pass"])
def test_only_one_whole_definition_of_that_name_is_made(source: str) -> None:
    with pytest.raises(SpecError):
        make_live("f", source)


def test_secrets_are_found_and_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_API_KEY", "canary-0123456789")
    for text in ("say canary-0123456789", "use hf_abcdefghijklmnopqrstuv", "sk-proj-abcdefghijklmnop1234"):
        assert find_secret(text)
        assert find_secret(without_secrets(text)) == ""
    assert find_secret("a task-specific ask-me-anything prompt") == ""

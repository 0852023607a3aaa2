"""Code that a file carries: with what it needs, made live only by `make_live`, and without secrets."""

from __future__ import annotations

import inspect
import math as m
import re
from collections import Counter
from typing import Any

import pytest

from distilnb.errors import SpecError, UnsafeFileError
from distilnb.spec.code import source_of
from distilnb.spec.step import Step
from distilnb.spec.trust import (
    find_named_secrets,
    find_secret,
    make_live,
    needs_of,
    source_in,
    without_secrets,
)

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


API_TOKEN = "tok-abcdefgh-12345"
GATEWAY = {"url": "http://x", "api_key": "my-gateway"}
PAD_TOKEN, MAX_TOKENS, KEY = "<pad>", 9, 3


@pytest.mark.parametrize(
    "code, place",
    [(lambda text: text + API_TOKEN, "API_TOKEN"), (lambda text: [text, GATEWAY], "GATEWAY.api_key")],
)
def test_a_global_with_the_name_of_a_secret_is_not_written(code: Any, place: str) -> None:
    source = f"lambda text: {place.split('.', maxsplit=1)[0]}"
    with pytest.raises(UnsafeFileError, match=f"global '{place}'.*\n.*os.environ") as told:
        needs_of(code, source)
    assert "abcdefgh" not in str(told.value)


def test_other_globals_are_written() -> None:
    def cut(text):
        return (text + PAD_TOKEN)[:MAX_TOKENS] * KEY

    assert moved(cut)("a") == "a<pad>" * 3


def test_a_secret_is_found_by_the_name_of_its_field() -> None:
    data = {
        "a": {"options": {"key": "AKIA", "Secret": "w", "token": "", "max_tokens": 5, "key_column": "id"}},
        "b": [
            {"password": "x"},
            {"api_key": "y", "keys": ["z"], "pad_token": "[PAD]", "token": "**********"},
        ],
        "c": {
            "columns": {"token": "word"},
            "input_mappings": {"key": "id"},
            "output_mappings": {"key": "id"},
        },
    }
    assert [*find_named_secrets(data)] == ["a.options.key", "a.options.Secret", "b.0.password", "b.1.api_key"]

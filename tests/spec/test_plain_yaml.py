"""YAML of plain data: what goes in comes out, and nothing else can come in."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from distilnb.errors import SpecError, UnsafeFileError
from distilnb.spec.plain_yaml import OneLine, dump_yaml, load_yaml

texts = st.text() | st.sampled_from(
    [
        "no",
        "yes",
        "~",
        "null",
        "1e3",
        "0o17",
        "1:30",
        "12:30:45",
        "010",
        "1_000",
        "0b11",
        "1E-3",
        "-0",
        "1.5",
        ".inf",
        ".nan",
        "+1",
        "2020-01-01",
        "<<",
        "=",
        " a\nb",
        "a \nb",
        "a\n\n",
        "\n",
        "#x",
    ]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
plain = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_plain_data_comes_back_as_it_was(data: Any) -> None:
    assert load_yaml(dump_yaml(data)) == data
    assert load_yaml(dump_yaml(data, quickly=True)) == data


@given(plain)
def test_another_safe_reader_reads_the_same_text(data: Any) -> None:
    """Files are read by others too: what is written means the same under YAML 1.1."""
    assert yaml.safe_load(dump_yaml(data)) == data
    assert yaml.safe_load(dump_yaml(data, quickly=True)) == data


def test_text_of_several_lines_is_a_block_and_unicode_stays() -> None:
    assert dump_yaml({"prompt": "Grüße 🎉\n  {{ name }}\n"}) == "prompt: |\n  Grüße 🎉\n    {{ name }}\n"


def test_pairs_can_stand_on_one_line() -> None:
    assert dump_yaml({"connections": [OneLine(["a", "b"])]}) == "connections:\n  - [a, b]\n"


def test_words_and_dates_are_text() -> None:
    text = "a: no\nb: on\nc: 2020-01-01\nd: true\ne: 3"
    assert load_yaml(text) == {"a": "no", "b": "on", "c": "2020-01-01", "d": True, "e": 3}


@pytest.mark.parametrize(
    "text", ["12:30:45", "1:30.5", "010", "0o17", "0x1f", "1_000", "0b11", "+1", "1.", ".5"]
)
def test_only_the_numbers_of_json_are_numbers(text: str) -> None:
    assert load_yaml(f"a: {text}\n{text}: b") == {"a": text, text: "b"}


def test_numbers_of_json_are_read_and_written() -> None:
    text = "[0, -3, 1.5, -0.25, 1e3, 2E-2, 1.5e+7, .inf, -.inf]"
    numbers = [0, -3, 1.5, -0.25, 1000.0, 0.02, 1.5e7, float("inf"), float("-inf")]
    assert load_yaml(text) == numbers
    assert [type(number) for number in load_yaml(text)] == [type(number) for number in numbers]
    assert load_yaml(dump_yaml([*numbers, 1e22, 1e-7])) == [*numbers, 1e22, 1e-7]


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['true']",
        "a: !!python/name:os.system ''",
        "a: !!binary aGk=",
        "a: !mine 3",
        "a: &x [1]\nb: *x",
        "[" * 200 + "]" * 200,
    ],
)
def test_tags_aliases_and_depth_are_refused(text: str) -> None:
    with pytest.raises(UnsafeFileError):
        load_yaml(text)


@pytest.mark.parametrize("text", ["a: [", "a: 1\na: 2", "? [x]\n: 1", "a: \x00", "a: " + "9" * 5000])
def test_what_is_no_yaml_is_told(text: str) -> None:
    with pytest.raises(SpecError, match="no YAML"):
        load_yaml(text)


def test_half_of_a_character_is_told() -> None:
    with pytest.raises(SpecError, match="half of a character"):
        dump_yaml({"a": "\ud800"})

"""A line is split at blanks outside of quotes and brackets, and words mean Python values where they are such."""

from __future__ import annotations

import re

import pytest

from distilnb.notebook.words import assignments, split_words, unquoted, value_of


@pytest.mark.parametrize(
    "line, words",
    [
        ("", []),
        ("  run   prefs ", ["run", "prefs"]),
        ('filter "stars >= 4"', ["filter", '"stars >= 4"']),
        ("filter 'it is \"so\"'", ["filter", "'it is \"so\"'"]),
        ("add columns=['a b', \"c\"] into=d", ["add", "columns=['a b', \"c\"]", "into=d"]),
        ("rename {'a': 'b'}", ["rename", "{'a': 'b'}"]),
        ("new x it's.jsonl", ["new", "x", "it's.jsonl"]),
        ("new x 'a b.jsonl'", ["new", "x", "'a b.jsonl'"]),
        ("run # and wait", ["run"]),
        ('filter "a # b"', ["filter", '"a # b"']),
        (r"filter 'a\'b c'", ["filter", r"'a\'b c'"]),
    ],
)
def test_splitting(line: str, words: list[str]) -> None:
    assert split_words(line) == words


@pytest.mark.parametrize("line, what", [("a 'b", "'"), ("a [b", "["), ("a {'b': (1}", "(")])
def test_an_open_end_is_an_error(line: str, what: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(what)} has no end$"):
        split_words(line)


@pytest.mark.parametrize(
    "word, value",
    [
        ("4", 4),
        ("4.5", 4.5),
        ("None", None),
        ("True", True),
        ("'4'", "4"),
        ("[1, 2]", [1, 2]),
        ("worst", "worst"),
    ],
)
def test_a_word_is_a_literal_or_itself(word: str, value: object) -> None:
    assert value_of(word, {}) == value


def test_a_variable_counts_only_when_it_holds_what_is_wanted() -> None:
    variables = {"shout": test_splitting, "text": "something else"}
    assert value_of("shout", variables, (type(test_splitting),)) is test_splitting
    assert value_of("text", variables, (type(test_splitting),)) == "text"


def test_quotes_around_a_whole_word_go() -> None:
    assert [unquoted(word) for word in ("'a b'", "ab", "4", "a='b'")] == ["a b", "ab", "4", "a='b'"]


def test_assignments() -> None:
    assert assignments(["a.b=0.7", "c='d e'", "f=g"], {}) == {"a.b": 0.7, "c": "d e", "f": "g"}
    with pytest.raises(ValueError, match=r"^'=3' is not name=value$"):
        assignments(["=3"], {})

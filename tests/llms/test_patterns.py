from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilnb.llms.patterns import text_matching

PATTERNS = [
    r"^\d{4}-\d{2}-\d{2}$",
    r"^(yes|no|maybe)$",
    r"[A-Z][a-z]+( [A-Z][a-z]+)*",
    r"^[^0-9]{3,5}$",
    r"^\S+@\S+\.(com|org)$",
    r"^(?P<q>['\"])\w*(?P=q)$",
    r"^a*?b+c?$",
    r"^[\D\W]$",
    r"^.{2}$",
    r"^(?:0|[1-9]\d*)\.\d+$",
    r"^[^a]b$",
    r"^$",
]


@given(st.sampled_from(PATTERNS), st.integers())
def test_the_text_matches_the_pattern(pattern: str, seed: int) -> None:
    assert re.search(pattern, text_matching(pattern, Random(seed)))


@st.composite
def patterns(draw: st.DrawFn) -> str:
    piece = st.sampled_from(
        [
            "a",
            "x",
            "[a-f]",
            "[^x]",
            r"\d",
            r"\w",
            r"\s",
            r"\.",
            "(red|blue|)",
            "(?:yes|no)",
            "[A-Z]{2}",
            ".",
            "ä",
            "漢",
        ]
    )
    times = st.sampled_from(["", "", "?", "*", "+", "{3}", "{2,4}", "+?"])
    parts = draw(st.lists(st.tuples(piece, times), min_size=1, max_size=6))
    text = "".join(f"(?:{part}){often}" for part, often in parts)
    return draw(st.sampled_from([text, f"^{text}$", f"(?:{text})|{draw(piece)}"]))


@given(patterns(), st.integers())
def test_the_text_matches_as_a_whole_when_asked_to(pattern: str, seed: int) -> None:
    assert re.fullmatch(pattern, text_matching(pattern, Random(seed), is_whole=True))


def test_one_seed_gives_one_text() -> None:
    assert text_matching(r"\w{9}", Random(5)) == text_matching(r"\w{9}", Random(5))


@pytest.mark.parametrize("pattern", [r"(", r"^a(?!a)a$", r"\p{L}+"])
def test_what_cannot_be_matched_or_read_gives_no_text(pattern: str) -> None:
    assert text_matching(pattern, Random(0)) == ""

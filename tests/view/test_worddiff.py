"""A difference of two texts holds both of them, by word, or by character where a script sets no spaces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilnb.view.worddiff import _CHUNK, MAX_REFINED, Budget, Piece, diff, words

TEXTS = st.one_of(
    st.text(alphabet="ab \n.", max_size=80),
    st.text(alphabet="数据很好。 a\n", max_size=60),
    st.text(alphabet="กขาำ่ a", max_size=60),
    st.text(max_size=40),
)


def sides(pieces: list[Piece]) -> tuple[str, str]:
    """Return the texts that pieces are made of."""
    return (
        "".join(piece.text for piece in pieces if piece.kind != "new"),
        "".join(piece.text for piece in pieces if piece.kind != "gone"),
    )


def marked(left: str, right: str) -> str:
    signs = {"same": "{}", "gone": "[-{}-]", "new": "{{+{}+}}"}
    return "".join(signs[piece.kind].format(piece.text) for piece in diff(left, right))


@given(TEXTS, TEXTS)
def test_pieces_hold_both_texts_to_the_letter(left: str, right: str) -> None:
    assert sides(diff(left, right)) == (left, right)
    assert sides(diff(left, right, Budget(0))) == (left, right)


@given(TEXTS)
def test_words_are_all_of_a_text(text: str) -> None:
    assert "".join(words(text)) == text


@given(TEXTS, TEXTS)
def test_no_two_pieces_of_a_kind_follow_each_other(left: str, right: str) -> None:
    kinds = [piece.kind for piece in diff(left, right)]
    assert all(one != other for one, other in itertools.pairwise(kinds))
    assert all(piece.text for piece in diff(left, right))


@pytest.mark.parametrize(
    "left, right, wanted",
    [
        ("Name three uses.", "Name two uses.", "Name [-three-]{+two+} uses."),
        ("You are terse.", "You are terse. Number every item.", "You are terse.{+ Number every item.+}"),
        ("don't do it", "do do it", "[-don't-]{+do+} do it"),
        ("数据集很好", "数据不好", "数据[-集很-]{+不+}好"),
        ("カタカナです", "ひらがなです", "[-カタカナ-]{+ひらがな+}です"),
        ("ผมชอบกาแฟ", "ผมชอบชา", "ผมชอบ[-ก-]{+ช+}า[-แฟ-]"),
        ("한국어 문장", "한국어 단어", "한국어 [-문장-]{+단어+}"),
        ("नमस्ते दुनिया", "नमस्ते भारत", "नमस्ते [-दुनिया-]{+भारत+}"),
        ("", "new", "{+new+}"),
        ("gone", "", "[-gone-]"),
        ("same", "same", "same"),
    ],
)
def test_differences_are_told_by_word_or_by_character(left: str, right: str, wanted: str) -> None:
    assert marked(left, right) == wanted


def test_a_mark_stays_with_the_character_that_it_belongs_to() -> None:
    assert words("กำ่ขี้") == ["กำ่", "ขี้"]
    assert words("👨‍👩‍👧 x") == ["👨‍👩‍👧", " ", "x"]


def test_a_blank_between_two_changes_belongs_to_the_change() -> None:
    assert marked("a b", "c d") == "[-a b-]{+c d+}"


def test_small_changes_of_a_long_text_are_found_where_they_are() -> None:
    sentences = [f"This is sentence number {i} of a long text." for i in range(20_000)]
    right = [*sentences]
    right[7], right[15_000] = "Another one.", right[15_000].replace("long", "short")
    pieces = diff(" ".join(sentences), " ".join(right))
    changed = [piece.text for piece in pieces if piece.kind != "same"]
    assert "".join(changed).count("sentence") <= 1
    assert changed[-2:] == ["long", "short"]


def test_a_long_line_without_sentences_is_compared_from_both_ends() -> None:
    left = "x" * MAX_REFINED + "a" + "y" * MAX_REFINED
    right = "x" * MAX_REFINED + "b" + "y" * MAX_REFINED
    changed = [piece for piece in diff(left, right) if piece.kind != "same"]
    assert sum(len(piece.text) for piece in changed) <= 2 * 301


@pytest.mark.parametrize("sign", "!?.")
def test_a_long_run_of_one_sign_is_taken_in_short_stretches(sign: str) -> None:
    # A stretch looks for a blank behind its signs: were it to look to their end, each would look at all that follow.
    text = "Well" + sign * 5_000 + " x"
    chunks = _CHUNK.findall(text)
    assert "".join(chunks) == text
    assert max(map(len, chunks)) <= 330

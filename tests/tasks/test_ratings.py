"""Reading ratings out of what judges write."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilnb.tasks.ratings import parse_items

GOOD = "## Text 1\nRating: 4\nRationale: a\n\n## Text 2\nRating: 2\nRationale: b"


@pytest.mark.parametrize(
    "reply",
    [
        GOOD,
        "Sure! Here are my ratings.\n\n" + GOOD,
        GOOD.replace("## Text", "**Text").replace("1\nR", "1:**\nR").replace("2\nRating", "2:**\nRating"),
        GOOD.replace("## Text", "#### Output for Text"),
        GOOD.replace("## Text ", "Response #"),
        GOOD.replace("## Text 1", "[1]").replace("## Text 2", "[2]"),
        GOOD.replace("## Text 1", "1.").replace("## Text 2", "2."),
        GOOD.replace("## Text 1\n", "1. ").replace("## Text 2\n", "2. "),
        GOOD.replace("## Text 1\n", "Text 1: ").replace("## Text 2\n", "Text 2 – "),
        GOOD.replace("## Text 1\n", "").replace("## Text 2\n", ""),
        GOOD.replace(": 4", ": **4/5**").replace(": 2", ": 2 out of 5"),
        GOOD.replace("Rating:", "**Rating:**").replace("Rationale:", "*Rationale*:"),
        GOOD.replace("Rating: 4", "Rating:4").replace("Rating: 2", "Rating:2"),
        GOOD.replace("Rating: ", "Rating:\n"),
        GOOD.replace("\nRationale", ". Rationale"),
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("Rating: 4\nRationale: a", "Rationale: a\nRating: 4"),
        "## Text 2\nRating: 2\nRationale: b\n\n## Text 1\nRating: 4\nRationale: a\n",
        GOOD.replace("Text 2", "Text 1").replace("Text 1", "Text 0", 1),
        "<think>Text 1: Rating: 1\nText 2: Rating: 1</think>\n" + GOOD,
        GOOD.replace("Rating: 4", "Rating: 4.0"),
        GOOD.replace("Rating", "Score"),
    ],
)
def test_many_forms_mean_the_same(reply: str) -> None:
    parsed = parse_items(reply, 2)
    assert ([item.rating for item in parsed.items], [item.rationale for item in parsed.items]) == (
        [4, 2],
        ["a", "b"],
    )
    assert parsed.problems == []


@pytest.mark.parametrize(
    "rating, problem",
    [
        ("7", "rating 7 is outside 1..5"),
        ("0", "rating 0 is outside 1..5"),
        ("-3", "rating -3 is outside 1..5"),
        ("3.5", "rating 3.5 is no whole number"),
        ("8/10", "rating 8/10 is not on the scale 1..5"),
        ("N/A", "rating 'N/A' is no number"),
        ("", "rating '' is no number"),
        ("<a whole number from 1 to 5>", "rating '<a whole number from' is no number"),
        ("about 2", "rating 'about 2' is no number"),
        ("1-5", "rating '1-5' is more than one number"),
        ("1 to 5", "rating '1 to 5' is more than one number"),
        ("(1, 2, 3, 4 or 5)", "rating '(1, 2, 3, 4 or 5)' is more than one number"),
        ("4 of the 5 demands", "rating '4 of the 5 demands' is more than one number"),
        ("4 out of 10", "rating 4/10 is not on the scale 1..5"),
        ("9" * 5000, "rating 99999999999999999999 is outside 1..5"),
    ],
)
def test_a_rating_that_is_none_is_told(rating: str, problem: str) -> None:
    parsed = parse_items(GOOD.replace("Rating: 2", f"Rating: {rating}"), 2)
    assert [item.rating for item in parsed.items] == [4, None]
    assert parsed.problems == [f"{problem} (text 2)"]


@pytest.mark.parametrize(
    "rating",
    [
        "2",
        "**2**",
        '"2"',
        "“2”",
        "\uff1a2",
        "(2)",
        "<2>",
        "2/5",
        "2 / 5.0",
        "(2/5)",
        "2 (out of 5)",
        "2: weak",
    ],
)
def test_a_rating_may_be_marked_up(rating: str) -> None:
    parsed = parse_items(GOOD.replace("Rating: 2", f"Rating: {rating}"), 2)
    assert [item.rating for item in parsed.items] == [4, 2]


def test_headings_that_count_from_0_are_shifted_where_they_name_every_text() -> None:
    shifted = parse_items("Text 0: 5/5\nText 1: 1/5\nText 2: 3/5", 3)
    assert [item.rating for item in shifted.items] == [5, 1, 3]
    part = parse_items("Text 0: 5/5\nText 1: 1/5", 3)
    assert [item.rating for item in part.items] == [None, None, None]
    assert part.problems == ["the texts are numbered 0, 1, not 1..3"]


def test_a_heading_without_a_text_is_told() -> None:
    parsed = parse_items(GOOD + "\n\n## Text 3\nRating: 5\nRationale: there is no third", 2)
    assert [item.rating for item in parsed.items] == [4, 2]
    assert parsed.problems == ["there is no text 3"]


@pytest.mark.parametrize(
    "rationale",
    [
        "It says (Rating: 2) of the film.",
        "It is long. Rating: 2 is what it says of the film.",
        "It says Type: 2 of the film.",
        "It is long. (Type: 2)",
    ],
)
def test_a_label_within_a_rationale_is_a_part_of_it(rationale: str) -> None:
    [item] = parse_items(f"## Text 1\nRating: 4\nRationale: {rationale}", 1).items
    assert (item.rating, item.rationale) == (4, rationale)


@pytest.mark.parametrize(
    "line",
    [
        "Rating: 4. Rationale: x",
        "Rating: 4 Rationale: x",
        "Rating: 4, Rationale: x",
        "Rating: 4/5 | Rationale: x",
        "**Rating:** 4 **Rationale:** x",
        "**Rating**: 4 - **Rationale**: x",
        "Rating: (4) Rationale: x",
    ],
)
def test_a_line_may_hold_several_fields(line: str) -> None:
    [item] = parse_items(f"## Text 1\n{line}", 1).items
    assert (item.rating, item.rationale) == (4, "x")
    assert parse_items(f"## Text 1\n{line}", 1).problems == []


def test_a_line_may_hold_both_rationales() -> None:
    line = "Type: None Rationale: It is. Rating: 5. Rationale: It does."
    [item] = parse_items(line, 1, with_types=True).items
    assert tuple(item) == (5, "It is.", None, "It does.")


def test_what_is_missing_is_none_in_its_place() -> None:
    parsed = parse_items("## Text 3\nRating: 5\nRationale: c", 3)
    assert [item.rating for item in parsed.items] == [None, None, 5]
    assert parsed.problems == ["no rating (text 1)", "no rating (text 2)"]
    assert parse_items("## Text 1\nRating: 5", 1).problems == ["no rationale"]


def test_too_few_ratings_without_headings_are_not_guessed() -> None:
    parsed = parse_items("Rating: 5\nRationale: a", 2)
    assert [item.rating for item in parsed.items] == [None, None]
    assert parsed.problems == ["1 ratings for 2 texts, without saying which"]


def test_a_bare_fraction_is_a_rating() -> None:
    assert [item.rating for item in parse_items("Text 1: 4/5 - good\nText 2: 3/5", 2).items] == [4, 3]
    assert parse_items("3", 1).items[0].rating == 3
    assert parse_items("3 of these are wrong", 1).items[0].rating is None


@pytest.mark.parametrize(
    "second_label", ["Rationale for rating", "Rationale", "rationale for the rating", "Rating rationale"]
)
@pytest.mark.parametrize("head", ["## Text {}\n", ""])
def test_types_have_rationales_of_their_own(second_label: str, head: str) -> None:
    items = [
        f"{head.format(n)}Type: {n}\nRationale: t{n}\nRating: {n + 1}\n{second_label}: r{n}" for n in (1, 2)
    ]
    parsed = parse_items("\n\n".join(items), 2, with_types=True)
    assert [tuple(item) for item in parsed.items] == [(2, "t1", 1, "r1"), (3, "t2", 2, "r2")]
    assert parsed.problems == []


def test_no_type_is_a_type_where_there_is_none() -> None:
    reply = "## Text 1\nType: None\nRationale: t\nRating: 5\nRationale for rating: r"
    assert parse_items(reply, 1, with_types=True).items[0].type is None
    assert parse_items(reply, 1, with_types=True).problems == []
    assert parse_items(reply.replace("None", "4"), 1, with_types=True).problems == ["type 4 is outside 1..3"]


def test_rationales_in_other_scripts_keep_their_punctuation() -> None:
    reply = "## Text 1\nRating\uff1a\uff14\nRationale\uff1a很好\uff0c而且短\uff1a是。"
    [item] = parse_items(reply, 1).items
    assert (item.rating, item.rationale) == (4, "很好\uff0c而且短\uff1a是。")


@given(st.text(), st.integers(1, 5), st.booleans())
def test_any_text_gives_lists_of_the_right_length(reply: str, n_items: int, with_types: bool) -> None:
    assert len(parse_items(reply, n_items, with_types=with_types).items) == n_items


PIECES = [
    "## Text 1",
    "Text 2:",
    "[3]",
    "Rating:",
    "Rationale:",
    "Type: 2",
    " 4",
    "4/5",
    "\n",
    "\n\n",
    "*",
    "x y",
    "-1",
    "\uff1a",
    "Rationale for rating: r",
]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join), st.integers(1, 4), st.booleans())
def test_any_mixture_of_the_forms_parts_is_read_without_an_error(
    reply: str, n_items: int, with_types: bool
) -> None:
    items = parse_items(reply, n_items, with_types=with_types).items
    assert len(items) == n_items
    assert all(item.rating in (None, 1, 2, 3, 4, 5) and item.type in (None, 1, 2, 3) for item in items)


@pytest.mark.parametrize(
    "piece",
    [
        "#",
        " ",
        "\n",
        "Rating: ",
        "1",
        "a ",
        "*_",
        "Text 1\n",
        "Rating: 4 Rationale: x ",
        "[1]\n",
        "Rating: 4. ",
    ],
)
def test_a_megabyte_takes_no_quadratic_time(piece: str) -> None:
    reply = piece * (1_000_000 // len(piece))
    started = time.process_time()
    assert len(parse_items(reply, 3, with_types=True).items) == 3
    assert time.process_time() - started < 20

"""The judge that rates several texts."""

from __future__ import annotations

from random import Random
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilnb.errors import MissingValueError, ParseError, StepRowError
from distilnb.llms.request import Reply
from distilnb.tasks import UltraFeedback
from distilnb.tasks.base import Partial
from distilnb.tasks.ultrafeedback import Aspect

ASPECTS: tuple[Any, ...] = get_args(Aspect)


def row(*generations: str | None) -> dict[str, Any]:
    return {"instruction": "Say hi.", "generations": list(generations)}


@given(st.sampled_from(ASPECTS), st.integers(1, 6), st.integers())
def test_a_rehearsed_reply_is_always_whole(aspect: Any, n: int, seed: int) -> None:
    judge = UltraFeedback(aspect=aspect)
    given_row = row(*["x"] * n)
    made = judge.format_output(judge.rehearse(given_row, Random(seed)), given_row)
    assert not isinstance(made, Partial)
    assert {len(values) for values in made.values()} == {n}
    assert all(1 <= rating <= 5 for rating in made["ratings"])
    assert set(made) == set(judge.outputs) - {"model_name"}


def test_rehearsed_ratings_differ() -> None:
    judge = UltraFeedback()
    made = [
        judge.format_output(judge.rehearse(row("x"), Random(i)), row("x"))["ratings"][0] for i in range(60)
    ]
    assert set(made) == {1, 2, 3, 4, 5}


@given(st.sampled_from(ASPECTS), st.text() | st.none(), st.integers(1, 4))
def test_any_reply_gives_lists_of_the_right_length_or_a_parse_error(
    aspect: Any, reply: str | None, n: int
) -> None:
    try:
        made = UltraFeedback(aspect=aspect).format_output(reply, row(*["x"] * n))
    except ParseError:
        return
    assert {len(values) for values in made.values()} == {n}


def test_a_reply_that_rates_some_is_partial_and_says_why() -> None:
    reply = "## Text 1\nRating: 7\nRationale: a\n\n## Text 2\nRating: 2\nRationale: b"
    made = UltraFeedback(llm="rehearsal").rows_from(row("x", "y"), [Reply(reply, model="m")])
    assert made.rows[0]["ratings"] == [None, 2]
    assert made.rows[0]["model_name"] == "m"
    assert made.partial == ["rating 7 is outside 1..5 (text 1)"]


@pytest.mark.parametrize("reply", [None, "", "I would rather not.", "## Text 1\nRating: 9"])
def test_a_reply_that_rates_none_is_an_error(reply: str | None) -> None:
    with pytest.raises(ParseError, match="rates none of the 1 texts"):
        UltraFeedback().format_output(reply, row("x"))


def test_a_generation_that_is_none_is_not_shown_and_gets_none() -> None:
    judge = UltraFeedback()
    given_row = row("x", None, "y")
    assert '<text number="3">' not in judge.format_input(given_row)[1]["content"]
    reply = "## Text 1\nRating: 5\nRationale: a\n\n## Text 2\nRating: 2\nRationale: b"
    assert judge.format_output(reply, given_row) == {"ratings": [5, None, 2], "rationales": ["a", None, "b"]}


@pytest.mark.parametrize("generations", [[], [None]])
def test_without_a_generation_there_is_nothing_to_rate(generations: list[None]) -> None:
    with pytest.raises(MissingValueError, match="holds no generation"):
        UltraFeedback().request({"instruction": "i", "generations": generations})


def test_generations_must_be_a_list() -> None:
    with pytest.raises(StepRowError, match="holds str, not a list"):
        UltraFeedback().request({"instruction": "i", "generations": "one"})


def test_asking_now_gives_the_new_columns_under_the_names_that_they_get() -> None:
    judge = UltraFeedback(
        llm="rehearsal", input_mappings={"instruction": "q"}, output_mappings={"ratings": "stars"}
    )
    made = judge.ask({"q": "Say hi.", "generations": ["x", "y"]})
    assert isinstance(made, dict)
    assert set(made) == {"stars", "rationales", "model_name"}
    assert len(made["stars"]) == 2

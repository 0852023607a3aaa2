"""Shaping rows for training."""

from __future__ import annotations

import hashlib
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilnb.errors import MissingValueError, StepRowError
from distilnb.spec.step import DropRow
from distilnb.steps import FormatTextGenerationDPO, FormatTextGenerationSFT


def pair(ratings: list[Any], *, generations: list[Any] | None = None, **options: Any) -> dict[str, Any]:
    more = {name: options.pop(name) for name in ("generation_models", "system_prompt") if name in options}
    texts = generations or [f"g{i}" for i in range(len(ratings))]
    row = {"instruction": "Sag »hi«", "generations": texts, "ratings": ratings, **more}
    [[made]] = FormatTextGenerationDPO(**options).process([row])
    return made


def test_a_pair_has_the_shape_of_the_table() -> None:
    made = pair([1, 4], generation_models=["A", "B"], system_prompt="Kurz.")
    before = [{"role": "system", "content": "Kurz."}, {"role": "user", "content": "Sag »hi«"}]
    assert made["prompt"] == "Sag »hi«"
    assert made["prompt_id"] == hashlib.sha256("Sag »hi«".encode()).hexdigest()
    assert made["chosen"] == [*before, {"role": "assistant", "content": "g1"}]
    assert made["rejected"] == [*before, {"role": "assistant", "content": "g0"}]
    assert (made["chosen_rating"], made["rejected_rating"]) == (4, 1)
    assert (made["chosen_model"], made["rejected_model"]) == ("B", "A")


def test_without_models_there_are_no_model_columns() -> None:
    assert not {"chosen_model", "rejected_model"} & pair([1, 2]).keys()


@pytest.mark.parametrize(
    "ratings, chosen, rejected",
    [
        ([5, 1, 3], "g0", "g1"),
        ([4, 5, 5, 1, 1], "g1", "g3"),
        ([None, 2, 3], "g2", "g1"),
        ([2.5, float("nan"), 2], "g0", "g2"),
    ],
)
def test_the_first_best_and_the_first_worst_are_taken(ratings: list[Any], chosen: str, rejected: str) -> None:
    made = pair(ratings)
    assert (made["chosen"][-1]["content"], made["rejected"][-1]["content"]) == (chosen, rejected)


@pytest.mark.parametrize(
    "ratings, reason",
    [([3, 3], "tie"), ([None, 4], "fewer than two"), ([], "fewer than two"), ([4], "fewer than two")],
)
def test_a_row_that_makes_no_pair_is_left_out_for_a_reason(ratings: list[Any], reason: str) -> None:
    with pytest.raises(DropRow, match=reason):
        pair(ratings)


def test_a_tie_can_be_kept() -> None:
    made = pair([3, None, 3, 3], keep_ties=True)
    assert (made["chosen"][-1]["content"], made["rejected"][-1]["content"]) == ("g0", "g2")


@given(st.lists(st.one_of(st.none(), st.integers(1, 5)), min_size=2, max_size=6))
def test_a_random_rejected_one_is_rated_strictly_lower_and_the_same_each_time(ratings: list[Any]) -> None:
    try:
        made = pair(ratings, strategy="random")
    except DropRow:
        assert len({rating for rating in ratings if rating is not None}) < 2
    else:
        assert made["chosen_rating"] > made["rejected_rating"]
        assert pair(ratings, strategy="random") == made


def test_random_reaches_more_than_the_worst() -> None:
    rejected = {
        pair([5, 1, 2, 3], generations=[f"{i}", "a", "b", "c"], strategy="random")["rejected_rating"]
        for i in range(50)
    }
    assert rejected == {1, 2, 3}


@pytest.mark.parametrize(
    "changes",
    [
        {"ratings": [1]},
        {"ratings": ["4", "5"]},
        {"ratings": 3},
        {"generations": ["a", 7]},
        {"generation_models": ["A"]},
    ],
)
def test_rows_that_do_not_fit_are_errors_that_say_so(changes: dict[str, Any]) -> None:
    row = {"instruction": "i", "generations": ["a", "b"], "ratings": [1, 2], **changes}
    with pytest.raises(StepRowError):
        [*FormatTextGenerationDPO().process([row])]


def test_an_sft_row_has_messages() -> None:
    [[row]] = FormatTextGenerationSFT().process(
        [{"instruction": "i", "generation": "g", "system_prompt": ""}]
    )
    assert row["messages"] == [{"role": "user", "content": "i"}, {"role": "assistant", "content": "g"}]
    with pytest.raises(MissingValueError, match="'generation' is None"):
        [*FormatTextGenerationSFT().process([{"instruction": "i", "generation": None}])]


def test_drop_row_travels_between_processes() -> None:
    assert pickle.loads(pickle.dumps(DropRow("why"))).reason == "why"

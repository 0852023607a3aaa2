"""The review plan: stable names and ids, all unfit rows at once, numbers as Argilla wants them."""

from __future__ import annotations

from typing import Any

import pytest

from distilnb.errors import ReviewError
from distilnb.review.plan import ReviewPlan, Suggestion, plan_review, row_id_of

ROW: dict[str, Any] = {
    "instruction": "Why?",
    "generations": ["Because.", "No idea."],
    "generation_models": ["openai:a", "ollama:b"],
    "ratings": [4.6, None],
    "rationales": ["It answers.", None],
    "judge_model": "openai:judge",
}


def preference(*changes: dict[str, Any], **options: Any) -> ReviewPlan:
    return plan_review([{**ROW, **change} for change in changes or ({},)], **options)


def test_a_preference_has_a_field_and_two_questions_a_generation() -> None:
    plan = preference()
    assert [(field.name, field.required) for field in plan.fields] == [
        ("instruction", True), ("generation_0", False), ("generation_1", False),
    ]  # fmt: skip
    assert [(q.name, q.kind, q.required, q.options) for q in plan.questions] == [
        ("rating_0", "rating", True, (1, 2, 3, 4, 5)),
        ("rationale_0", "text", False, ()),
        ("rating_1", "rating", True, (1, 2, 3, 4, 5)),
        ("rationale_1", "text", False, ()),
    ]
    assert {(item.name, item.kind) for item in plan.properties} == {
        ("row", "integer"), ("judge", "terms"), ("judge_rating_0", "float"), ("model_0", "terms"), ("model_1", "terms"),
    }  # fmt: skip


def test_a_record_holds_texts_suggestions_and_the_exact_rating() -> None:
    (record,) = preference(run_id="prefs-1", step="judge").records
    assert record.fields == {"instruction": "Why?", "generation_0": "Because.", "generation_1": "No idea."}
    assert record.suggestions == (
        Suggestion("rating_0", 5, "openai:judge"), Suggestion("rationale_0", "It answers.", "openai:judge"),
    )  # fmt: skip
    assert record.metadata == {
        "row": 0, "run": "prefs-1", "step": "judge", "judge": "openai:judge", "judge_rating_0": 4.6,
        "model_0": "openai:a", "model_1": "ollama:b",
    }  # fmt: skip


@pytest.mark.parametrize("rating,value", [(4.5, 5), (2.5, 3), (2.49, 2), (1, 1), (0, 1), (9, 5), (-3.7, 1)])
def test_a_rating_is_a_whole_number_of_the_scale(rating: float, value: int) -> None:
    (record,) = preference({"ratings": [rating, None]}).records
    assert record.suggestions[0].value == value
    assert isinstance(record.suggestions[0].value, int)
    assert record.metadata["judge_rating_0"] == rating


def test_clipped_ratings_are_told_and_the_scale_can_be_wider() -> None:
    assert "1 rating lay outside 1 to 5" in preference({"ratings": [9, None]}).notes[0]
    plan = preference({"ratings": [9, None]}, scale=(1, 10))
    assert (plan.notes, plan.records[0].suggestions[0].value) == ((), 9)
    with pytest.raises(ReviewError, match="0 to 10"):
        preference(scale=(0, 100))


def test_n_is_the_most_of_any_row_and_missing_ones_are_left_away() -> None:
    plan = preference(
        {}, {"generations": ["x", "y", "z"], "ratings": None, "rationales": None, "generation_models": None}
    )
    assert plan.n_generations == 3
    assert "generation_2" not in plan.records[0].fields
    assert [q.name for q in plan.questions if q.required] == ["rating_0", "rating_1"]


def test_text_generation_has_keep_quality_rationale_and_corrected() -> None:
    plan = plan_review(
        [
            {
                "instruction": "q",
                "generation": "a",
                "rating": 3.2,
                "rationale": "ok",
                "judge_model": "j",
                "ok": True,
            }
        ],
        columns=None,
    )
    assert [(q.name, q.kind, q.required) for q in plan.questions] == [
        ("keep", "label", True),
        ("quality", "rating", False),
        ("rationale", "text", False),
        ("corrected", "text", False),
    ]
    assert {s.question: s.value for s in plan.records[0].suggestions} == {
        "quality": 3, "rationale": "ok", "corrected": "a",
    }  # fmt: skip
    assert plan.records[0].metadata["judge_rating"] == 3.2


def test_a_list_of_one_generation_is_text_generation() -> None:
    plan = plan_review([{"instruction": "q", "generations": ["a"], "ratings": [2]}])
    assert (plan.template, plan.records[0].fields) == (
        "text generation",
        {"instruction": "q", "generation": "a"},
    )
    assert {s.question: s.value for s in plan.records[0].suggestions} == {"quality": 2, "corrected": "a"}


def test_all_unfit_rows_are_told_at_once_with_their_ordinals() -> None:
    rows = [ROW, {**ROW, "instruction": None}, {**ROW, "ratings": ["x", 1]}, ROW]
    plan = plan_review(rows, ["a", "b", "c", "a"])
    assert [record.row_id for record in plan.records] == ["a"]
    assert [(unfit.ordinal, unfit.row_id) for unfit in plan.unfit] == [(1, "b"), (2, "c"), (3, "a")]
    with pytest.raises(ReviewError, match=r"3 rows .*row 1: .*; row 2: .*; row 3: has the same id as row 0"):
        plan.require_fit()


def test_the_same_text_has_the_same_id_and_another_text_another() -> None:
    """A record keeps its answers when it is sent again, so new text must be a new record."""
    first, again = (plan_review([ROW], ["load:1:0"]).records[0].id for _ in range(2))
    rated = plan_review([{**ROW, "ratings": [1, 1]}], ["load:1:0"]).records[0].id
    changed = plan_review([{**ROW, "generations": ["x", "y"]}], ["load:1:0"]).records[0].id
    assert first == again == rated != changed
    assert row_id_of(first) == row_id_of(changed) == "load:1:0"


def test_rows_without_ids_get_them_from_their_content() -> None:
    ids = [record.row_id for record in preference({}, {"instruction": "Who?"}, {}).records]
    assert len(set(ids)) == 3
    assert ids == [record.row_id for record in preference({}, {"instruction": "Who?"}, {}).records]


def test_the_summary_is_one_line() -> None:
    plan = preference({}, {"instruction": None})
    assert str(plan) == (
        "review plan: preference of 2 generations · suggestions by openai:judge · 1 row · 1 unfit"
    )


def test_guidelines_are_given_or_made_and_never_too_long() -> None:
    assert preference().guidelines
    assert preference(guidelines="x" * 20_000).guidelines == "x" * 10_000

"""The judge that writes feedback, then a score or a choice."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilnb.errors import MissingValueError, ParseError, SpecError, StepRowError
from distilnb.tasks import PrometheusEval

PAIR = {"instruction": "i", "generations": ["a", "b"]}


@pytest.mark.parametrize(
    "reply, feedback, result",
    [
        ("Feedback: Good. [RESULT] 4", "Good.", 4),
        ("**Feedback:** Good. **[RESULT]** **4**", "Good.", 4),
        ("Good.\n[result]\n 4\n", "Good.", 4),
        ("Feedback\uff1a好。[RESULT] (4)", "好。", 4),
        ("[RESULT] Score: 4/5.", "", 4),
        ("x [RESULT] 4.0", "x", 4),
        ("x [RESULT] **4** out of 5", "x", 4),
        ("x [RESULT] 4 / 5", "x", 4),
        ("x [RESULT] 4\n\nThat is 2 more than before.", "x", 4),
        ("<think>[RESULT] 1</think>y [RESULT] 5", "y", 5),
    ],
)
def test_a_score_is_read(reply: str, feedback: str, result: int) -> None:
    assert PrometheusEval().format_output(reply, {}) == {"feedback": feedback, "result": result}


@pytest.mark.parametrize(
    "reply, message",
    [
        (None, "empty"),
        ("Good. 4", "0 times"),
        ("[RESULT] 4 [RESULT] 5", "2 times"),
        ("x [RESULT] 7", "outside 1..5"),
        ("x [RESULT] 0", "outside 1..5"),
        ("x [RESULT] 4.5", "no number"),
        ("x [RESULT] 8/10", "no number"),
        ("x [RESULT] 4 out of 10", "no number"),
        ("x [RESULT] 4/50", "no number"),
        ("x [RESULT] (1, 2, 3, 4 or 5)", "no number"),
        ("x [RESULT] 1-5", "no number"),
        ("x [RESULT] 5 4", "no number"),
        ("x [RESULT] four", "no number"),
        ("x [RESULT]", "no number"),
        ("x [RESULT] " + "9" * 5000, "outside 1..5"),
    ],
)
def test_what_is_no_score_is_an_error(reply: str | None, message: str) -> None:
    with pytest.raises(ParseError, match=message):
        PrometheusEval().format_output(reply, {})


@pytest.mark.parametrize(
    "text, result",
    [
        ("A", "A"),
        (" B.", "B"),
        ("**Answer B**", "B"),
        ("(A)", "A"),
        ("Response A\n", "A"),
        ("A, clearly", "A"),
    ],
)
def test_a_choice_is_read(text: str, result: str) -> None:
    assert PrometheusEval(mode="relative").format_output(f"x [RESULT] {text}", PAIR)["result"] == result


@pytest.mark.parametrize("text", ["C", "A tie", "both", "", "a", "1", "AB"])
def test_what_is_no_choice_is_an_error(text: str) -> None:
    with pytest.raises(ParseError, match="neither A nor B"):
        PrometheusEval(mode="relative").format_output(f"x [RESULT] {text}", PAIR)


@pytest.mark.parametrize("mode", ["absolute", "relative"])
@given(reply=st.text() | st.text().map(lambda text: f"x [RESULT] {text}"))
def test_any_reply_gives_a_valid_result_or_a_parse_error(mode: Any, reply: str) -> None:
    try:
        made = PrometheusEval(mode=mode).format_output(reply, PAIR)
    except ParseError:
        return
    assert made["result"] in ((1, 2, 3, 4, 5) if mode == "absolute" else ("A", "B"))


@pytest.mark.parametrize("mode", ["absolute", "relative"])
def test_a_rehearsed_reply_is_always_whole(mode: Any) -> None:
    judge = PrometheusEval(mode=mode)
    results = {judge.format_output(judge.rehearse(PAIR, Random(seed)), PAIR)["result"] for seed in range(60)}
    assert results == ({1, 2, 3, 4, 5} if mode == "absolute" else {"A", "B"})


def test_own_rubrics_replace_the_built_in_ones() -> None:
    judge = PrometheusEval(rubric="rhyme", rubrics={"rhyme": "Does it rhyme? {braces stay}\nScore 1: no …"})
    assert (
        "Does it rhyme? {braces stay}"
        in judge.format_input({"instruction": "i", "generation": "{g}"})[1]["content"]
    )
    with pytest.raises(SpecError, match="no rubric 'helpfullness'") as caught:
        PrometheusEval(rubric="helpfullness")
    assert caught.value.fix == "Did you mean 'helpfulness'?"


def test_two_generations_are_compared_no_more_no_less() -> None:
    judge = PrometheusEval(mode="relative")
    with pytest.raises(StepRowError, match="holds 3; two are compared"):
        judge.request({"instruction": "i", "generations": ["a", "b", "c"]})
    with pytest.raises(StepRowError, match="holds str"):
        judge.request({"instruction": "i", "generations": "ab"})
    with pytest.raises(MissingValueError, match="One of the two"):
        judge.request({"instruction": "i", "generations": ["a", None]})
    with pytest.raises(MissingValueError, match="'reference' is absent"):
        PrometheusEval(reference=True).request({"instruction": "i", "generation": "g"})


def test_built_in_rubrics_are_not_written_into_the_plan() -> None:
    assert "rubrics" not in PrometheusEval().dump()

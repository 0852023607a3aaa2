"""Sending a plan: what is told before a connection is made."""

from __future__ import annotations

from typing import Any

import pytest

from distilnb.errors import ReviewError
from distilnb.review.argilla import Pushed, _agent, push_review
from distilnb.review.plan import plan_review

PLAN = plan_review([{"instruction": "q", "generation": "a"}])
SERVER = {"api_url": "http://127.0.0.1:9", "api_key": "k"}


@pytest.mark.parametrize(
    "options,told",
    [
        ({"dataset": " "}, "name of a dataset"),
        ({"dataset": "x" * 201}, "name of a dataset"),
        ({"on_exists": "overwrite"}, "'overwrite' is unknown"),
        ({"batch_size": 501}, "501 records"),
        ({"batch_size": 0}, "0 records"),
    ],
)
def test_a_wrong_argument_is_told_first(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ReviewError, match=told):
        push_review(PLAN, **{"dataset": "d", **SERVER, **options})


def test_a_plan_of_unfit_rows_alone_names_them() -> None:
    plan = plan_review([{"instruction": None, "generation": "a"}])
    with pytest.raises(ReviewError, match="row 0: column 'instruction' is empty"):
        push_review(plan, dataset="d", **SERVER)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name,agent",
    [
        ("openai:gpt-4o", "openai:gpt-4o"),
        ("model (v1)", "model _v1_"),
        ("модель", None),
        ("", None),
        ("x" * 300, "x" * 200),
    ],
)
def test_a_models_name_is_written_as_argilla_takes_it(name: str, agent: str | None) -> None:
    assert _agent(name) == agent


def test_the_summary_says_what_was_left_out() -> None:
    assert str(Pushed("d", "w", "http://x", 3, n_unfit=2)) == "3 rows sent to w/d, 2 unfit left out: http://x"

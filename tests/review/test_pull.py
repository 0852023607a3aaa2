"""What a record's status is after people answered."""

from __future__ import annotations

from types import SimpleNamespace
from uuid import UUID

import pytest

from distilnb.review.pull import Response, Reviewed, _reviewed

ANNA, BEN = UUID(int=1), UUID(int=2)


def answer(user: UUID, status: str, question: str, value: object) -> SimpleNamespace:
    return SimpleNamespace(
        user_id=user, status=SimpleNamespace(value=status), question_name=question, value=value
    )


def record(status: str, *responses: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(id="load:1:0@abcd", status=status, responses=responses)


def test_answers_are_grouped_by_person() -> None:
    given = record(
        "completed",
        answer(ANNA, "submitted", "rating_0", 5),
        answer(BEN, "draft", "rating_0", 2),
        answer(ANNA, "submitted", "rationale_0", "good"),
        answer(ANNA, "submitted", "rationale_1", None),
    )
    assert _reviewed(given, {str(ANNA): "anna"}) == Reviewed(
        "load:1:0@abcd",
        "load:1:0",
        "completed",
        (
            Response("anna", "submitted", {"rating_0": 5, "rationale_0": "good"}),
            Response(str(BEN), "draft", {"rating_0": 2}),
        ),
    )


@pytest.mark.parametrize(
    "server,statuses,expected",
    [
        ("pending", [], "pending"),
        ("pending", ["draft"], "pending"),
        ("pending", ["discarded"], "discarded"),
        ("pending", ["discarded", "draft"], "discarded"),
        ("pending", ["discarded", "submitted"], "pending"),
        ("completed", ["submitted", "discarded"], "completed"),
    ],
)
def test_discarded_is_a_status_of_its_own(server: str, statuses: list[str], expected: str) -> None:
    people = (ANNA, BEN)
    responses = [answer(people[i], status, "rating_0", 1) for i, status in enumerate(statuses)]
    assert _reviewed(record(server, *responses), {}).status == expected

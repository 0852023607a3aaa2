"""What a record's status is after people answered."""

from __future__ import annotations

from types import SimpleNamespace
from uuid import UUID

import pytest

from distilnb.review.pull import Response, Reviewed, _reviewed

ANNA, BEN = UUID(int=1), UUID(int=2)


def given(user: UUID, status: str, **answers: object) -> SimpleNamespace:
    values = {question: {"value": value} for question, value in answers.items()} or None
    return SimpleNamespace(user_id=user, status=SimpleNamespace(value=status), values=values)


def record(status: str, *responses: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(id=UUID(int=9), external_id="load:1:0@abcd", status=status, responses=responses)


def test_answers_are_told_by_person() -> None:
    two = record(
        "completed", given(ANNA, "submitted", rating_0=5, rationale_0="good"), given(BEN, "draft", rating_0=2)
    )
    assert _reviewed(two, {str(ANNA): "anna"}) == Reviewed(
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
    responses = [given(people[i], status) for i, status in enumerate(statuses)]
    assert _reviewed(record(server, *responses), {}).status == expected

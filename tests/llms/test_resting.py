"""When a model that fails is left alone, and when it is asked again."""

from __future__ import annotations

import pytest

from distilnb.errors import AuthenticationError, ModelError, RateLimitError, RefusedRequestError, ServerError
from distilnb.llms import resting
from distilnb.llms.resting import FAILED_IN_A_ROW, GIVEN_UP_IN_A_ROW, REST_S, Rest


def after(*errors: ModelError, is_given_up: bool) -> Rest:
    rest = Rest()
    for error in errors:
        rest.failed(error, is_given_up=is_given_up)
    return rest


def test_it_rests_once_enough_has_failed_in_a_row() -> None:
    for most, is_given_up in ((GIVEN_UP_IN_A_ROW, True), (FAILED_IN_A_ROW, False)):
        assert after(*[ServerError("Down.")] * (most - 1), is_given_up=is_given_up).error is None
        error = after(*[ServerError("Down.")] * most, is_given_up=is_given_up).error
        assert isinstance(error, ServerError)
        assert not error.retryable  # who meets it does not wait for the model
        assert ServerError.retryable


def test_what_the_last_request_paid_is_not_told_of_those_that_meet_its_error() -> None:
    failed = ServerError("Down.")
    failed.paid = (100, 50, 1, 0)
    error = after(*[failed] * GIVEN_UP_IN_A_ROW, is_given_up=True).error_for(object())
    assert error is not None
    assert (error.paid, failed.paid) == ((0, 0, 0, 0), (100, 50, 1, 0))


def test_an_answer_between_ends_the_row_and_the_rest() -> None:
    rest = after(*[ServerError("Down.")] * (GIVEN_UP_IN_A_ROW - 1), is_given_up=True)
    rest.answered()
    rest.failed(ServerError("Down."), is_given_up=True)
    assert rest.error is None
    for _ in range(GIVEN_UP_IN_A_ROW):
        rest.failed(ServerError("Down."), is_given_up=True)
    assert rest.error is not None
    rest.answered()
    assert rest.error is None


@pytest.mark.parametrize("error", [RefusedRequestError("No."), AuthenticationError("No.")])
def test_what_is_no_passing_failure_tells_nothing(error: ModelError) -> None:
    assert after(*[error] * 100, is_given_up=True).error is None


def test_a_refusal_for_now_counts_only_when_it_is_given_up() -> None:
    assert after(*[RateLimitError("Busy.")] * 100, is_given_up=False).error is None
    assert after(*[RateLimitError("Busy.")] * GIVEN_UP_IN_A_ROW, is_given_up=True).error is not None


def test_a_rest_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(resting, "monotonic", lambda: now[0])
    rest = after(*[ServerError("Down.")] * GIVEN_UP_IN_A_ROW, is_given_up=True)
    now[0] += REST_S - 1
    assert rest.error is not None
    now[0] += 2
    assert rest.error is None
    rest.failed(ServerError("Down."), is_given_up=True)  # one more, and it rests again
    assert rest.error is not None


def test_after_a_rest_one_request_asks_before_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(resting, "monotonic", lambda: now[0])
    rest = after(*[ServerError("Down.")] * GIVEN_UP_IN_A_ROW, is_given_up=True)
    requests = [object() for _ in range(5)]

    def who_may() -> list[int]:
        return [number for number, one in enumerate(requests) if rest.error_for(one) is None]

    assert who_may() == []
    now[0] += REST_S
    assert who_may() == [0]
    assert who_may() == [0]  # as often as it tries
    rest.failed(
        ServerError("Down."), is_given_up=False
    )  # its first try, and nobody has to wait for the others
    assert who_may() == []
    now[0] += REST_S
    rest.ended(requests[0])
    assert who_may() == [0]
    rest.failed(RefusedRequestError("No."), is_given_up=True)  # which tells nothing of the model
    rest.ended(requests[0])
    requests.pop(0)
    assert who_may() == [0]
    rest.answered()
    assert who_may() == [0, 1, 2, 3]

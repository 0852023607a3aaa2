"""From what is known of a task to its quote: tokens, money, and the time that the limits of its model allow."""

from __future__ import annotations

from typing import Any

import pytest

from distilnb.engine.forecast import NOTHING, Interval
from distilnb.engine.foresee import Answered, Outlook, Unsent, Use
from distilnb.engine.quote import StepQuote, Work, line_through, quote_step, run_seconds, sum_of
from distilnb.llms.openai import OpenAILLM


def model(**options: Any) -> OpenAILLM:
    return OpenAILLM(model="m", base_url="http://127.0.0.1:9/v1", **{"price": (1.0, 2.0), **options})


def quoted(outlook: Outlook, **options: Any) -> StepQuote:
    return quote_step("answer", model(**options), outlook, [0.5, 0.6, 0.4])[0]


SEEN = [Answered(100, 1, 35, 50), Answered(200, 1, 60, 60), Answered(300, 1, 85, 40)]


def test_requests_that_are_known_have_tokens_by_their_length() -> None:
    quote = quoted(Outlook(3, [Unsent(400, 1)] * 10, answered=SEEN))
    assert quote.requests == (10, 10, 10)
    assert quote.cached == 3
    assert quote.input_tokens is not None
    assert quote.input_tokens.expected == pytest.approx(10 * 110)
    assert quote.output_tokens is not None
    assert quote.output_tokens.expected == pytest.approx(10 * 50)


def test_money_is_that_of_the_ends() -> None:
    quote = quoted(Outlook(0, [Unsent(400, 1)] * 10, answered=SEEN))
    assert quote.cost_usd is not None
    for cost, n_in, n_out in zip(
        quote.cost_usd, quote.input_tokens or (), quote.output_tokens or (), strict=True
    ):
        assert cost == pytest.approx((n_in + 2 * n_out) / 1e6)


def test_a_conversation_costs_a_request_for_each_of_its_messages() -> None:
    outlook = Outlook(0, [Unsent(400, 1)] * 10, answered=SEEN, n_sendings=4)
    quote = quoted(outlook, price={"per_request": 1.0})
    assert quote.requests == (10, 10, 10)
    assert quote.cost_usd == (40, 40, 40)


def test_open_rows_come_to_what_the_known_ones_came_to() -> None:
    known = [Use(2, 200, 80), Use(2, 220, 100), Use(2, 180, 90)]
    quote = quoted(Outlook(6, [], 100, SEEN, known))
    assert quote.requests is not None
    assert quote.requests.expected == quote.requests.high == 200
    assert quote.input_tokens is not None
    assert quote.input_tokens.expected == pytest.approx(20_000)


def test_each_row_that_was_looked_at_may_stand_for_several() -> None:
    one = quoted(Outlook(10, [Unsent(400, 1)] * 10, answered=SEEN))
    ten = quoted(Outlook(10, [Unsent(400, 1)] * 10, answered=SEEN, scale=10.0))
    assert ten.requests == (100, 100, 100)
    assert ten.cached == 100
    assert ten.tokens is not None
    assert one.tokens is not None
    assert ten.tokens.expected == pytest.approx(10 * one.tokens.expected)


def test_where_no_row_came_so_far_nothing_is_known() -> None:
    for outlook in (Outlook(n_open=5), Outlook(n_open=5, per_row=[Use(), Use()])):
        quote = quoted(outlook)
        assert quote.requests is quote.input_tokens is quote.output_tokens is quote.cost_usd is None
        assert quote.seconds is None


def test_what_is_all_cached_costs_nothing_at_any_price() -> None:
    quote = quote_step("answer", model(), Outlook(9), [])[0]
    assert quote.requests == quote.tokens == quote.cost_usd == quote.seconds == NOTHING


def test_prompts_of_one_length_are_measured_by_their_mean() -> None:
    assert line_through([(100, 20), (100, 30)]) == (0.0, 0.25)
    assert line_through([(100, 50), (200, 20)]) == (0.0, pytest.approx(35 / 150))
    assert line_through([(0, 7)]) == (7, 0.0)


def test_a_sum_with_an_unknown_part_is_unknown() -> None:
    assert sum_of([Interval(1, 2, 3), Interval(1, 1, 1)]) == (2, 3, 4)
    assert sum_of([Interval(1, 2, 3), None]) is None
    assert sum_of([]) == NOTHING


# --- time -------------------------------------------------------------------------------------------------------


def work(
    n: float, seconds_each: float | None, *, key: object = "a", tokens: float = 0, **limits: Any
) -> Work:
    exact = Interval.exactly
    in_flight = None if seconds_each is None else exact(n * seconds_each)
    return Work(key, model(**limits), exact(n), exact(tokens), in_flight)


def test_a_model_takes_as_long_as_its_concurrency_or_its_limits_make_it() -> None:
    assert run_seconds([work(100, 2.0, max_concurrency=10)]) == (20, 20, 20)
    assert run_seconds([work(5, 2.0, max_concurrency=10)]) == (2, 2, 2)
    assert run_seconds([work(100, 2.0, max_concurrency=10, rpm=60)]) == (100, 100, 100)
    assert run_seconds([work(100, 2.0, max_concurrency=10, tokens=6000, tpm=1000)]) == (360, 360, 360)


def test_equal_models_share_their_limits_and_others_work_at_the_same_time() -> None:
    one, two = work(100, 2.0, max_concurrency=10), work(50, 2.0, max_concurrency=10)
    other = work(50, 1.0, key="b", max_concurrency=10)
    assert run_seconds([one, two]) == (32, 32, 32)  # and the first row's way through the other
    assert run_seconds([one, other]) == (21, 21, 21)
    assert run_seconds([one], {"map": 90.0}) == (90, 90, 90)


def test_time_is_unknown_where_a_model_was_never_timed() -> None:
    assert run_seconds([work(100, 2.0), work(100, None, key="b")]) is None
    assert run_seconds([]) == NOTHING

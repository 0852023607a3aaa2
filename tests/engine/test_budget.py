"""A request starts only if what is spent and in flight stays below the limit."""

from __future__ import annotations

import asyncio

import pytest

from distilnb.engine.budget import Budget, BudgetReached, estimate
from distilnb.llms import OpenAIEmbeddings, OpenAIImageGeneration, OpenAILLM
from distilnb.llms.base import LLM
from distilnb.llms.prices import price_of
from distilnb.llms.request import Request


def test_what_is_in_flight_counts() -> None:
    async def work() -> None:
        budget = Budget(max_cost=1.0)
        first = budget.hold(0.6, 1)
        await first.take()
        waiting = asyncio.ensure_future(budget.hold(0.6, 1).take())
        await asyncio.sleep(0)
        assert not waiting.done()
        first.settle(0.1, 1)
        await waiting
        assert budget.spent_cost == pytest.approx(0.1)

    asyncio.run(work())


def test_it_is_reached_when_nothing_in_flight_could_free_any() -> None:
    async def work() -> None:
        with pytest.raises(BudgetReached, match=r"max_cost 1 USD"):
            await Budget(max_cost=1.0, spent_cost=0.9).hold(0.2, 1).take()
        with pytest.raises(BudgetReached, match=r"max_tokens 10"):
            await Budget(max_tokens=10, spent_tokens=5).hold(0.0, 6).take()

    asyncio.run(work())


def test_a_retry_does_not_hold_twice() -> None:
    async def work() -> None:
        budget = Budget(max_cost=1.0)
        hold = budget.hold(0.8, 1)
        await hold.take()
        await hold.take()
        hold.settle(0.0, 0)
        await budget.hold(0.9, 1).take()

    asyncio.run(work())


def test_sums_of_fractions_leave_nothing_set_aside() -> None:
    async def work() -> None:
        budget = Budget(max_cost=1.0)
        holds = [budget.hold(cost, 1) for cost in (0.1, 0.2, 0.3)]
        for hold in holds:
            await hold.take()
        for hold in holds:
            hold.settle(0.0, 0)
        assert budget._held_cost == 0.0
        await budget.hold(1.0, 1).take()

    asyncio.run(work())


@pytest.mark.parametrize(
    "kind, n_output", [(OpenAILLM, 1000), (OpenAIImageGeneration, 6300), (OpenAIEmbeddings, 0)]
)
def test_what_a_reply_may_cost_is_held_where_its_tokens_are_paid_for(kind: type[LLM], n_output: int) -> None:
    llm = kind(model="m", price=(0.0, 1.0))
    cost, tokens = estimate(
        llm, price_of(llm), Request(({"role": "user", "content": "A kite."},)), longest_reply=1000
    )
    assert cost == pytest.approx(n_output / 1e6)
    assert tokens - n_output == 11

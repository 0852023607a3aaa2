from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilnb.llms.limits import Gate
from tests.llms.virtual import now_s, run_virtually


def test_no_more_than_the_limit_are_in_flight_and_none_is_forgotten() -> None:
    async def main() -> None:
        gate = Gate(3)
        seen: list[int] = []

        async def work() -> None:
            async with gate.slot():
                seen.append(gate.in_flight)
                await asyncio.sleep(1)

        await asyncio.gather(*[work() for _ in range(10)])
        assert (len(seen), max(seen), gate.in_flight) == (10, 3, 0)
        assert now_s() == pytest.approx(4, abs=0.01)

    run_virtually(main())


def test_slots_are_given_in_order_of_arrival() -> None:
    async def main() -> None:
        gate = Gate(1)
        order: list[int] = []

        async def work(number: int) -> None:
            async with gate.slot():
                order.append(number)
                await asyncio.sleep(1)

        await asyncio.gather(*[work(number) for number in range(5)])
        assert order == [0, 1, 2, 3, 4]

    run_virtually(main())


def test_who_returns_is_let_in_before_those_who_come_first() -> None:
    async def main() -> None:
        gate = Gate(1)
        order: list[str] = []

        async def work(name: str, *, returns: bool) -> None:
            await gate.enter(returns=returns)
            order.append(name)
            await asyncio.sleep(1)
            gate.leave()

        names = ["a", "b", "c", "again-d", "again-e"]
        await asyncio.gather(*[work(name, returns=name.startswith("again")) for name in names])
        assert order == ["a", "again-d", "again-e", "b", "c"]

    run_virtually(main())


def test_who_returns_and_gives_up_in_line_takes_no_slot_along() -> None:
    async def main() -> None:
        gate = Gate(1)
        await gate.enter()
        gone = asyncio.ensure_future(gate.enter(returns=True))
        stays = asyncio.ensure_future(gate.enter())
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        gate.leave()
        await asyncio.wait_for(stays, 1)
        assert gate.in_flight == 1

    run_virtually(main())


def test_refusals_of_what_was_sent_before_the_limit_shrank_count_once() -> None:
    async def main() -> None:
        gate = Gate(10)
        before = gate.era
        for _ in range(5):
            gate.refused(before)
        assert (gate.limit, gate.rejected) == (8.0, 5)
        gate.refused(gate.era)  # sent after it
        assert gate.limit == pytest.approx(6.4)
        gate.refused(before)
        assert gate.limit == pytest.approx(6.4)

    run_virtually(main())


def test_successes_raise_the_limit_to_one_below_what_was_refused_and_later_beyond_it() -> None:
    async def main() -> None:
        gate = Gate(10)
        gate.refused(gate.era)
        assert gate.limit == 8
        gate.succeeded()
        assert gate.limit == 8.5
        for _ in range(50):
            gate.succeeded()
        assert gate.limit == 9
        await asyncio.sleep(2.0)
        gate.succeeded()
        assert gate.limit == pytest.approx(9 + 1 / 9)
        for _ in range(50):
            gate.succeeded()
        assert gate.limit == 10

    run_virtually(main())


def test_a_server_with_a_limit_of_its_own_is_kept_full_with_few_refusals() -> None:
    async def main() -> None:
        gate = Gate(100)
        in_flight = most = 0

        async def work() -> None:
            nonlocal in_flight, most
            returns = False
            while True:
                await gate.enter(returns=returns)
                era, returns = gate.era, True
                if in_flight == 64:
                    await asyncio.sleep(0.01)
                    gate.refused(era)
                    gate.leave()
                    await asyncio.sleep(1)
                    continue
                in_flight += 1
                most = max(most, in_flight)
                await asyncio.sleep(0.05)
                in_flight -= 1
                gate.succeeded()
                gate.leave()
                return

        await asyncio.gather(*[work() for _ in range(6400)])
        assert most == 64
        assert now_s() < 1.1 * 6400 / 64 * 0.05 + 1
        assert gate.rejected < 75  # 36 of them at once, when the first hundred are sent

    run_virtually(main())


def test_the_limit_never_falls_below_one() -> None:
    async def main() -> None:
        gate = Gate(2)
        for _ in range(30):
            gate.refused(gate.era)
            await asyncio.sleep(1)
        assert gate.limit == 1
        async with gate.slot():
            assert gate.in_flight == 1

    run_virtually(main())


def test_who_waits_is_let_in_when_the_limit_rises() -> None:
    async def main() -> None:
        gate = Gate(2)
        gate.refused(gate.era)  # 1.6: one slot
        await gate.enter()
        waiting = asyncio.ensure_future(gate.enter())
        await asyncio.sleep(2.0)
        assert not waiting.done()
        gate.succeeded()
        await asyncio.wait_for(waiting, 1)
        assert gate.in_flight == 2

    run_virtually(main())


def test_who_gives_up_in_line_takes_no_slot_along() -> None:
    async def main() -> None:
        gate = Gate(1)
        await gate.enter()
        gone, stays = asyncio.ensure_future(gate.enter()), asyncio.ensure_future(gate.enter())
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        gate.leave()
        await asyncio.wait_for(stays, 1)
        assert gate.in_flight == 1

    run_virtually(main())


def test_who_is_let_in_and_cancelled_in_the_same_turn_gives_the_slot_on() -> None:
    async def main() -> None:
        gate = Gate(1)
        await gate.enter()
        gone, stays = asyncio.ensure_future(gate.enter()), asyncio.ensure_future(gate.enter())
        await asyncio.sleep(0)
        gate.leave()
        gone.cancel()
        await asyncio.wait_for(stays, 1)
        assert gone.cancelled()
        assert gate.in_flight == 1

    run_virtually(main())


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 150))
def test_no_minute_has_more_requests_than_rpm(rpm: int) -> None:
    async def main() -> None:
        gate = Gate(1000, rpm=rpm)
        sent: list[float] = []

        async def work() -> None:
            async with gate.slot():
                sent.append(now_s())

        await asyncio.gather(*[work() for _ in range(3 * rpm)])
        in_a_minute = [sum(start <= moment < start + 60 - 1e-6 for moment in sent) for start in sent]
        assert max(in_a_minute) <= rpm
        assert sent[-1] <= 60 * 3 * 1.08 + 1  # and not much is given away

    run_virtually(main())


def test_tokens_per_minute_are_kept_and_a_giant_request_passes_in_the_end() -> None:
    async def main() -> None:
        gate = Gate(100, tpm=6000)
        assert gate.counts_tokens
        finished: dict[int, float] = {}

        async def work(tokens: int) -> None:
            async with gate.slot(tokens):
                finished[tokens] = now_s()

        await asyncio.gather(work(1_000_000), *[work(10 + n) for n in range(5)])
        assert finished[1_000_000] == pytest.approx(60, abs=1)  # counted as a minute's worth
        assert max(finished.values()) < 62

    run_virtually(main())


def test_who_waits_for_the_minute_is_not_in_flight() -> None:
    async def main() -> None:
        gate = Gate(10, rpm=1)
        await gate.enter()
        waiting = asyncio.ensure_future(gate.enter())
        await asyncio.sleep(1)
        assert gate.in_flight == 1
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.leave()
        assert gate.in_flight == 0

    run_virtually(main())


def test_without_limits_per_minute_tokens_do_not_matter() -> None:
    assert not Gate(3).counts_tokens


# --- changed while it is in use ---


@pytest.mark.parametrize("limit", [1, 3, 20])
def test_a_new_limit_lets_in_as_many_and_forgets_nobody(limit: int) -> None:
    async def main() -> None:
        gate = Gate(8)
        seen: list[tuple[float, int]] = []
        order: list[int] = []

        async def work(number: int) -> None:
            async with gate.slot():
                seen.append((now_s(), gate.in_flight))
                order.append(number)
                await asyncio.sleep(1)

        works = asyncio.gather(*[work(number) for number in range(80)])
        await asyncio.sleep(1.5)
        gate.adjust(limit)
        await works
        assert max(in_flight for at, in_flight in seen if at > 2.5) == limit
        assert order == list(range(80))
        assert gate.in_flight == 0

    run_virtually(main())


def test_a_limit_that_refusals_lowered_is_not_raised_by_its_user() -> None:
    async def main() -> None:
        gate = Gate(10)
        gate.refused(gate.era)
        gate.adjust(100)
        assert gate.limit == 8
        gate.adjust(4)
        assert gate.limit == 4
        gate.adjust(9)
        assert gate.limit == 9

    run_virtually(main())


@pytest.mark.parametrize("before, then", [(60, 600), (600, 60), (None, 60), (60, None), (60, 61)])
def test_a_new_rate_holds_for_those_who_wait(before: int | None, then: int | None) -> None:
    async def main() -> None:
        gate = Gate(1000, rpm=before)
        sent: list[float] = []

        async def work() -> None:
            async with gate.slot():
                sent.append(now_s())
                await asyncio.sleep(0.01 if before else 30)  # else all have gone before the change

        works = asyncio.gather(*[work() for _ in range(1400)])
        await asyncio.sleep(20)
        n_before = len(sent)
        gate.adjust(1000, rpm=then)
        await works
        later = [moment for moment in sent if moment > 20]
        assert len(sent) == 1400
        assert len(later) == 1400 - n_before > 0
        if then is None:
            assert later[-1] < 20.1
        else:
            in_a_minute = [sum(at <= moment < at + 60 - 1e-6 for moment in later) for at in later]
            assert max(in_a_minute) <= then
            assert later[-1] <= 20 + 61 * len(later) / then * 1.08  # and not much is given away

    run_virtually(main())


def test_nobody_is_let_in_during_a_pause_and_no_burst_comes_after_it() -> None:
    async def main() -> None:
        gate = Gate(50, rpm=60, tpm=6000)
        sent: list[float] = []

        async def work() -> None:
            async with gate.slot(10):
                sent.append(now_s())

        works = asyncio.gather(*[work() for _ in range(200)])
        await asyncio.sleep(30.5)
        gate.pause()
        n_before = len(sent)
        await asyncio.sleep(3600)
        assert len(sent) == n_before > 0
        gate.resume()
        await works
        assert len(sent) == 200
        in_a_minute = [sum(start <= moment < start + 60 - 1e-6 for moment in sent) for start in sent]
        assert max(in_a_minute) <= 60

    run_virtually(main())


def test_who_gives_up_while_the_limits_change_leaves_no_slot_taken() -> None:
    async def main() -> None:
        gate = Gate(5, rpm=1)
        waiting = [asyncio.ensure_future(gate.enter()) for _ in range(12)]
        await asyncio.sleep(0.5)
        gate.pause()
        for one in waiting[1::2]:
            one.cancel()
        gate.adjust(5, rpm=600)
        gate.resume()
        await asyncio.sleep(60)
        n_in = sum(one.done() and not one.cancelled() for one in waiting)
        assert n_in == gate.in_flight == 5
        gate.leave()
        await asyncio.sleep(1)
        assert all(one.done() for one in waiting)

    run_virtually(main())

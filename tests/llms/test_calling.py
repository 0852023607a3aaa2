from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from distilnb.errors import (
    AuthenticationError,
    MalformedReplyError,
    MissingKeyError,
    ModelError,
    RateLimitError,
    RefusedRequestError,
    RequestTimeoutError,
    ServerError,
    UnreachableError,
)
from distilnb.llms.calling import Caller, ask_now
from distilnb.llms.limits import Gate
from distilnb.llms.openai import OpenAILLM
from distilnb.llms.rehearsal import RehearsalLLM
from distilnb.llms.request import Answer, Request
from tests.llms.scripted import ScriptedClient, ask
from tests.llms.virtual import now_s, run_virtually
from tests.servers import MockLLM


def caller_of(client: ScriptedClient, max_concurrency: int = 4, **settings: Any) -> Caller:
    return Caller(client, Gate(max_concurrency), **settings)


async def answer_of(caller: Caller, request: Request | None = None) -> Answer:
    async with caller.asking(request or ask()) as answer:
        return answer


async def outcome_of(asking: Coroutine[Any, Any, Answer]) -> object:
    try:
        return len((await asking).replies)
    except ModelError as error:
        return type(error)


# the slot --------------------------------------------------------------------------------------------------


def test_the_slot_is_held_until_the_reply_has_been_dealt_with() -> None:
    async def main() -> None:
        caller = caller_of(ScriptedClient(1))
        async with caller.asking(ask()):
            assert caller.gate.in_flight == 1
        assert caller.gate.in_flight == 0
        with pytest.raises(ZeroDivisionError):
            async with caller.asking(ask()):
                raise ZeroDivisionError
        assert caller.gate.in_flight == 0

    run_virtually(main())


@pytest.mark.parametrize("outcome", [RefusedRequestError("no"), ServerError("no"), ZeroDivisionError("bug")])
def test_a_failure_gives_the_slot_back(outcome: Exception) -> None:
    async def main() -> None:
        caller = caller_of(ScriptedClient(outcome), max_retries=2)
        with pytest.raises(type(outcome)):
            await answer_of(caller)
        assert caller.gate.in_flight == 0

    run_virtually(main())


def test_no_slot_is_held_while_a_retry_waits() -> None:
    async def main() -> None:
        client = ScriptedClient(RateLimitError("slow", retry_after_s=100.0), 1)
        caller = caller_of(client, max_concurrency=1)
        refused = asyncio.ensure_future(answer_of(caller))
        await asyncio.sleep(1)
        assert caller.gate.in_flight == 0
        await answer_of(caller)  # another request goes ahead, through the only slot
        assert now_s() < 2
        await refused
        assert 100 <= now_s() <= 106

    run_virtually(main())


@pytest.mark.parametrize("cancel_at_s", [0.5, 5.0, 10.5])
def test_cancelling_at_any_moment_leaves_nothing_behind(cancel_at_s: float) -> None:
    """While the first attempt is under way, while its retry waits, while the retry is under way."""

    async def main() -> None:
        client = ScriptedClient(RateLimitError("slow", retry_after_s=9.0), 1, takes_s=1.0)
        caller = caller_of(client)
        task = asyncio.ensure_future(answer_of(caller))
        await asyncio.sleep(cancel_at_s)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert caller.gate.in_flight == 0
        assert len(asyncio.all_tasks()) == 1

    run_virtually(main())


# retries ---------------------------------------------------------------------------------------------------


def test_what_may_pass_is_asked_again_until_it_passes() -> None:
    async def main() -> None:
        errors = (ServerError("a"), UnreachableError("b"), RequestTimeoutError("c"), MalformedReplyError("d"))
        caller = caller_of(ScriptedClient(*errors, 1))
        await answer_of(caller)
        assert (caller.asked, caller.retries, caller.rejected_429) == (5, 4, 0)

    run_virtually(main())


@pytest.mark.parametrize("max_retries", [0, 1, 3])
def test_retries_end_with_the_last_error(max_retries: int) -> None:
    async def main() -> None:
        client = ScriptedClient(*[ServerError(f"failure {i}") for i in range(9)])
        caller = caller_of(client, max_retries=max_retries)
        with pytest.raises(ServerError, match=f"failure {max_retries}"):
            await answer_of(caller)
        assert len(client.requests) == max_retries + 1

    run_virtually(main())


def test_what_will_not_pass_is_asked_once() -> None:
    async def main() -> None:
        caller = caller_of(ScriptedClient(RefusedRequestError("too long")))
        with pytest.raises(RefusedRequestError):
            await answer_of(caller)
        assert (caller.asked, caller.retries) == (1, 0)
        with pytest.raises(RefusedRequestError):  # and the next request is still asked
            await answer_of(caller)
        assert caller.asked == 2

    run_virtually(main())


def test_waits_grow_from_a_twentieth_of_a_second_to_eight() -> None:
    async def main() -> None:
        client = ScriptedClient(ServerError("down"))
        with pytest.raises(ServerError):
            await answer_of(caller_of(client, max_retries=8))
        waits = [
            after - before for before, after in zip(client.sent_at_s, client.sent_at_s[1:], strict=False)
        ]
        limits = [0.5, 1, 2, 4, 8, 8, 8, 8]
        assert len(waits) == len(limits)
        assert all(0.05 <= wait <= limit + 0.01 for wait, limit in zip(waits, limits, strict=True))

    run_virtually(main())


def test_refusals_do_not_lengthen_the_wait_after_a_failure() -> None:
    async def main() -> None:
        refusals = [RateLimitError("slow", retry_after_s=1.0)] * 4
        client = ScriptedClient(*refusals, ServerError("down"), 1)
        await answer_of(caller_of(client))
        assert client.sent_at_s[5] - client.sent_at_s[4] <= 0.51

    run_virtually(main())


def test_a_refusal_waits_as_long_as_it_was_told_and_shrinks_the_gate() -> None:
    async def main() -> None:
        client = ScriptedClient(RateLimitError("slow", retry_after_s=20.0), 1)
        caller = caller_of(client, max_concurrency=10)
        await answer_of(caller)
        assert 20 <= client.sent_at_s[1] <= 21.01
        assert (caller.rejected_429, caller.gate.rejected) == (1, 1)
        assert caller.gate.limit == 8 + 1 / 2

    run_virtually(main())


def test_a_client_without_a_time_limit_is_given_one() -> None:
    async def main() -> None:
        caller = caller_of(ScriptedClient(1, takes_s=99.0), max_retries=1, timeout_s=2.0)
        with pytest.raises(RequestTimeoutError, match="did not answer within 2 s"):
            await answer_of(caller)
        assert (caller.asked, caller.gate.in_flight) == (2, 0)

    run_virtually(main())


# n replies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outcomes, asked_for",
    [((4,), [4]), ((9,), [4]), ((1,), [4, 3, 2, 1]), ((0, 3, 0, 1), [4, 4, 1, 1])],
)
def test_replies_that_a_server_left_out_are_asked_for(
    outcomes: tuple[int, ...], asked_for: list[int]
) -> None:
    async def main() -> None:
        client = ScriptedClient(*outcomes)
        answer = await answer_of(caller_of(client), ask(n=4))
        assert len(answer.replies) == 4
        assert [request.n for request in client.requests] == asked_for

    run_virtually(main())


def test_a_server_that_returns_nothing_twice_is_not_asked_for_ever() -> None:
    async def main() -> None:
        client = ScriptedClient(2, 0)
        caller = caller_of(client)
        assert len((await answer_of(caller, ask(n=4))).replies) == 2
        assert len(client.requests) == 3
        with pytest.raises(MalformedReplyError, match="twice without any reply"):
            await answer_of(caller)
        assert caller.gate.in_flight == 0

    run_virtually(main())


def test_a_failure_between_missing_replies_is_retried_too() -> None:
    async def main() -> None:
        caller = caller_of(ScriptedClient(1, ServerError("hiccup"), 1))
        assert len((await answer_of(caller, ask(n=2))).replies) == 2
        assert (caller.asked, caller.retries, caller.gate.in_flight) == (3, 1, 0)

    run_virtually(main())


# the breaker -----------------------------------------------------------------------------------------------


def test_after_a_wrong_key_nothing_more_is_sent() -> None:
    async def main() -> None:
        client = ScriptedClient(AuthenticationError("wrong key", "mend it", status=401), takes_s=1.0)
        caller = caller_of(client, max_concurrency=2)
        outcomes = await asyncio.gather(*[outcome_of(answer_of(caller)) for _ in range(50)])
        assert outcomes == [AuthenticationError] * 50
        assert len(client.requests) == 2  # those that were in flight already
        with pytest.raises(AuthenticationError) as caught:
            await answer_of(caller)
        assert (str(caught.value), caught.value.status) == ("wrong key\nmend it", 401)
        assert caller.gate.in_flight == 0

    run_virtually(main())


def test_a_retry_that_waits_ends_when_the_breaker_trips() -> None:
    async def main() -> None:
        client = ScriptedClient(ServerError("down"), AuthenticationError("wrong key"))
        caller = caller_of(client)
        first, second = asyncio.ensure_future(outcome_of(answer_of(caller))), None
        await asyncio.sleep(0.01)
        second = await outcome_of(answer_of(caller))
        assert (await first, second) == (AuthenticationError, AuthenticationError)
        assert len(client.requests) == 2

    run_virtually(main())


def test_tokens_are_estimated_from_prompts_and_earlier_replies() -> None:
    async def main() -> None:
        client = ScriptedClient(1)
        caller = Caller(client, Gate(100, tpm=60_000))
        for _ in range(60):
            await answer_of(caller, ask("x" * 4000))  # 1000 tokens each, and a reply
        assert now_s() == pytest.approx(60, abs=15)

    run_virtually(main())


def test_closing_closes_the_client() -> None:
    async def main() -> None:
        client = ScriptedClient(1)
        await caller_of(client).close()
        assert client.is_closed

    run_virtually(main())


# against a server ------------------------------------------------------------------------------------------


def test_faults_of_a_real_server_are_ridden_out(server: MockLLM) -> None:
    async def main() -> list[str | None]:
        caller = Caller.of(OpenAILLM(model="mock-model", base_url=server.base_url, max_concurrency=8))
        prompts = [
            f"{number} {mark}"
            for number in range(5)
            for mark in ("", "[[429]]", "[[500x1]]", "[[garbagex1]]")
        ]

        async def one(prompt: str) -> str | None:
            async with caller.asking(ask(prompt)) as answer:
                return answer.replies[0].text

        replies = await asyncio.gather(*[one(prompt) for prompt in prompts])
        await caller.close()
        assert (caller.asked, caller.retries, caller.rejected_429) == (40, 20, 10)
        return replies

    replies = asyncio.run(main())
    assert all(replies)
    stats = server.stats()
    assert (stats["requests"], stats["ok"], stats["duplicate_prompts_after_ok"]) == (40, 20, 0)
    assert stats["max_in_flight"] <= 8


# one question, now -----------------------------------------------------------------------------------------


def test_a_question_is_answered_in_a_plain_script(server: MockLLM) -> None:
    model = OpenAILLM(model="mock-model", base_url=server.base_url)
    first = model.ask("hi")
    assert isinstance(first, str)
    assert model.ask([{"role": "user", "content": "hi"}]) == first
    several = model.ask("hi", n=2)
    assert isinstance(several, list)
    assert (len(several), several[0]) == (2, first)


def test_a_question_is_answered_while_a_loop_is_running() -> None:
    async def main() -> object:
        return RehearsalLLM().ask("hi")

    assert str(asyncio.run(main())).startswith("(rehearsed)")


def test_a_question_is_checked_and_probed_first() -> None:
    with pytest.raises(MissingKeyError):
        OpenAILLM(model="gpt-4o-mini").ask("hi")
    with pytest.raises(UnreachableError, match=r"Nothing listens at 127\.0\.0\.1:1"):
        OpenAILLM(model="m", base_url="http://127.0.0.1:1/v1").ask("hi")


def test_an_answer_without_a_text_is_an_error(server: MockLLM) -> None:
    with pytest.raises(MalformedReplyError, match="without a text"):
        OpenAILLM(model="mock-model", base_url=server.base_url).ask("hi [[null]]")


class _HangingModel(RehearsalLLM):
    def make_client(self) -> _HangingClient:
        return _CLIENTS[self.model]


class _HangingClient(ScriptedClient):
    """Never answers; says when it was asked and when it was cancelled."""

    def __init__(self) -> None:
        super().__init__(1)
        self.was_cancelled = threading.Event()

    async def send(self, request: Request) -> Answer:
        os.kill(os.getpid(), signal.SIGINT)  # now the user presses Ctrl-C
        try:
            return await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.was_cancelled.set()
            raise


_CLIENTS: dict[str, _HangingClient] = {}


def test_ctrl_c_ends_a_question() -> None:
    client = _CLIENTS["hanging"] = _HangingClient()
    with pytest.raises(KeyboardInterrupt):
        ask_now(_HangingModel(model="hanging"), "hi")
    assert client.was_cancelled.is_set()
    assert client.is_closed


# what was paid before a failure ----------------------------------------------------------------------------


def paying(error: ModelError, n_tokens: int) -> ModelError:
    error.paid = (n_tokens, n_tokens, 1, 0)
    return error


def test_who_meets_the_error_of_another_request_has_paid_what_it_has_itself() -> None:
    async def main() -> None:
        # The first waits for its retry while the second finds out that the key is wrong; the third sends nothing.
        client = ScriptedClient(paying(ServerError("busy"), 7), paying(AuthenticationError("no"), 5))
        caller = caller_of(client, max_concurrency=1)
        errors = await asyncio.gather(*(answer_of(caller) for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in errors] == [AuthenticationError] * 3
        assert [error.paid[0] for error in errors if isinstance(error, ModelError)] == [7, 5, 0]
        assert len(client.requests) == 2

    run_virtually(main())

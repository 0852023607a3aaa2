"""Many texts in one request: who shares one, and what a failure of it means to each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from distilnb.errors import (
    AuthenticationError,
    MalformedReplyError,
    ModelError,
    RateLimitError,
    RefusedRequestError,
    ServerError,
)
from distilnb.llms.gathering import GatheringCaller
from distilnb.llms.limits import Gate
from distilnb.llms.request import Answer, Reply, Request
from tests.llms.scripted import ask
from tests.llms.virtual import now_s, run_virtually


class BatchClient:
    """Answers each message of a request by its own text; `obey` may raise for a request."""

    def __init__(self, obey: Callable[[list[str], int], None] = lambda texts, number: None) -> None:
        self.sent: list[list[str]] = []
        self.sent_at_s: list[float] = []
        self.takes_s = 1.0
        self.leaves_out = 0
        self._obey = obey

    async def send(self, request: Request) -> Answer:
        texts = [message["content"] for message in request.messages]
        assert request.n == len(texts)
        self.sent.append(texts)
        self.sent_at_s.append(now_s())
        await asyncio.sleep(self.takes_s)
        self._obey(texts, len(self.sent))
        answered = texts[: len(texts) - self.leaves_out]
        return Answer(tuple(Reply(f"<{text}>") for text in answered))

    async def close(self) -> None:
        pass


def caller_of(
    client: BatchClient, size: int = 4, max_concurrency: int = 8, **settings: Any
) -> GatheringCaller:
    limits = {name: settings.pop(name) for name in ("rpm",) if name in settings}
    return GatheringCaller(client, Gate(max_concurrency, **limits), texts_per_request=size, **settings)


async def outcome(caller: GatheringCaller, text: str, before: Any = None) -> str | type[BaseException]:
    try:
        async with caller.asking(ask(text), before=before) as answer:
            (reply,) = answer.replies
            return str(reply.text)
    except (ModelError, asyncio.CancelledError) as error:
        return type(error)


def outcomes(caller: GatheringCaller, *texts: str) -> list[object]:
    async def main() -> list[object]:
        try:
            return list(await asyncio.gather(*(outcome(caller, text) for text in texts)))
        finally:
            await caller.close()

    return run_virtually(main())


def test_texts_that_wait_share_requests_and_each_gets_its_own_reply() -> None:
    client = BatchClient()
    assert outcomes(caller_of(client), *"abcdefghij") == [f"<{text}>" for text in "abcdefghij"]
    assert client.sent == [list("abcd"), list("efgh"), list("ij")]


def test_a_request_keeps_its_slot_until_the_last_of_its_texts_has_been_dealt_with() -> None:
    async def main() -> None:
        caller = caller_of(BatchClient())
        leave = asyncio.Event()

        async def hold(text: str, *, waits: bool) -> None:
            async with caller.asking(ask(text)):
                assert caller.gate.in_flight == 1
                if waits:
                    await leave.wait()

        slow = asyncio.ensure_future(hold("a", waits=True))
        await hold("b", waits=False)
        await asyncio.sleep(5)
        assert caller.gate.in_flight == 1
        leave.set()
        await slow
        await asyncio.sleep(0)
        assert caller.gate.in_flight == 0
        await caller.close()

    run_virtually(main())


def test_max_concurrency_and_rpm_count_requests_and_not_texts() -> None:
    client = BatchClient()
    outcomes(caller_of(client, size=2, max_concurrency=1), *"abcdef")
    assert client.sent_at_s == pytest.approx([0.0, 1.0, 2.0], abs=0.01)
    paced = BatchClient()
    outcomes(caller_of(paced, size=50, rpm=60), *(str(number) for number in range(200)))
    assert len(paced.sent) == 4
    assert paced.sent_at_s[-1] <= 4.0  # 200 requests would take three minutes


@pytest.mark.parametrize("failure", [ServerError("busy"), RateLimitError("slowly")])
def test_a_request_that_fails_for_a_while_is_sent_again_whole(failure: ModelError) -> None:
    def obey(texts: list[str], number: int) -> None:
        if number <= 2:
            raise failure

    client = BatchClient(obey)
    caller = caller_of(client)
    counts: dict[str, int] = {}

    async def main() -> list[object]:
        def counted(text: str) -> Any:
            async def before() -> None:
                counts[text] = counts.get(text, 0) + 1

            return before

        return list(await asyncio.gather(*(outcome(caller, text, counted(text)) for text in "abcd")))

    assert run_virtually(main()) == ["<a>", "<b>", "<c>", "<d>"]
    assert client.sent == [list("abcd")] * 3
    assert counts == dict.fromkeys("abcd", 3)  # each sending of each text is counted
    assert caller.gate.in_flight == 0


def test_retries_end() -> None:
    def obey(texts: list[str], number: int) -> None:
        raise ServerError("always")

    client = BatchClient(obey)
    assert outcomes(caller_of(client, max_retries=2), *"ab") == [ServerError, ServerError]
    assert len(client.sent) == 3


def test_a_text_that_the_server_refuses_fails_alone() -> None:
    def obey(texts: list[str], number: int) -> None:
        if "bad" in texts:
            raise RefusedRequestError("one is too long")

    client = BatchClient(obey)
    texts = ["a", "b", "c", "bad", "e", "f", "g", "h"]
    wanted = [RefusedRequestError if text == "bad" else f"<{text}>" for text in texts]
    assert outcomes(caller_of(client, size=8), *texts) == wanted
    assert len(client.sent) == 7  # halves of halves: 8, 4+4, 2+2, 1+1


def test_a_wrong_key_is_found_out_once() -> None:
    def obey(texts: list[str], number: int) -> None:
        raise AuthenticationError("wrong key")

    client = BatchClient(obey)
    caller = caller_of(client, size=2, max_concurrency=1)
    assert outcomes(caller, *"abcdef") == [AuthenticationError] * 6
    assert len(client.sent) == 1


def test_an_answer_with_too_few_replies_belongs_to_nobody_and_is_asked_for_in_halves() -> None:
    async def main() -> None:
        client = BatchClient()
        client.leaves_out = 1
        caller = caller_of(client, size=8, max_retries=6)
        outcomes = await asyncio.gather(*(outcome(caller, str(number)) for number in range(8)))
        assert outcomes == [MalformedReplyError] * 8
        # Twice alone, then one of each part that is left: it is the server's way.
        assert client.sent[3:] == [["0"], ["1"], ["4"], ["2"]]
        assert [len(texts) for texts in client.sent[:3]] == [8, 4, 2]
        assert caller.gate.in_flight == 0

    run_virtually(main())


def test_a_server_that_takes_fewer_texts_than_it_is_sent_gets_fewer() -> None:
    class Small(BatchClient):
        async def send(self, request: Request) -> Answer:
            answer = await super().send(request)
            return Answer(answer.replies[:2])

    async def main() -> None:
        client = Small()
        caller = caller_of(client, size=8)
        outcomes = await asyncio.gather(*(outcome(caller, str(number)) for number in range(8)))
        assert outcomes == [f"<{number}>" for number in range(8)]
        assert [len(texts) for texts in client.sent] == [8, 4, 2, 2, 4, 2, 2]

    run_virtually(main())


@pytest.mark.parametrize(
    "bad, n",
    [((0, 3), 8), ((0, 1), 8), ((0, 1, 2, 3), 8), ((0, 1, 4), 8), ((6, 7), 8), ((0, 1), 64), ((1,), 2)],
)
def test_texts_that_bring_no_vector_fail_alone(bad: tuple[int, ...], n: int) -> None:
    class Picky(BatchClient):
        async def send(self, request: Request) -> Answer:
            answer = await super().send(request)
            without = {f"<{number}>" for number in bad}
            return Answer(tuple(reply for reply in answer.replies if reply.text not in without))

    async def main() -> None:
        client = Picky()
        caller = caller_of(client, size=n)
        outcomes = await asyncio.gather(*(outcome(caller, str(number)) for number in range(n)))
        assert outcomes == [MalformedReplyError if i in bad else f"<{i}>" for i in range(n)]
        assert (
            max(map(client.sent.count, client.sent)) == 1
        )  # none is sent a second time with the same company
        assert caller.gate.in_flight == 0

    run_virtually(main())


def test_what_waits_for_its_half_is_called_off_when_the_caller_is_closed() -> None:
    def obey(texts: list[str], number: int) -> None:
        if number == 1:
            raise RefusedRequestError("one is too long")

    async def main() -> None:
        client = BatchClient(obey)
        caller = caller_of(client)
        asked = [asyncio.ensure_future(outcome(caller, text)) for text in "abcd"]
        await asyncio.sleep(1.5)  # the first half is on its way
        await caller.close()
        assert await asyncio.wait_for(asyncio.gather(*asked), 60) == [asyncio.CancelledError] * 4
        assert client.sent == [list("abcd"), ["a", "b"]]

    run_virtually(main())


def test_a_stop_ends_what_waits_and_lets_end_what_was_sent() -> None:
    async def main() -> None:
        client = BatchClient()
        caller = caller_of(client, size=2, max_concurrency=1)
        asked = [asyncio.ensure_future(outcome(caller, text)) for text in "abcd"]
        await asyncio.sleep(0.5)
        caller.stop()
        assert await asyncio.gather(*asked) == ["<a>", "<b>", asyncio.CancelledError, asyncio.CancelledError]
        assert client.sent == [["a", "b"]]
        await caller.close()

    run_virtually(main())


def test_a_stop_does_not_wait_for_a_pause_before_a_retry() -> None:
    def obey(texts: list[str], number: int) -> None:
        raise RateLimitError("later", retry_after_s=500.0)

    async def main() -> None:
        caller = caller_of(BatchClient(obey))
        asked = [asyncio.ensure_future(outcome(caller, text)) for text in "ab"]
        await asyncio.sleep(2)
        caller.stop()
        assert await asyncio.gather(*asked) == [asyncio.CancelledError] * 2
        assert now_s() < 10
        await caller.close()

    run_virtually(main())


def test_who_waits_for_the_budget_holds_up_nobody() -> None:
    async def main() -> None:
        client = BatchClient()
        caller = caller_of(client)
        may_pass = asyncio.Event()
        late = asyncio.ensure_future(outcome(caller, "late", may_pass.wait))
        assert await asyncio.gather(*(outcome(caller, text) for text in "ab")) == ["<a>", "<b>"]
        may_pass.set()
        assert await late == "<late>"
        assert client.sent == [["a", "b"], ["late"]]
        await caller.close()

    run_virtually(main())


def test_one_that_is_called_off_in_the_turn_of_its_answer_keeps_no_slot() -> None:
    async def main() -> None:
        client = BatchClient()
        caller = caller_of(client)
        asked = [asyncio.ensure_future(outcome(caller, text)) for text in "ab"]
        asyncio.get_running_loop().call_at(now_s() + 1.0, asked[0].cancel)
        done = await asyncio.gather(*asked)
        assert done[1] == "<b>"
        await asyncio.sleep(1)
        assert caller.gate.in_flight == 0
        await caller.close()

    run_virtually(main())

"""A mode that a server refuses is left out from then on, and costs no request its answer."""

from __future__ import annotations

import asyncio

import pytest

from distilnb.errors import ModelError, RateLimitError, RefusedRequestError, ServerError
from distilnb.llms import ladder
from distilnb.llms.calling import Caller
from distilnb.llms.limits import Gate
from distilnb.llms.request import Answer, Reply, Request
from distilnb.llms.shape import ReplyShape

MODES = ("native", "object")


def shaped(number: int = 0) -> Request:
    shape = ReplyShape("json", {"type": "object", "title": f"shape {number}"})
    return Request(({"role": "user", "content": "hi"},), shape=shape)


class Picky:
    """A server that refuses some modes by some error."""

    def __init__(self, **refuses: Exception | list[Exception]) -> None:
        self.refuses = refuses
        self.sent: list[Request] = []

    async def send(self, request: Request) -> Answer:
        self.sent.append(request)
        await asyncio.sleep(0)
        refusal = self.refuses.get(request.mode)
        if isinstance(refusal, list):
            refusal = refusal.pop(0) if refusal else None
        if refusal is not None:
            raise refusal
        return Answer((Reply("{}"),))

    async def close(self) -> None: ...

    @property
    def modes(self) -> list[str]:
        return [request.mode for request in self.sent]


NO = RefusedRequestError("No.", status=400)
BROKEN = ServerError("Broken.", status=500)


def ask_all(client: Picky, requests: list[Request], *, limit: int = 1, max_retries: int = 0) -> Caller:
    async def ask() -> Caller:
        caller = Caller(client, Gate(limit), max_retries=max_retries, modes=lambda _: MODES)

        async def one(request: Request) -> None:
            async with caller.asking(request) as answer:
                assert answer.replies

        await asyncio.gather(*(one(request) for request in requests))
        assert caller.gate.in_flight == 0
        return caller

    return asyncio.run(ask())


def test_the_best_mode_is_used_and_nothing_is_added_to_the_messages() -> None:
    client = Picky()
    ask_all(client, [shaped(), shaped()])
    assert client.modes == ["native", "native"]
    assert client.sent[0].messages == shaped().messages


def test_a_refused_mode_is_not_tried_again() -> None:
    client = Picky(native=NO)
    ask_all(client, [shaped()] * 3)
    assert client.modes == ["native", "object", "object", "object"]


def test_last_the_prompt_says_what_is_wanted() -> None:
    client = Picky(native=NO, object=NO)
    ask_all(client, [shaped()] * 2)
    assert client.modes == ["native", "object", "prompt", "prompt"]
    assert "fits this JSON schema" in client.sent[-1].messages[0]["content"]
    assert "Reply with" not in client.sent[0].messages[0]["content"]


def test_a_server_that_fails_where_it_should_refuse_is_believed_the_second_time() -> None:
    client = Picky(native=BROKEN)
    ask_all(client, [shaped()] * 4)
    assert client.modes == ["native", "object", "native", "object", "object", "object"]


def test_a_server_that_fails_once_is_not_taken_for_one_that_refuses() -> None:
    client = Picky(native=[BROKEN])
    ask_all(client, [shaped()] * 3)
    assert client.modes == ["native", "object", "native", "native"]


def test_what_was_accepted_once_is_no_longer_doubted() -> None:
    client = Picky()
    client.refuses = {"native": [None, NO]}  # type: ignore[list-item]
    with pytest.raises(RefusedRequestError, match="No"):
        ask_all(client, [shaped()] * 2)
    assert client.modes == ["native", "native"]


def test_many_at_once_lose_nothing_and_learn_the_same() -> None:
    client = Picky(native=NO)
    ask_all(client, [shaped()] * 16, limit=8)
    assert client.modes.count("object") == 16
    assert client.modes.count("native") <= 8


def test_a_shape_that_is_refused_leaves_the_mode_to_others_until_three_were() -> None:
    client = Picky(native=NO)
    ask_all(client, [shaped(number) for number in (1, 1, 2, 3, 4, 5)])
    assert client.modes.count("native") == 3
    other = Picky(native=[NO, None])  # type: ignore[list-item]
    ask_all(other, [shaped(1), shaped(2), shaped(1), shaped(3)])
    assert other.modes == ["native", "object", "native", "object", "native"]


def test_when_all_is_refused_the_last_word_counts() -> None:
    client = Picky(native=NO, object=BROKEN, prompt=RefusedRequestError("Too long.", status=400))
    with pytest.raises(RefusedRequestError, match="Too long"):
        ask_all(client, [shaped()])


@pytest.mark.parametrize("error", [RateLimitError("Wait.", status=429), ServerError("Busy.", status=503)])
def test_a_busy_server_is_asked_again_in_the_same_mode(error: ModelError) -> None:
    error.retry_after_s = 0.001
    client = Picky(native=[error])
    ask_all(client, [shaped()], max_retries=1)
    assert client.modes == ["native", "native"]


def test_before_is_awaited_for_every_sending_and_may_call_it_off() -> None:
    client = Picky(native=NO)
    calls = 0

    async def before(*, is_further: bool = False) -> None:
        nonlocal calls
        calls += 1
        assert is_further is (calls == 2)  # no failure is repeated
        if calls == 2:
            raise KeyError("enough")

    async def ask() -> None:
        caller = Caller(client, Gate(1), modes=lambda _: MODES)
        with pytest.raises(KeyError):
            async with caller.asking(shaped(), before=before):
                pass
        assert caller.gate.in_flight == 0

    asyncio.run(ask())
    assert client.modes == ["native"]


def test_shapes_of_a_million_rows_take_a_bounded_amount_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "MOST_REMEMBERED", 3)
    client = Picky()
    caller = ask_all(client, [shaped(number) for number in range(20)])
    assert client.modes == ["native"] * 20
    assert len(caller._ladder._accepted._places) == 3
    refusing = Picky(native=NO)
    caller = ask_all(refusing, [shaped(number) for number in (1, 2, 3, 4)])
    assert refusing.modes.count("native") == 3
    assert len(caller._ladder._refused._places) == 3

"""Equal requests of a model that repeats itself: none is asked again while it is on its way, none is forgotten."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import ClassVar

from distilnb.engine.ask import Asker
from distilnb.engine.asked import Asked
from distilnb.engine.budget import Budget
from distilnb.engine.cache import ReplyCache
from distilnb.engine.models import Models
from distilnb.engine.repeats import Repeats
from distilnb.errors import RefusedRequestError
from distilnb.llms.base import LLM
from distilnb.llms.request import Answer, Reply, Request
from distilnb.rows import Batch
from distilnb.tasks.generation import TextGeneration


class Slow(LLM):
    """A model that answers each request when the test says so."""

    provider: ClassVar[str] = "slow"
    is_local: ClassVar[bool] = True

    model: str = "slow"

    def make_client(self) -> SlowClient:
        return SlowClient()


class SlowClient:
    """Holds every request open until it is answered."""

    open: ClassVar[list[tuple[Request, asyncio.Future[Answer]]]] = []

    async def send(self, request: Request) -> Answer:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.open.append((request, answer))
        return await answer

    async def close(self) -> None: ...


def answer_next() -> None:
    request, answer = SlowClient.open.pop(0)
    answer.set_result(Answer(tuple(Reply("yes") for _ in range(request.n))))


def refuse_next() -> None:
    SlowClient.open.pop(0)[1].set_exception(RefusedRequestError("No.", "Ask another."))


def asker_in(folder: Path) -> Asker:
    SlowClient.open.clear()
    return Asker(ReplyCache(folder / "replies.sqlite"), Models(), Budget(), Repeats())


def slow(**parameters: float) -> Slow:
    return Slow(generation_kwargs={"temperature": 0.0, **parameters}, max_concurrency=64, max_retries=0)


def ask(asker: Asker, n: int, ended: list[Asked], **parameters: float) -> asyncio.Task[None]:
    """Ask for n replies to the one question that there is."""
    task = TextGeneration(name="task", llm=slow(**parameters), num_generations=n)
    batch = Batch([{"instruction": "Well?"}], ["row"], [[0]])
    done = asker.ask_rows(task, batch, [0], lambda _, asked: ended.append(asked))
    return asyncio.ensure_future(done)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_what_is_missing_of_a_request_is_asked_once_by_those_who_miss_it(tmp_path: Path) -> None:
    async def run() -> None:
        asker, ended = asker_in(tmp_path), list[Asked]()
        asking = [ask(asker, 1, ended), ask(asker, 2, ended)]
        await settle()
        assert [request.n for request, _ in SlowClient.open] == [1]
        answer_next()
        await settle()
        asking.append(ask(asker, 2, ended))  # the first reply is there, the second is on its way
        await settle()
        assert [request.n for request, _ in SlowClient.open] == [1]
        answer_next()
        await asyncio.gather(*asking)
        assert [len(asked.replies) for asked in ended] == [1, 2, 2]

    asyncio.run(run())


def test_those_who_waited_for_a_request_that_failed_ask_at_once_and_nobody_is_forgotten(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        asker, ended = asker_in(tmp_path), list[Asked]()
        asking = [ask(asker, 1, ended) for _ in range(3)]
        await settle()
        refuse_next()
        await settle()
        assert len(SlowClient.open) == 2  # both that waited
        asking.append(ask(asker, 1, ended))
        await settle()
        refuse_next()
        await settle()
        assert len(SlowClient.open) == 2  # one of those, and the one that came last
        answer_next()
        answer_next()
        await asyncio.wait_for(asyncio.gather(*asking), 60)
        assert [asked.failure is None for asked in ended] == [False, False, True, True]

    asyncio.run(run())


def test_a_stop_in_a_pause_lets_no_request_wait_that_comes_after_it(tmp_path: Path) -> None:
    async def stop_in_a_pause() -> list[Asked]:
        asker, ended = asker_in(tmp_path), list[Asked]()
        asker.models.caller(slow())  # there already, so the pause closes its gate
        asker.pause()
        asker.stop()
        await asyncio.wait_for(ask(asker, 1, ended), 60)
        return ended

    assert asyncio.run(stop_in_a_pause()) == []
    assert not SlowClient.open


def test_a_request_that_comes_in_a_pause_is_sent_after_it(tmp_path: Path) -> None:
    """Its model's gate is made in the pause, and so stands open: what holds it is the last look before it is sent."""

    async def ask_in_a_pause() -> tuple[int, int, list[Asked]]:
        asker, ended = asker_in(tmp_path), list[Asked]()
        asker.pause()
        asking = ask(asker, 1, ended)
        await settle()
        n_paused = len(SlowClient.open)
        asker.resume()
        await settle()
        n_resumed = len(SlowClient.open)
        answer_next()
        await asyncio.wait_for(asking, 60)
        return n_paused, n_resumed, ended

    n_paused, n_resumed, ended = asyncio.run(ask_in_a_pause())
    assert (n_paused, n_resumed) == (0, 1)
    assert [len(asked.replies) for asked in ended] == [1]


class OneByOne(Slow):
    """A model that brings one reply a request."""

    max_n: ClassVar[int | None] = 1


def test_what_one_request_of_several_has_brought_is_kept_before_the_next(tmp_path: Path) -> None:
    async def run() -> None:
        asker, ended = asker_in(tmp_path), list[Asked]()
        task = TextGeneration(
            name="task", llm=OneByOne(generation_kwargs={"temperature": 0.0}), num_generations=3
        )
        batch = Batch([{"instruction": "Well?"}], ["row"], [[0]])
        asking = asyncio.ensure_future(asker.ask_rows(task, batch, [0], lambda _, one: ended.append(one)))
        await settle()
        answer_next()
        while not SlowClient.open:  # the first is in the cache, and the second on its way
            await asyncio.sleep(0)
        assert [(request.n, request.first) for request, _ in SlowClient.open] == [(1, 1)]
        asker.stop()
        answer_next()
        await asking
        assert ended == []

        again = Asker(ReplyCache(tmp_path / "replies.sqlite"), Models(), Budget(), Repeats())
        asking = asyncio.ensure_future(again.ask_rows(task, batch, [0], lambda _, one: ended.append(one)))
        await settle()
        assert [(request.n, request.first) for request, _ in SlowClient.open] == [(1, 2)]
        answer_next()
        await asking
        [asked] = ended
        assert (len(asked.replies), asked.n_asked, asked.n_retries) == (3, 1, 0)

    asyncio.run(run())


async def with_the_second_of_three(folder: Path, **parameters: float) -> tuple[Asker, list[Asked]]:
    """Return an asker whose cache has only the second of three replies."""
    asker, ended = asker_in(folder), list[Asked]()
    asking = ask(asker, 3, ended, **parameters)
    await settle()
    answer_next()
    await asking
    db = sqlite3.connect(folder / "replies.sqlite")
    with db:
        db.execute("DELETE FROM replies WHERE rowid != (SELECT rowid FROM replies LIMIT 1 OFFSET 1)")
    db.close()
    return asker, ended


def test_replies_that_are_no_neighbours_share_a_request(tmp_path: Path) -> None:
    async def run() -> None:
        asker, ended = await with_the_second_of_three(tmp_path)
        asking = ask(asker, 3, ended)
        await settle()
        assert [(request.first, request.n) for request, _ in SlowClient.open] == [(0, 2)]
        answer_next()
        await asking
        assert [len(asked.replies) for asked in ended] == [3, 3]

    asyncio.run(run())


def test_with_a_seed_they_are_asked_for_apart_for_each_has_the_seed_of_its_place(tmp_path: Path) -> None:
    async def run() -> None:
        asker, ended = await with_the_second_of_three(tmp_path, seed=7)
        asking = ask(asker, 3, ended, seed=7)
        await settle()
        assert [(request.first, request.n) for request, _ in SlowClient.open] == [(0, 1)]
        answer_next()
        while not SlowClient.open:
            await asyncio.sleep(0)
        assert [(request.first, request.n) for request, _ in SlowClient.open] == [(2, 1)]
        answer_next()
        await asking
        assert [len(asked.replies) for asked in ended] == [3, 3]

    asyncio.run(run())

"""Several servers with one model: who gets a request, who is left out, and whose key goes where."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import distilnb as dn
from distilnb.errors import (
    MissingKeyError,
    RateLimitError,
    RefusedRequestError,
    ServerError,
    SpecError,
    UnreachableError,
    UnsafeFileError,
)
from distilnb.llms import OpenAIEmbeddings, OpenAIImageGeneration, OpenAILLM, spreading
from distilnb.llms.request import Answer, Reply, Request
from distilnb.llms.spreading import SpreadClient
from distilnb.pipeline import Pipeline
from distilnb.tasks import ImageGeneration
from tests.llms.scripted import ScriptedClient, ask
from tests.llms.virtual import run_virtually
from tests.runs import done
from tests.servers import MockLLM, mock_llm

DEAD = "http://127.0.0.1:9/v1"  # the discard port: nothing listens there
URLS = ["http://one.test:1/v1", "http://two.test:2/v1"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that `spreading` sees."""
    now = [1000.0]
    monkeypatch.setattr(spreading, "monotonic", lambda: now[0])
    return now


def sent(*clients: ScriptedClient) -> list[int]:
    return [len(client.requests) for client in clients]


class LateFirst:
    """A server that answers its first request once it may, and refuses the others."""

    def __init__(self) -> None:
        self.n_requests = 0
        self.may_answer = asyncio.Event()

    async def send(self, request: Request) -> Answer:
        self.n_requests += 1
        if self.n_requests > 1:
            raise RateLimitError("Busy.", retry_after_s=30.0)
        await self.may_answer.wait()
        return Answer((Reply("late", "stop", "m"),))

    async def close(self) -> None:
        """Nothing to close."""


async def send(client: SpreadClient, n: int = 1) -> list[object]:
    return await asyncio.gather(*(client.send(ask()) for _ in range(n)), return_exceptions=True)


async def failures(client: SpreadClient, n: int) -> int:
    """Send one request after the other, and count those that failed."""
    return sum([isinstance((await send(client))[0], Exception) for _ in range(n)])


def test_requests_go_where_the_least_is_on_its_way() -> None:
    async def ask_unequal_servers() -> list[int]:
        fast, slow = ScriptedClient(1, takes_s=0.1), ScriptedClient(1, takes_s=0.4)
        client, gate = SpreadClient([fast, slow]), asyncio.Semaphore(10)

        async def one() -> None:
            async with gate:
                await client.send(ask())

        await asyncio.gather(*(one() for _ in range(1000)))
        await client.close()
        assert fast.is_closed
        assert slow.is_closed
        return sent(fast, slow)

    fast, slow = run_virtually(ask_unequal_servers())
    assert fast + slow == 1000
    assert 3.5 < fast / slow < 4.5


def test_a_dead_server_costs_nobody_a_try_and_comes_back(clock: list[float]) -> None:
    async def lose_and_find() -> None:
        dead, alive = ScriptedClient(UnreachableError("Gone.")), ScriptedClient(1)
        client = SpreadClient([dead, alive])
        assert await failures(client, 8) == 0
        assert sent(dead, alive) == [1, 8]
        clock[0] += spreading.OUT_S[0]
        assert await failures(client, 4) == 0
        assert sent(dead, alive) == [2, 12]
        clock[0] += spreading.OUT_S[0]  # the second time it is left out for twice as long
        assert await failures(client, 4) == 0
        assert sent(dead, alive) == [2, 16]
        dead.outcomes = [1]
        clock[0] += spreading.OUT_S[0]
        assert await failures(client, 20) == 0
        assert 9 <= sent(dead, alive)[0] - 2 <= 11  # its share, and nothing of what it has missed

    asyncio.run(lose_and_find())


def test_servers_with_as_much_to_do_take_turns() -> None:
    async def take_turns() -> list[int]:
        clients = [ScriptedClient(1) for _ in range(3)]
        client = SpreadClient(clients)
        for _ in range(10):
            await send(client)
        return sent(*clients)

    assert asyncio.run(take_turns()) == [4, 3, 3]


def test_a_server_that_was_out_is_tried_by_one_request_alone(clock: list[float]) -> None:
    async def look() -> list[int]:
        out = ScriptedClient(UnreachableError("Gone."))
        alive = ScriptedClient(1)
        client = SpreadClient([out, alive])
        await send(client)
        clock[0] += 1e9
        await send(client, 20)
        return sent(out, alive)

    assert asyncio.run(look()) == [2, 21]


def test_a_refusal_leaves_a_server_alone_for_the_time_it_names(clock: list[float]) -> None:
    async def refuse() -> None:
        busy = ScriptedClient(RateLimitError("Busy.", retry_after_s=5.0), 1)
        other = ScriptedClient(1)
        client = SpreadClient([busy, other])
        assert not isinstance((await send(client))[0], Exception)
        clock[0] += 4.9
        await send(client, 3)
        assert sent(busy, other) == [1, 4]
        clock[0] += 0.2
        await send(client, 2)
        assert sent(busy, other)[0] == 2

    asyncio.run(refuse())


def test_an_answer_from_before_a_refusal_does_not_bring_the_server_back(clock: list[float]) -> None:
    async def refuse() -> list[int]:
        busy, other = LateFirst(), ScriptedClient(1, takes_s=0.01)
        client = SpreadClient([busy, other])
        first = asyncio.ensure_future(client.send(ask()))
        await asyncio.sleep(0)
        await send(client, 2)  # one each; the first server refuses its, and the other answers that too
        assert [busy.n_requests, len(other.requests)] == [2, 2]
        busy.may_answer.set()
        await first
        await send(client, 3)
        return [busy.n_requests, len(other.requests)]

    assert asyncio.run(refuse()) == [2, 5]


def test_where_all_refuse_the_caller_is_told(clock: list[float]) -> None:
    async def refuse() -> object:
        client = SpreadClient(
            [ScriptedClient(RateLimitError("Busy.", retry_after_s=float(n))) for n in (7, 3)]
        )
        return (await send(client))[0]

    assert isinstance(asyncio.run(refuse()), RateLimitError)


def test_where_all_are_out_not_all_requests_go_to_one(clock: list[float]) -> None:
    async def ask_the_dead() -> list[int]:
        gone = [ScriptedClient(UnreachableError("Gone."), takes_s=0.01) for _ in range(3)]
        later = ScriptedClient(RateLimitError("Busy.", retry_after_s=50.0), takes_s=0.01)
        client = SpreadClient([*gone, later])
        await send(client)
        before = sent(*gone, later)
        assert before == [1, 1, 1, 1]
        await send(client, 9)
        return sent(*gone, later)

    assert asyncio.run(ask_the_dead()) == [4, 4, 4, 1]


def test_errors_of_a_server_that_answers_are_the_callers_until_there_are_three(clock: list[float]) -> None:
    async def fail() -> list[int]:
        bad, good = ScriptedClient(ServerError("Broken.")), ScriptedClient(1)
        client = SpreadClient([bad, good])
        assert await failures(client, 12) == 3
        return sent(bad, good)

    assert asyncio.run(fail()) == [3, 9]


def test_what_is_wrong_with_a_request_is_no_fault_of_a_server(clock: list[float]) -> None:
    async def refuse() -> list[int]:
        clients = [ScriptedClient(RefusedRequestError("Too long.")) for _ in range(2)]
        client = SpreadClient(clients)
        assert await failures(client, 10) == 10
        return sent(*clients)

    assert asyncio.run(refuse()) == [5, 5]


# --- the model --------------------------------------------------------------------


def test_the_first_server_stands_for_all_in_the_cache_and_files_keep_the_list(tmp_path: Path) -> None:
    llm = dn.llm("vllm:m", base_urls=[url + "/" for url in URLS])
    assert isinstance(llm, OpenAILLM)
    assert (llm.base_urls, llm.endpoint, llm.endpoints) == (URLS, URLS[0], tuple(URLS))
    assert llm.identity() == OpenAILLM(model="m", base_url=URLS[0]).identity()
    assert llm.digest != OpenAILLM(model="m", base_url=URLS[0]).digest
    assert llm.updated(base_urls=URLS[1:]).endpoint == URLS[1]
    pipeline = Pipeline("spread").from_dicts([{"instruction": "x"}]).generate("answer", llm=llm)
    pipeline.save(tmp_path / "spread.yaml")
    assert (
        dn.open(tmp_path / "spread.yaml", allow=["one.test", "two.test"]).graph.digest
        == pipeline.graph.digest
    )
    with pytest.raises(UnsafeFileError, match=r"two\.test"):
        dn.open(tmp_path / "spread.yaml", allow=["one.test"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_urls": []},
        {"base_urls": URLS[0]},
        {"base_urls": [URLS[0], URLS[0] + "/"]},
        {"base_urls": ["http://user:canary@one.test/v1"]},
        {"base_urls": URLS, "base_url": URLS[0]},
    ],
)
def test_lists_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as raised:
        OpenAILLM(model="m", **wrong)
    assert "canary" not in str(raised.value)


def test_the_environments_key_goes_to_no_server_that_may_not_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    own = "https://api.openai.com/v1"
    mixed = OpenAILLM(model="m", base_urls=[own, URLS[0]])
    mixed.check()
    OpenAILLM(model="m", base_urls=[URLS[0], own]).check()
    assert mixed.key() == ""
    assert mixed.key_source() == ""
    assert [one.key() for one in mixed.by_server()] == ["sk-canary", ""]
    given = OpenAILLM(model="m", base_urls=URLS, api_key="sk-given")
    assert [one.key() for one in given.by_server()] == ["sk-given", "sk-given"]
    monkeypatch.delenv("OPENAI_API_KEY")
    for urls in ([URLS[0], own], [own, URLS[0]]):
        with pytest.raises(MissingKeyError):
            OpenAILLM(model="m", base_urls=urls).check()


def test_one_server_that_answers_is_enough_to_start(server: MockLLM) -> None:
    OpenAILLM(model="m", base_urls=[DEAD, server.base_url]).probe()
    with pytest.raises(UnreachableError):
        OpenAILLM(model="m", base_urls=[DEAD, "http://127.0.0.1:7/v1"]).probe()


@pytest.mark.parametrize("transport", ["aiohttp", "sdk"])
def test_a_run_is_spread_and_a_dead_server_costs_no_retry(transport: str) -> None:
    rows = [{"instruction": f"Tell {number}"} for number in range(120)]
    pipeline = Pipeline("spread").from_dicts(rows)
    with mock_llm(latency_ms=20) as one, mock_llm(latency_ms=20) as two:
        llm = OpenAILLM(
            model="m", base_urls=[one.base_url, two.base_url], max_concurrency=8, transport=transport
        )
        run = done(pipeline.generate("answer", llm=llm))
        counts = [server.stats()["requests"] for server in (one, two)]
        assert sum(counts) == run.status().step("answer").asked == 120
        assert min(counts) > 40
        again = done(pipeline.generate("answer", llm=OpenAILLM(model="m", base_url=one.base_url)))
        assert again.status().step("answer").cached == 120
        for server in (one, two):
            server.reset()
        llm = llm.updated(base_urls=[DEAD, two.base_url, one.base_url])
        run = done(pipeline.generate("answer", llm=llm))
        step = run.status().step("answer")
        assert (step.failed, step.asked, step.retries) == (0, 120, 0)
        counts = [server.stats()["requests"] for server in (one, two)]
        assert sum(counts) == 120
        assert min(counts) > 40


def test_vectors_are_spread_too() -> None:
    with mock_llm() as one, mock_llm() as two:
        model = OpenAIEmbeddings(
            model="m", base_urls=[one.base_url, two.base_url], batch_size=4, max_concurrency=4
        )
        rows = [{"text": f"Text {number}"} for number in range(80)]
        run = done(Pipeline("vectors").from_dicts(rows).embed("text", model=model))
        assert len(run.to_pandas()) == 80
        counts = [server.stats()["requests"] for server in (one, two)]
        assert min(counts) >= 4


def test_images_are_spread_too() -> None:
    with mock_llm() as one, mock_llm() as two:
        model = OpenAIImageGeneration(model="m", base_urls=[one.base_url, two.base_url])
        rows = [{"prompt": f"A kite, number {number}."} for number in range(20)]
        run = done(Pipeline("pictures").from_dicts(rows).ask(ImageGeneration(name="draw", llm=model)))
        assert run.status().step("draw").done == 20
        assert min(server.stats()["requests"] for server in (one, two)) >= 5


def test_a_dead_server_costs_no_vector() -> None:
    with mock_llm() as alive:
        model = OpenAIEmbeddings(model="m", base_urls=[DEAD, alive.base_url], batch_size=4)
        rows = [{"text": f"Text {number}"} for number in range(40)]
        run = done(Pipeline("vectors").from_dicts(rows).embed("text", model=model))
        assert run.status().step("embed").failed == 0
        assert len(run.to_pandas()) == 40

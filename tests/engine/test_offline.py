"""A job and a death at every step of its life: it is handed over once, and all that was asked is in the cache."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from distilnb.engine import keeping, offline
from distilnb.engine.asked import JobLeft, Tally
from distilnb.engine.cache import Key, ReplyCache
from distilnb.engine.jobs import GOING, JobStore
from distilnb.engine.offline import OfflineJobs
from distilnb.errors import RequestTimeoutError
from distilnb.llms.batches import Batches, BatchLimits, Job, Outcome, Sought
from distilnb.llms.parts import Ask
from distilnb.llms.remote import RemoteLLM
from distilnb.llms.request import Answer, Reply, Request

N_REQUESTS = 6
STEPS_OF_A_LIFE = 14  # more than there are: the last deaths come too late to matter


class Killed(Exception):
    """The process is dead: whatever it still does has no effect."""


class Life:
    """One process, which dies at its n-th step."""

    def __init__(self, n_steps: int) -> None:
        self.left = n_steps
        self.is_over = False

    def step(self) -> None:
        self.left -= self.left > 0
        if self.is_over or self.left == 0:
            self.is_over = True
            raise Killed


class Provider:
    """What the provider has: it outlives the processes."""

    def __init__(self) -> None:
        self.jobs: dict[str, tuple[str, list[str]]] = {}  # id → marker, names of its requests
        self.loses_answer = False  # of the next creation


class Model(RemoteLLM):
    """A model whose jobs end at once."""

    provider: ClassVar[str] = "fake"
    url: ClassVar[str] = "http://127.0.0.1:9"
    batch_limits: ClassVar[BatchLimits | None] = BatchLimits(1_000, 1_000_000)
    at: ClassVar[Provider] = Provider()
    life: ClassVar[Life] = Life(-1)

    def make_batches(self) -> Batches:
        return FakeBatches(self.at, self.life, self.limits_of_jobs())


class FakeBatches:
    def __init__(self, provider: Provider, life: Life, limits: BatchLimits) -> None:
        self.limits = limits
        self._provider = provider
        self._life = life

    def line(self, name: str, request: Request) -> bytes:
        return json.dumps({"custom_id": name, "body": request.messages[0]["content"]}).encode()

    async def look(self) -> None:
        self._life.step()

    async def prepare(self, path: Path, marker: str) -> str:
        self._life.step()
        return "file"

    async def create(self, path: Path, prepared: str, marker: str) -> Job:
        self._life.step()
        names = [json.loads(line)["custom_id"] for line in path.read_bytes().splitlines()]
        job_id = f"job-{len(self._provider.jobs)}"
        self._provider.jobs[job_id] = (marker, names)
        self._life.step()
        if self._provider.loses_answer:
            self._provider.loses_answer = False
            raise RequestTimeoutError("No answer.")
        return await self.job(job_id)

    async def find(self, marker: str, n_requests: int, since: float, others: Collection[str]) -> Sought:
        self._life.step()
        for job_id, (own, _) in self._provider.jobs.items():
            if own == marker:
                return Sought(await self.job(job_id))
        return Sought()

    async def job(self, job_id: str) -> Job:
        return Job(job_id, "ended", n_total=N_REQUESTS, n_done=N_REQUESTS, files=(job_id,))

    async def fetch(self, job: Job, path: Path) -> None:
        self._life.step()
        path.write_text("".join(f'"{name}"\n' for name in self._provider.jobs[job.id][1]))

    def outcomes(self, path: Path) -> Iterator[Outcome]:
        for line in path.read_text().splitlines():
            name = json.loads(line)
            yield Outcome(name, Answer((Reply(f"reply to {name}", "stop", "fake", 1, 1),)))

    async def cancel(self, job_id: str) -> Job:
        return await self.job(job_id)

    async def close(self) -> None: ...


@pytest.fixture(autouse=True)
def provider(monkeypatch: pytest.MonkeyPatch) -> Provider:
    monkeypatch.setattr(keeping, "SETTLE_S", 0.0)
    monkeypatch.setattr(keeping, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(offline, "QUIET_S", 0.005)
    monkeypatch.setattr(offline, "LOOK_EVERY_S", 0.005)
    Model.at = Provider()
    return Model.at


def keys_of(number: int) -> list[Key]:
    return [f"key-{number}".encode().ljust(16)]


def mortal(thing: object, life: Life, names: Collection[str]) -> None:
    """Let each of these methods be a step of a life: death comes before it."""
    for name in names:
        method: Callable[..., Any] = getattr(thing, name)

        def stepping(*args: Any, _method: Callable[..., Any] = method, **options: Any) -> Any:
            life.step()
            return _method(*args, **options)

        setattr(thing, name, stepping)


async def live(folder: Path, life: Life, run_id: str = "run-1") -> int:
    """Live as a process that wants all replies; return how many it got before its end."""
    Model.life = life
    cache = ReplyCache(folder / "replies.sqlite", run_id=run_id)
    may_send = asyncio.Event()
    may_send.set()
    jobs = OfflineJobs(cache, run_id, may_send)
    jobs._quiet_s = offline.QUIET_S
    mortal(jobs.store, life, ["make", "prepared", "sending", "sent", "collected", "not_sent", "dropped"])
    mortal(cache, life, ["keep"])

    async def before(request: Request) -> None: ...

    async def ask(number: int) -> bool:
        request = Request(({"role": "user", "content": f"say {number}"},))
        keys = keys_of(number)
        if cache.find(keys):
            return True
        llm = Model(model="m", offline_batch=True)
        got = await jobs.obtain({keys[0]: Ask(llm, request)}, Tally(), replaces=False, before=before)
        return keys[0] in got

    try:
        rows = [asyncio.ensure_future(ask(number)) for number in range(N_REQUESTS)]
        ends = await asyncio.wait_for(asyncio.gather(*rows, return_exceptions=True), 20)
        unexpected = [
            end for end in ends if isinstance(end, BaseException) and not isinstance(end, (Killed, JobLeft))
        ]
        assert unexpected == []
        return ends.count(True)
    finally:
        life.is_over = True
        await jobs.close()
        cache.close()


@pytest.mark.parametrize("loses_answer", [False, True])
@pytest.mark.parametrize("n_steps", range(1, STEPS_OF_A_LIFE + 1))
def test_who_dies_at_any_step_is_followed_by_one_who_hands_nothing_over_again(
    tmp_path: Path, provider: Provider, n_steps: int, loses_answer: bool
) -> None:
    provider.loses_answer = loses_answer
    asyncio.run(live(tmp_path, Life(n_steps)))
    assert asyncio.run(live(tmp_path, Life(-1))) == N_REQUESTS
    assert len(provider.jobs) == 1
    store = JobStore(tmp_path)
    assert [job.state for job in store.all() if job.state in GOING] == []
    store.sweep()
    assert list(store.folder.glob("*.jsonl")) == []


@pytest.mark.parametrize("n_steps", [4, 7, 10])
def test_who_follows_one_who_died_may_die_too(tmp_path: Path, provider: Provider, n_steps: int) -> None:
    for second in range(2, STEPS_OF_A_LIFE, 3):
        folder = tmp_path / str(second)
        folder.mkdir()
        provider.jobs.clear()
        asyncio.run(live(folder, Life(n_steps)))
        asyncio.run(live(folder, Life(second), "run-2"))
        assert asyncio.run(live(folder, Life(-1))) == N_REQUESTS
        assert len(provider.jobs) == 1


def test_the_deaths_above_fall_into_every_part_of_a_jobs_life(tmp_path: Path) -> None:
    states = set()
    for n_steps in range(1, STEPS_OF_A_LIFE + 1):
        folder = tmp_path / str(n_steps)
        folder.mkdir()
        asyncio.run(live(folder, Life(n_steps)))
        states |= {job.state for job in JobStore(folder).all()} or {"none"}
    assert states == {"none", "made", "sending", "sent", "collected"}


def test_two_who_want_the_same_at_the_same_time_make_one_job(tmp_path: Path, provider: Provider) -> None:
    async def both() -> list[int]:
        return await asyncio.gather(live(tmp_path, Life(-1), "run-1"), live(tmp_path, Life(-1), "run-2"))

    assert asyncio.run(both()) == [N_REQUESTS, N_REQUESTS]
    names = [name for _, one in provider.jobs.values() for name in one]
    assert len(names) == N_REQUESTS

"""How requests reach vLLM's engine and leave it, with an engine that stands for it; the real one is under engines/."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from distilnb.errors import RefusedRequestError, UnsupportedParameterError
from distilnb.llms import vLLM
from distilnb.llms.engines import vllm as engines_vllm
from distilnb.llms.engines.base import Ask, Completed
from distilnb.llms.engines.vllm import VllmEngine, set_environment

STEPS = 3  # that a reply takes
IN_PROCESSES = "VLLM_ENABLE_V1_MULTIPROCESSING"


class _Vllm:
    """Answers each request after a few steps with its own prompt; steps only while it has requests."""

    def __init__(self) -> None:
        self.at_work: dict[str, tuple[list[int], int]] = {}
        self.aborted: list[str] = []
        self.may_step = threading.Semaphore(10_000)
        self.failure: BaseException | None = None
        self.engine_core = SimpleNamespace(resources=SimpleNamespace(engine_dead=False))
        self.is_old = False
        self.threads: set[str] = set()

    def add_request(self, name: str, prompt: dict[str, list[int]], parameters: Any) -> str | None:
        self.threads.add(threading.current_thread().name)
        if parameters.max_tokens == 13:
            raise ValueError("13 is no limit")
        self.at_work[name] = (prompt["prompt_token_ids"], 0)
        return None if self.is_old else f"{name}-inner"

    def abort_request(self, names: list[str], internal: bool = False) -> None:
        if self.failure is not None:
            raise self.failure
        assert internal is not self.is_old
        names = [name.removesuffix("-inner") for name in names]
        self.aborted += names
        for name in names:
            self.at_work.pop(name, None)

    def step(self) -> list[Any]:
        self.threads.add(threading.current_thread().name)
        assert self.at_work, "the real one would wait for ever"
        assert self.may_step.acquire(timeout=60)
        if self.failure is not None:
            raise self.failure
        ended = []
        for name, (prompt, n_steps) in list(self.at_work.items()):
            self.at_work[name] = (prompt, n_steps + 1)
            if n_steps + 1 == STEPS:
                del self.at_work[name]
                text = bytes(prompt).decode()
                reply = SimpleNamespace(
                    index=0,
                    text=text,
                    finish_reason="error" if text == "no grammar" else "stop",
                    token_ids=None if text == "unreadable" else prompt,
                    logprobs=None,
                )
                ended.append(SimpleNamespace(request_id=name, finished=True, outputs=[reply]))
        return ended


class _Tokenizer:
    chat_template = ""

    def encode(self, text: str) -> bytes:
        return text.encode()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[VllmEngine]:
    module, sampling = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    vars(module)["SamplingParams"] = SimpleNamespace
    vars(sampling)["RequestOutputKind"] = SimpleNamespace(FINAL_ONLY=None)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", sampling)
    made = VllmEngine({"chat_template": None}, lambda: None)
    made.engine, made.tokenizer = _Vllm(), _Tokenizer()
    made._n_context, made._defaults = 100, {}
    yield made
    made.thread.shutdown()


def ask(text: str, **parameters: Any) -> Ask:
    return Ask([{"role": "user", "content": text}], parameters=parameters)


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(60_000):
        if is_so():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to that")


def text_of(completed: Completed) -> str:
    return completed.completions[0].text


def test_requests_that_come_at_any_time_are_answered_each_with_its_own(engine: VllmEngine) -> None:
    async def one(number: int) -> str:
        await asyncio.sleep(0.0005 * (number % 40))
        return text_of(await engine.answer(ask(f"prompt {number}")))

    async def main() -> list[str]:
        return await asyncio.gather(*map(one, range(400)))

    assert asyncio.run(main()) == [f"prompt {number}" for number in range(400)]
    assert engine.engine.at_work == {}
    assert len(engine.engine.threads) == 1  # vLLM's sockets are of one thread


@pytest.mark.parametrize("is_old", [False, True])
def test_what_nobody_waits_for_is_taken_back_and_the_rest_goes_on(engine: VllmEngine, is_old: bool) -> None:
    vllm = engine.engine
    vllm.is_old = is_old
    vllm.may_step = threading.Semaphore(0)

    async def main() -> str:
        given_up = asyncio.ensure_future(engine.answer(ask("given up")))
        kept = asyncio.ensure_future(engine.answer(ask("kept")))
        await asyncio.sleep(0)
        vllm.may_step.release()  # a step may have begun with the first of the two
        await until(lambda: len(vllm.at_work) == 2)
        given_up.cancel()
        never_begun = asyncio.ensure_future(engine.answer(ask("never begun")))
        await asyncio.sleep(0)
        never_begun.cancel()
        await asyncio.gather(given_up, never_begun, return_exceptions=True)
        vllm.may_step.release(1000)
        return text_of(await kept)

    assert asyncio.run(main()) == "kept"
    assert len(vllm.aborted) == 1


def test_a_request_alone_that_is_given_up_leaves_an_engine_that_rests(engine: VllmEngine) -> None:
    vllm = engine.engine
    vllm.may_step = threading.Semaphore(0)

    async def main() -> str:
        alone = asyncio.ensure_future(engine.answer(ask("alone")))
        await until(lambda: bool(vllm.at_work))
        alone.cancel()
        await asyncio.gather(alone, return_exceptions=True)
        vllm.may_step.release(1000)
        await until(lambda: not vllm.at_work)
        return text_of(await engine.answer(ask("the next")))

    assert asyncio.run(main()) == "the next"


def test_a_refused_request_fails_alone(engine: VllmEngine) -> None:
    async def main() -> list[Any]:
        asked = [engine.answer(ask("no", max_new_tokens=13)), engine.answer(ask("yes"))]
        return await asyncio.gather(*asked, return_exceptions=True)

    refused, answered = asyncio.run(main())
    assert isinstance(refused, RefusedRequestError)
    assert "13 is no limit" in str(refused)
    assert text_of(answered) == "yes"
    assert not engine.is_broken_by(refused)


@pytest.mark.parametrize("text, error", [("no grammar", "vLLM refused"), ("unreadable", "NoneType")])
def test_a_reply_that_is_none_fails_alone(engine: VllmEngine, text: str, error: str) -> None:
    async def main() -> list[Any]:
        asked = [engine.answer(ask(text)), engine.answer(ask("yes"))]
        return await asyncio.gather(*asked, return_exceptions=True)

    failed, answered = asyncio.run(main())
    assert error in str(failed)
    assert text_of(answered) == "yes"
    assert not engine.is_broken_by(failed)


def test_an_engine_whose_process_died_in_a_step_leaves_nobody_waiting(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines_vllm, "_WATCH_S", 0.01)
    vllm = engine.engine
    vllm.may_step = threading.Semaphore(0)  # its step waits for a word that never comes

    async def main() -> list[Any]:
        asked = [asyncio.ensure_future(engine.answer(ask(str(number)))) for number in range(5)]
        await until(lambda: bool(vllm.at_work))
        vllm.engine_core.resources.engine_dead = True
        ended: list[Any] = await asyncio.gather(*asked, return_exceptions=True)
        late = await asyncio.gather(engine.answer(ask("late")), return_exceptions=True)
        vllm.may_step.release(1000)
        return [*ended, *late]

    errors = asyncio.run(main())
    assert [str(error) for error in errors] == ["vLLM's engine has died"] * 6
    assert engine.is_broken_by(errors[0])


@pytest.mark.parametrize("failure", [RuntimeError("out of blocks"), SystemExit("out of blocks")])
def test_a_step_that_fails_ends_all_that_is_at_work_and_the_engine_is_broken(
    engine: VllmEngine, failure: BaseException
) -> None:
    engine.engine.failure = failure

    async def main() -> list[Any]:
        return await asyncio.gather(
            *(engine.answer(ask(str(number))) for number in range(5)), return_exceptions=True
        )

    errors = asyncio.run(main())
    assert len(errors) == 5
    assert all("out of blocks" in str(error) or "has died" in str(error) for error in errors)
    assert "out of blocks" in str(errors[0])
    assert engine.is_broken_by(errors[0])


def test_an_engine_that_died_while_one_was_given_up_leaves_nobody_waiting(engine: VllmEngine) -> None:
    vllm = engine.engine
    vllm.may_step = threading.Semaphore(0)

    async def main() -> BaseException | Completed:
        kept = asyncio.ensure_future(engine.answer(ask("kept")))
        given_up = asyncio.ensure_future(engine.answer(ask("given up")))
        await until(lambda: bool(vllm.at_work))
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        vllm.failure = RuntimeError("dead")
        vllm.may_step.release(1000)
        (ended,) = await asyncio.gather(kept, return_exceptions=True)
        return ended

    ended = asyncio.run(main())
    assert str(ended) == "dead"
    assert engine.is_broken_by(RuntimeError())


def test_an_option_of_the_asynchronous_engine_that_loses_replicas_is_refused_before_it_loads() -> None:
    vLLM(model="some/model", extra_kwargs={"data_parallel_size": 1}).check_parameters()
    with pytest.raises(UnsupportedParameterError, match="holds data_parallel_size"):
        vLLM(model="some/model", extra_kwargs={"data_parallel_size": 2}).check_parameters()


@pytest.mark.parametrize(
    "is_cpu, n_processors, n_parallel, before, then",
    [
        (True, 2, 1, None, "0"),
        (True, 2, 1, "1", "1"),  # the user's own word
        (True, 16, 1, None, None),
        (True, 2, 2, None, None),
        (False, 2, 1, None, None),
    ],
)
def test_vllm_is_one_process_where_two_that_spin_would_take_the_processors(
    is_cpu: bool,
    n_processors: int,
    n_parallel: int,
    before: str | None,
    then: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (*engines_vllm._ENVIRONMENT, IN_PROCESSES):
        monkeypatch.setenv(name, before or "")  # so that all is as before when the test has ended
        monkeypatch.delenv(name)
    if before is not None:
        monkeypatch.setenv(IN_PROCESSES, before)
    platforms = ModuleType("vllm.platforms")
    vars(platforms)["current_platform"] = SimpleNamespace(is_cpu=lambda: is_cpu)
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    monkeypatch.setattr(engines_vllm, "_n_processors", lambda: n_processors)
    set_environment(n_parallel)
    assert os.environ.get(IN_PROCESSES) == then
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"

"""vLLM with a process of its own for its engine, as where there is a GPU: what becomes of requests when that dies."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from distilnb.llms.calling import answer_now
from distilnb.llms.local import LocalLLM
from distilnb.llms.request import Request
from tests.llms.engines.real import IN_PROCESS, LONG, RealEngine, Served

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

VLLM = [engine for engine in IN_PROCESS if engine.kind == "vLLM"]


def ask(llm: LocalLLM, content: str) -> str:
    return answer_now(llm, Request(({"role": "user", "content": content},))).replies[0].text


def host_pid(llm: LocalLLM) -> int:
    info = llm.host().place().info()
    assert info is not None
    return info.pid


@pytest.mark.parametrize("engine", VLLM, ids=lambda engine: engine.kind)
def test_a_killed_engine_ends_its_host_and_the_next_one_answers(
    engine: RealEngine, serve: Callable[[RealEngine], Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    wanted = {"temperature": 0, "max_new_tokens": LONG}
    llm = engine.model(serve(engine), seed=1, generation_kwargs=wanted)  # a host of its own, by its seed
    assert isinstance(llm, LocalLLM)
    before, first_host = ask(llm, "Name three uses of argon."), host_pid(llm)
    (core,) = [
        one for one in psutil.Process(first_host).children(recursive=True) if "EngineCore" in one.name()
    ]
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(ask, llm, "Name a fourth.")
        time.sleep(0.2)  # on its way
        assert not asked.done()
        core.kill()
        assert asked.result(timeout=300)
    assert ask(llm, "Name three uses of argon.") == before
    assert host_pid(llm) != first_host

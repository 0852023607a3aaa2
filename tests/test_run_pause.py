"""A paused run starts nothing new, keeps what ends, and goes on, stops or is resumed as a running one."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distilnb.engine import events
from distilnb.llms.openai import OpenAILLM
from distilnb.pipeline import Pipeline
from distilnb.run import Run
from distilnb.spec.step import Step
from distilnb.view.card import status_line
from tests.conftest import wait_until_gone
from tests.runs import kill_worker, wait_for, worker_pids
from tests.servers import MockLLM, mock_llm

N_ROWS = 60
CONCURRENCY = 4
A_WHILE_S = 0.6  # a dozen turns of the runner, and of what waits in the worker


def pipeline(server: MockLLM, n_rows: int = N_ROWS, **options: Any) -> Pipeline:
    llm = OpenAILLM(model="m", base_url=server.base_url, max_concurrency=CONCURRENCY, **options)
    rows = [{"i": i} for i in range(n_rows)]
    return Pipeline("paused", llm=llm).from_dicts(rows).generate(prompt="Say {{ i }}.")


def some_are_done(run: Run) -> bool:
    return run.status().step("generate").done >= CONCURRENCY


def is_kind(run: Run, kind: type[events.Event]) -> bool:
    return any(isinstance(event, kind) for event in run.events())


def wait_until_quiet(run: Run, server: MockLLM) -> int:
    """Wait until the runner has paused and nothing is in flight; return how many requests came so far."""
    wait_for(run, lambda run: is_kind(run, events.Paused))
    run.wait(A_WHILE_S)  # the workers are told right after that event
    wait_for(run, lambda _: server.stats()["in_flight"] == 0)
    return int(server.stats()["requests"])


@pytest.fixture
def server() -> Iterator[MockLLM]:
    with mock_llm(latency_ms=50) as running:
        yield running


def test_a_paused_run_sends_nothing_and_keeps_what_was_in_flight(server: MockLLM) -> None:
    run = pipeline(server).start()
    wait_for(run, some_are_done)
    run.pause()
    assert run.status().state == "paused"
    n_requests = wait_until_quiet(run, server)
    assert run.wait(A_WHILE_S).state == "paused"
    assert server.stats()["requests"] == n_requests < N_ROWS
    status = run.status()
    assert status.step("generate").done == n_requests
    assert not status.is_ended
    assert "paused" in status_line(status)
    assert "‖ paused" in repr(run)
    assert run.resume() is run
    assert run.wait(60).state == "finished"
    assert list(run.to_pandas()["i"]) == list(range(N_ROWS))
    assert server.stats()["requests"] == N_ROWS
    told = [event for event in run.events() if isinstance(event, (events.Paused, events.Resumed))]
    assert [event.kind for event in told] == ["paused", "resumed"]
    assert told[1] == events.Resumed(pid=told[1].pid, was="paused", id=told[1].id, at=told[1].at)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "server_options, model",
    [
        ({}, {"rpm": 150}),
        ({}, {"tpm": 40_000}),
        ({"max_concurrency": 1, "latency_ms": 30, "retry_after": 0.3}, {"max_retries": 50}),
        ({"error_500_rate": 0.4, "latency_ms": 10}, {"max_retries": 50}),
    ],
    ids=["requests per minute", "tokens per minute", "Retry-After", "back-off"],
)
def test_nothing_that_waits_in_a_limit_is_sent(server_options: dict[str, Any], model: dict[str, Any]) -> None:
    with mock_llm(**server_options) as server:
        run = pipeline(server, n_rows=20, **model).start()
        wait_for(run, lambda run: run.status().step("generate").done >= 1)
        run.pause()
        n_requests = wait_until_quiet(run, server)
        assert run.wait(2 * A_WHILE_S).state == "paused"
        assert server.stats()["requests"] == n_requests
        run.adjust(rpm=100_000, tpm=100_000_000)
        run.resume()
        assert run.wait(60).state == "finished"
        assert list(run.to_pandas()["i"]) == list(range(20))


class Slow(Step):
    """Takes a while for each batch."""

    def process(self, rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:  # type: ignore[override]
        time.sleep(0.1)
        yield rows


def test_row_steps_that_wait_for_their_turn_are_not_begun(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"i": {i}}}\n' for i in range(20_000)))
    run = Pipeline("rows").from_files(path).then(Slow(name="slow", input_batch_size=1000)).start()
    wait_for(run, lambda run: run.status().step("slow").done > 0)
    run.pause()
    wait_for(run, lambda run: is_kind(run, events.Paused))
    run.wait(2 * A_WHILE_S)  # for the batches that workers are at
    n_done = run.status().step("slow").done
    run.wait(A_WHILE_S)
    assert run.status().step("slow").done == n_done < 20_000
    run.resume()
    assert run.wait(60).state == "finished"
    assert list(run.to_pandas()["i"]) == list(range(20_000))


@pytest.mark.parametrize("end", [Run.stop, Run.abort], ids=["stop", "abort"])
def test_a_paused_run_can_be_ended(end: Callable[[Run], Any], server: MockLLM, home: Path) -> None:
    run = pipeline(server).start()
    wait_for(run, some_are_done)
    run.pause()
    n_requests = wait_until_quiet(run, server)
    end(run)
    status = run.wait(30)
    assert (status.state, status.reason) == ("stopped", "user")
    assert wait_until_gone(home) == []
    assert server.stats()["requests"] == n_requests
    run.resume()
    assert run.wait(60).state == "finished"
    assert server.stats()["requests"] == N_ROWS


def test_a_paused_run_whose_runner_was_killed_can_be_resumed(server: MockLLM, home: Path) -> None:
    run = pipeline(server).start()
    wait_for(run, some_are_done)
    run.pause()
    wait_until_quiet(run, server)
    os.kill(worker_pids(run)["runner"], signal.SIGKILL)
    assert wait_until_gone(home) == []
    assert run.wait(10).state == "lost"  # in a moment: its lock goes after its memory
    run.resume()
    assert run.wait(60).state == "finished"
    assert server.stats()["requests"] == N_ROWS
    assert any(isinstance(event, events.Resumed) and event.was == "paused" for event in run.events())


def test_a_worker_that_dies_in_a_pause_comes_back_and_waits(server: MockLLM) -> None:
    run = pipeline(server).start()
    wait_for(run, some_are_done)
    run.pause()
    n_requests = wait_until_quiet(run, server)
    kill_worker(run, "ask_worker")
    run.wait(A_WHILE_S)
    assert server.stats()["requests"] == n_requests
    run.resume()
    assert run.wait(60).state == "finished"
    assert server.stats()["requests"] == N_ROWS


def test_a_pause_in_start_up_holds_from_the_first_row_on(server: MockLLM) -> None:
    run = pipeline(server).start()
    run.pause()
    wait_until_quiet(run, server)
    run.wait(A_WHILE_S)
    assert server.stats()["requests"] <= CONCURRENCY * 2  # the runner may have been faster than the command
    run.resume()
    run.resume()
    assert run.wait(60).state == "finished"


def test_a_pause_that_is_taken_back_in_one_breath_is_none(server: MockLLM) -> None:
    run = pipeline(server).start()
    run.pause()
    run.resume()
    assert run.wait(60).state == "finished"
    assert run.pause().state == "finished"  # which changes nothing any more
    assert run.status().state == "finished"


def test_an_equal_start_returns_the_paused_run_and_says_so(server: MockLLM) -> None:
    run = pipeline(server).start()
    wait_for(run, some_are_done)
    run.pause()
    again = pipeline(server).start()
    assert again.id == run.id
    assert "is paused; run.resume() goes on with it" in repr(again)
    run.abort()
    run.wait(30)


IMPATIENT = """
import distilnb.engine.control
distilnb.engine.control.MAX_PAUSE_S = 0.3
from distilnb.engine.runner import main
main()
"""


def test_a_pause_that_is_too_long_ends_the_run(server: MockLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("distilnb.engine.launch.interpreter", lambda _: [sys.executable, "-c", IMPATIENT])
        run = pipeline(server).start()
    wait_for(run, some_are_done)
    run.pause()
    status = run.wait(30)
    assert (status.state, status.reason) == ("stopped", "paused")
    run.resume()
    assert run.wait(60).state == "finished"
    assert server.stats()["requests"] == N_ROWS


def test_pauses_are_no_running_time(server: MockLLM) -> None:
    run = pipeline(server).start()
    wait_for(run, some_are_done)
    run.pause()
    wait_until_quiet(run, server)
    began = time.monotonic()
    run.wait(2.0)
    paused_s = time.monotonic() - began
    run.resume()
    status = run.wait(60)
    assert status.ended_at is not None
    assert 0 < status.ran_s <= status.ended_at - status.started_at - paused_s + 0.5

"""Starting, stopping and going on: at once, twice, at the same time, and behind limits."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distilnb.engine.rundir import RunDir
from distilnb.llms.openai import OpenAILLM
from distilnb.pipeline import Pipeline
from distilnb.run import Run
from distilnb.spec.step import Step
from tests.conftest import wait_until_gone
from tests.runs import kill_worker, wait_for, worker_pids
from tests.servers import mock_llm

N_ROWS = 60


def pipeline(
    base_url: str, *, prompt: str = "Say {{ i }}.", n_rows: int = N_ROWS, **options: Any
) -> Pipeline:
    llm = OpenAILLM(model="m", base_url=base_url, max_concurrency=4, **options)
    return Pipeline("control", llm=llm).from_dicts([{"i": i} for i in range(n_rows)]).generate(prompt=prompt)


def some_are_done(run: Run) -> bool:
    return run.status().step("generate").done >= 4


def numbers(run: Run) -> list[int]:
    return list(run.to_pandas()["i"])


def test_a_stop_and_a_resume_in_one_breath_go_on_to_the_end() -> None:
    with mock_llm(latency_ms=40) as server:
        run = pipeline(server.base_url).start()
        wait_for(run, some_are_done)
        run.stop()
        run.resume()
        assert run.wait(60).state == "finished"
        assert numbers(run) == list(range(N_ROWS))
        assert server.stats()["requests"] == N_ROWS


def test_a_start_after_a_stop_is_a_new_run() -> None:
    with mock_llm(latency_ms=40) as server:
        run = pipeline(server.base_url).start()
        wait_for(run, some_are_done)
        run.stop()
        again = pipeline(server.base_url).start()
        assert again.id != run.id
        assert again.wait(60).state == "finished"
        assert run.wait(60).state == "stopped"


def test_a_command_that_came_too_late_does_not_stop_the_next_runner(home: Path) -> None:
    with mock_llm(latency_ms=40) as server:
        run = pipeline(server.base_url).start()
        wait_for(run, some_are_done)
        os.kill(worker_pids(run)["runner"], signal.SIGKILL)
        assert wait_until_gone(home) == []
        RunDir(Path(run.path)).command("stop")
        run.resume()
        assert run.wait(60).state == "finished"


class Busy(Step):
    """Works for longer than anybody waits."""

    def process(self, rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:  # type: ignore[override]
        threading.Event().wait(120)
        yield rows


def test_an_abort_does_not_wait_for_a_busy_step(home: Path) -> None:
    run = Pipeline("busy").from_dicts([{"a": 1}]).then(Busy()).start()
    wait_for(run, lambda run: "row_worker" in worker_pids(run) and run.status().state == "running")
    run.abort()
    assert run.wait(30).state == "stopped"
    assert wait_until_gone(home, 4.0) == []


@pytest.mark.parametrize(
    "server, model",
    [({}, {"rpm": 60}), ({"max_concurrency": 1, "latency_ms": 50, "retry_after": 600}, {})],
    ids=["requests per minute", "Retry-After"],
)
def test_a_stop_does_not_wait_for_a_limit(server: dict[str, Any], model: dict[str, Any]) -> None:
    with mock_llm(**server) as running:
        run = pipeline(running.base_url, **model).start()
        wait_for(run, lambda run: run.status().step("generate").done >= 1)
        run.stop()
        status = run.wait(8)
        assert status.state == "stopped"
        assert status.step("generate").failed == 0


def test_equal_starts_at_the_same_moment_are_one_run() -> None:
    with mock_llm(latency_ms=100) as server:
        one = pipeline(server.base_url)
        ids: list[str] = []
        threads = [threading.Thread(target=lambda: ids.append(one.start().id)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(ids) == 4
        assert len(set(ids)) == 1
        run = one.start()
        run.abort()
        run.wait(30)


def test_two_runs_that_ask_the_same_at_once_end_with_the_same_rows() -> None:
    with mock_llm(latency_ms=30, vary=True) as server:
        runs = [pipeline(server.base_url).start(new=True) for _ in range(2)]
        for run in runs:
            assert run.wait(60).state == "finished"
        first, second = (run.to_pandas()["generations"].tolist() for run in runs)
        later = pipeline(server.base_url).start(new=True)
        later.wait(60)
        assert later.status().step("generate").cached == N_ROWS
        assert first == second == later.to_pandas()["generations"].tolist()


def test_what_a_killed_worker_paid_counts_to_the_cost() -> None:
    with mock_llm(latency_ms=40) as server:
        run = pipeline(server.base_url, price=(1.0, 1.0)).start()
        for _ in range(2):
            wait_for(run, some_are_done)
            kill_worker(run, "ask_worker")
        status = run.wait(60)
        assert status.state == "finished"
        stats = server.stats()
        lost = stats["requests"] - status.step("generate").asked
        # What was cut off on its way is paid by nobody knows whom; everything that arrived is counted.
        assert 0 <= lost <= 2 * 4
        assert status.step("generate").cached == 0
        assert numbers(run) == list(range(N_ROWS))


def test_a_handle_travels_by_its_id_and_without_the_keys_it_was_given() -> None:
    with mock_llm() as server:
        run = pipeline(server.base_url, n_rows=2, api_key="sk-canary-0123456789abcdef").start()
        run.wait(30)
        text = pickle.dumps(run)
        assert b"canary" not in text
        assert pickle.loads(text).id == run.id


def test_a_panel_and_a_cell_may_read_one_handle_at_the_same_time() -> None:
    with mock_llm(latency_ms=10) as server:
        run = pipeline(server.base_url).start()
        errors: list[BaseException] = []

        def look() -> None:
            try:
                while not run.status().is_ended:
                    run.rows("generate")
                    run.errors()
                for _ in range(20):
                    run.status()
                    run.rows("generate")
            except BaseException as error:  # noqa: BLE001 - raised in a thread, told in the test
                errors.append(error)

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []

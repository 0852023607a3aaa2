"""A run lives in processes of its own: kernel, runner and workers may die, and nothing is lost or asked twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from distilnb.errors import RunError, RunFailedError, RunNotFinishedError, RunNotFoundError
from distilnb.llms.openai import OpenAILLM
from distilnb.pipeline import Pipeline
from distilnb.run import Run, attach, runs
from distilnb.spec.step import GlobalStep, Step
from tests.conftest import wait_until_gone
from tests.runs import wait_for, worker_pids
from tests.servers import MockLLM, mock_llm

N_ROWS = 120
CONCURRENCY = 8


@pytest.fixture(scope="module")
def slow_model() -> Iterator[MockLLM]:
    """A model that takes long enough for a run to be met in its middle."""
    with mock_llm(latency_ms=60, templates={"judge": "Rating: {score}\nRationale: {words}"}) as server:
        yield server


@pytest.fixture
def model(slow_model: MockLLM) -> MockLLM:
    slow_model.reset()
    return slow_model


def pipeline(server: MockLLM, n_rows: int = N_ROWS) -> Pipeline:
    llm = OpenAILLM(model="writer", base_url=server.base_url, max_concurrency=CONCURRENCY, price=(1.0, 1.0))
    rows = [{"instruction": f"Say {i}."} for i in range(n_rows)]
    return Pipeline("runs").from_dicts(rows).generate(llm=llm).map(count_letters, makes=["letters"])


def count_letters(generations: list[str]) -> dict[str, int]:
    return {"letters": len(generations[0])}


def some_rows_are_done(run: Run) -> bool:
    return run.status().step("generate").done >= 2 * CONCURRENCY


def instructions(run: Run) -> list[str]:
    return list(run.to_pandas()["instruction"])


EXPECTED = [f"Say {i}." for i in range(N_ROWS)]


def test_a_run_ends_with_every_row_in_order_and_no_process(model: MockLLM, home: Path) -> None:
    run = pipeline(model).start()
    status = run.wait(60)
    assert status.state == "finished"
    assert instructions(run) == EXPECTED
    assert wait_until_gone(home) == []
    stats = model.stats()
    step = status.step("generate")
    assert (step.asked, step.cached) == (stats["ok"], 0) == (N_ROWS, 0)
    assert (step.input_tokens, step.output_tokens) == (stats["prompt_tokens"], stats["completion_tokens"])
    assert stats["max_in_flight"] <= CONCURRENCY


def test_the_runner_has_a_session_of_its_own(model: MockLLM) -> None:
    run = pipeline(model).start()
    wait_for(run, lambda run: len(worker_pids(run)) == 3)
    sessions = {os.getsid(pid) for pid in worker_pids(run).values()}
    assert os.getsid(0) not in sessions
    run.abort()
    assert run.wait(30).state == "stopped"


KERNEL = """
import os, sys
from tests.test_run import pipeline
from types import SimpleNamespace
run = pipeline(SimpleNamespace(base_url=sys.argv[1])).start()
sys.stdout.write(run.id + " " + str(os.getsid(0)) + "\\n")
sys.stdout.flush()
sys.stdin.read()
"""


def test_a_killed_kernel_leaves_the_run_to_finish(model: MockLLM, home: Path) -> None:
    kernel = subprocess.Popen(
        [sys.executable, "-c", KERNEL, model.base_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert kernel.stdout is not None
    assert kernel.stdin is not None
    run_id, session = kernel.stdout.readline().split()
    run = attach(run_id)
    wait_for(run, some_rows_are_done)
    assert os.getsid(worker_pids(run)["runner"]) != int(session)
    kernel.kill()
    kernel.wait()
    kernel.stdout.close()
    kernel.stdin.close()
    assert run.wait(60).state == "finished"
    assert instructions(run) == EXPECTED
    assert model.stats()["duplicate_prompts_after_ok"] == 0
    assert wait_until_gone(home) == []


@pytest.mark.parametrize("role", ["ask_worker", "row_worker"])
def test_a_killed_worker_is_replaced_and_loses_nothing(model: MockLLM, home: Path, role: str) -> None:
    run = pipeline(model).start()
    wait_for(run, some_rows_are_done)
    os.kill(worker_pids(run)[role], signal.SIGKILL)
    assert run.wait(60).state == "finished"
    assert instructions(run) == EXPECTED
    assert model.stats()["duplicate_prompts_after_ok"] <= CONCURRENCY
    assert wait_until_gone(home) == []


def test_a_killed_runner_takes_its_workers_along_and_the_run_resumes(model: MockLLM, home: Path) -> None:
    run = pipeline(model).start()
    wait_for(run, some_rows_are_done)
    os.kill(worker_pids(run)["runner"], signal.SIGKILL)
    assert wait_until_gone(home) == []
    deadline = time.monotonic() + 10  # a process that dies loses its memory before it lets its lock go
    while run.status().state != "lost" and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(RunNotFinishedError, match="is lost"):
        run.distiset()
    assert len(run.rows("generate")) >= 2 * CONCURRENCY
    attach(run.id).resume()
    assert run.wait(60).state == "finished"
    assert instructions(run) == EXPECTED
    assert model.stats()["duplicate_prompts_after_ok"] <= CONCURRENCY
    assert run.status().step("generate").done == N_ROWS


def test_a_stop_keeps_what_is_finished_and_asks_nothing_twice(model: MockLLM, home: Path) -> None:
    run = pipeline(model).start()
    wait_for(run, some_rows_are_done)
    run.stop()
    status = run.wait(30)
    assert (status.state, status.reason) == ("stopped", "user")
    assert wait_until_gone(home) == []
    done = status.step("generate").done
    assert 0 < done < N_ROWS
    assert model.stats()["requests"] == done
    with pytest.raises(RunNotFinishedError, match=r"is stopped \(user\)"):
        run.distiset()
    assert len(run.rows("generate")) == done
    run.resume()
    assert run.wait(60).state == "finished"
    assert instructions(run) == EXPECTED
    assert model.stats()["requests"] == N_ROWS


def test_a_budget_stops_before_it_is_passed(model: MockLLM) -> None:
    first = pipeline(model, 4).start()
    first.wait(30)
    row_cost = (first.status().cost_usd or 0) / 4
    run = pipeline(model).start(max_cost=row_cost * 40)
    status = run.wait(60)
    assert status.state == "stopped"
    assert status.reason.startswith("budget: max_cost")
    assert 0 < status.step("generate").asked < N_ROWS
    assert (status.cost_usd or 0) <= row_cost * 40


def test_an_equal_start_returns_the_run_that_is_going(model: MockLLM) -> None:
    run = pipeline(model).start()
    again = pipeline(model).start()
    assert again.id == run.id
    assert "is running already" in repr(again)
    another = pipeline(model).start(new=True)
    assert another.id != run.id
    for one in (run, another):
        one.abort()
        one.wait(30)


def test_a_later_run_pays_only_for_new_rows(model: MockLLM) -> None:
    pipeline(model, 20).run(show=False)
    run = pipeline(model, 23).start()
    run.wait(30)
    assert (run.status().step("generate").asked, run.status().step("generate").cached) == (3, 20)
    assert model.stats()["requests"] == 23


def test_runs_are_listed_newest_first_and_found_by_id(model: MockLLM) -> None:
    ids = []
    for _ in range(2):
        run = pipeline(model, 2).start(new=True)
        run.wait(30)
        ids.insert(0, run.id)
    assert [run.id for run in runs()] == ids
    with pytest.raises(RunNotFoundError, match="There is no run 'runs-zzzz'"):
        attach("runs-zzzz")


def test_a_finished_run_cannot_be_resumed(model: MockLLM) -> None:
    run = pipeline(model, 2).start()
    run.wait(30)
    with pytest.raises(RunError, match="is finished"):
        run.resume()


def test_rows_can_be_read_while_the_run_goes_on(model: MockLLM) -> None:
    run = pipeline(model).start()
    wait_for(run, some_rows_are_done)
    rows = run.rows("generate")
    assert len(rows) >= 2 * CONCURRENCY
    assert rows["generations"].map(len).eq(1).all()
    run.abort()
    run.wait(30)


class Failing(Step):
    """Cannot load."""

    def load(self) -> None:
        raise OSError("the dictionary is not there")

    def process(self, rows: list[dict[str, object]]) -> Iterator[list[dict[str, object]]]:  # type: ignore[override]
        yield rows


def test_a_step_that_cannot_load_ends_the_run_with_that_error() -> None:
    run = Pipeline("failing").from_dicts([{"a": 1}]).then(Failing()).start()
    status = run.wait(30)
    assert status.state == "failed"
    assert "Step 'failing' failed: OSError: the dictionary is not there" in status.error
    with pytest.raises(RunFailedError, match="the dictionary is not there"):
        run.distiset()


class Exiting(GlobalStep):
    """Kills its worker every time."""

    def process(self, rows: list[dict[str, object]]) -> Iterator[list[dict[str, object]]]:  # type: ignore[override]
        os.kill(os.getpid(), signal.SIGKILL)
        yield rows


def test_a_worker_that_dies_every_time_fails_the_run() -> None:
    run = Pipeline("exiting").from_dicts([{"a": 1}]).then(Exiting()).start()
    status = run.wait(30)
    assert status.state == "failed"
    assert "The rows worker died 3 times (killed by SIGKILL)" in status.error


def test_no_thread_or_file_of_a_run_stays_open_in_the_kernel(model: MockLLM) -> None:
    me = psutil.Process()
    pipeline(model, 2).run(show=False)
    before = me.num_fds()
    for _ in range(3):
        pipeline(model, 2).start(new=True).wait(30)
    assert me.num_fds() <= before


@pytest.mark.parametrize("limit", [1, 999, 1000, 1001, 3000, 9999])
def test_rows_limits_a_source_exactly(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"i": {i}}}\n' for i in range(3000)))
    run = Pipeline("limited").from_files(path).keep("i").start(rows=limit)
    run.wait(30)
    assert list(run.to_pandas()["i"]) == list(range(min(limit, 3000)))

"""Runs that go by offline batch: parked, killed, shared, and collected, with no job handed over twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distilnb.cli import app
from distilnb.engine.events import JobCollected, JobParked
from distilnb.errors import InputError, RunError
from distilnb.llms.anthropic import AnthropicLLM
from distilnb.llms.base import LLM
from distilnb.llms.openai import OpenAILLM
from distilnb.pipeline import Pipeline
from distilnb.run import Run, attach
from tests.conftest import processes_of, wait_until_gone
from tests.runs import PATIENCE_S, kill_worker, wait_for, worker_pids
from tests.servers import MockLLM, mock_llm

CANARY = "canary-0123456789abcdef"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
SETTLED_S = 60.0  # for what waits until a provider surely lists a job


@pytest.fixture(scope="module")
def holding() -> Iterator[MockLLM]:
    with mock_llm(hold_jobs=True, require_key=CANARY, record=50) as running:
        yield running


@pytest.fixture
def server(holding: MockLLM, monkeypatch: pytest.MonkeyPatch) -> MockLLM:
    holding.reset()
    monkeypatch.setenv("OPENAI_BASE_URL", holding.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", holding.base_url.removesuffix("/v1") + "/anthropic")
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    return holding


def model(kind: str = "openai", **options: Any) -> LLM:
    made: dict[str, type[LLM]] = {"openai": OpenAILLM, "anthropic": AnthropicLLM}
    options = {"model": "mock-model", "offline_batch": True, "offline_batch_poll": 0.05, **options}
    return made[kind](**options)


def pipeline(
    llm: LLM | None = None, n_rows: int = 12, prompts: list[str] | None = None, **task: Any
) -> Pipeline:
    prompts = prompts or [f"Say {number}" for number in range(n_rows)]
    rows = [{"instruction": prompt} for prompt in prompts]
    return Pipeline("offline", llm=llm or model()).from_dicts(rows).generate(name="answer", **task)


def is_parked(run: Run) -> bool:
    return any(job.state == "parked" and job.id for job in run.status().jobs)


def parked(pipeline: Pipeline, **options: Any) -> Run:
    """Start a run and wait until its job is with the provider."""
    run = pipeline.start(**options)
    wait_for(run, is_parked)
    return run


def until(is_so: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def ended(run: Run) -> Run:
    status = run.wait(PATIENCE_S)
    assert status.is_ended, repr(run)
    return run


def collected(server: MockLLM, run: Run, **how: Any) -> Run:
    server.order(**{"end": "completed", **how})
    return ended(run)


def answered(run: Run) -> int:
    return sum(row["generations"][0] is not None for row in run.rows_of_leaf("answer"))


def kill_all(run: Run) -> None:
    for process in processes_of(Path(run.path)):
        os.kill(process.pid, signal.SIGKILL)
    assert wait_until_gone(Path(run.path)) == []


# --- parked and collected -------------------------------------------------------


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_a_run_parks_shows_its_job_and_collects(server: MockLLM, kind: str) -> None:
    run = parked(pipeline(model(kind)))
    (job,) = server.jobs()
    status = run.status()
    assert status.is_parked
    assert (status.jobs[0].id, status.jobs[0].n_total, status.jobs[0].state) == (job["id"], 12, "parked")
    assert status.jobs[0].expires_at - status.jobs[0].since == pytest.approx(86_400)
    assert f"parked: job {job['id']}, 0/12 done, since " in repr(run)
    assert f"parked: job {job['id']}" in run.line()
    if kind == "openai":  # the other tells nothing before the end
        server.order(progress=7)
        wait_for(run, lambda run: run.status().jobs[0].n_done == 7)
    collected(server, run)
    assert run.status().state == "finished", repr(run)
    assert answered(run) == 12
    step = run.status().step("answer")
    assert (step.asked, step.cached, step.failed) == (12, 0, 0)
    assert step.input_tokens > 0
    assert run.status().jobs == ()
    told = [event for event in run.events() if isinstance(event, (JobParked, JobCollected))]
    assert [(type(event), event.job) for event in told] == [(JobParked, job["id"]), (JobCollected, job["id"])]
    assert len(server.jobs()) == 1


def test_equal_requests_and_several_replies_go_in_one_job(server: MockLLM) -> None:
    """Of a provider that brings one reply a request, too."""
    run = parked(pipeline(model("anthropic"), n_rows=4, k=3))
    (job,) = server.jobs()
    assert job["n"] == 12
    collected(server, run)
    assert run.status().step("answer").asked == 12
    assert all(len(row["generations"]) == 3 for row in run.rows_of_leaf("answer"))


def test_what_was_collected_is_cached_for_later_runs_and_previews(server: MockLLM) -> None:
    collected(server, parked(pipeline()))
    again = ended(pipeline().start(new=True))
    assert again.status().step("answer").cached == 12
    pipeline().preview(3)
    assert len(server.jobs()) == 1
    assert "/chat/completions" not in server.stats()["by_path"]


def test_a_preview_asks_at_once(server: MockLLM) -> None:
    preview = pipeline(n_rows=3).preview(3)
    assert all(row["generations"] for row in preview["answer"].to_pandas().to_dict("records"))
    assert server.jobs() == []
    assert server.stats()["by_path"]["/chat/completions"] == 3


# --- killed ---------------------------------------------------------------------


def start_elsewhere(home: Path, kind: str) -> tuple[subprocess.Popen[str], str]:
    """Start a run from a kernel of its own; return that process and the run's id."""
    program = (
        "import sys, time\n"
        "from tests.test_run_offline import model, pipeline\n"
        f"print(pipeline(model({kind!r})).start().id, flush=True)\n"
        "time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    kernel = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert kernel.stdout is not None
    return kernel, kernel.stdout.readline().strip()


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_a_parked_run_is_killed_with_its_kernel_and_collected_by_a_new_process(
    server: MockLLM, home: Path, kind: str
) -> None:
    kernel, run_id = start_elsewhere(home, kind)
    try:
        run = attach(run_id)
        wait_for(run, is_parked)
    finally:
        kernel.kill()
        kernel.communicate()
    kill_all(run)
    until(lambda: run.status().state == "lost")  # the lock of a dead process goes a moment after it
    assert f"left with the provider: job {server.jobs()[0]['id']}" in repr(run)
    server.order(end="completed")
    attach(run_id).resume()
    ended(run)
    assert answered(run) == 12
    assert run.status().step("answer").asked == 12
    assert run.status().step("answer").input_tokens > 0
    assert [job["n"] for job in server.jobs()] == [12]


def test_a_run_that_left_its_job_says_so_until_another_run_has_collected_it(server: MockLLM) -> None:
    first = parked(pipeline())
    first.stop()
    ended(first)
    assert [job.id for job in first.status().jobs] == [server.jobs()[0]["id"]]
    second = parked(pipeline(), new=True)
    assert "left with the provider" in repr(first)
    collected(server, second)
    assert answered(second) == 12
    assert first.status().jobs == ()
    assert "left with the provider" not in repr(first)


@pytest.mark.parametrize("victim", ["ask_worker", "runner"])
def test_whoever_is_killed_while_a_job_is_parked_it_is_handed_over_once(server: MockLLM, victim: str) -> None:
    run = parked(pipeline())
    if victim == "runner":
        os.kill(worker_pids(run)["runner"], signal.SIGKILL)
        assert wait_until_gone(Path(run.path)) == []
        run.resume()
    else:
        kill_worker(run, victim)
    wait_for(run, is_parked)
    collected(server, run)
    assert answered(run) == 12
    assert len(server.jobs()) == 1


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_a_job_whose_creation_was_not_recorded_is_found_again(server: MockLLM, kind: str) -> None:
    server.order(arm={"hang": 1})
    run = pipeline(model(kind)).start()
    until(server.jobs)  # it is there, and nobody was told
    kill_worker(run, "ask_worker")
    if kind == "anthropic":  # whose job it is shows at its end
        wait_for(run, lambda run: "may be at the provider" in repr(run))
    server.order(end="completed")
    assert run.wait(SETTLED_S).state == "finished", repr(run)
    assert answered(run) == 12
    assert len(server.jobs()) == 1


def test_a_creation_that_surely_failed_is_tried_again(server: MockLLM) -> None:
    server.order(arm={"busy": 1})
    run = pipeline().start()
    assert server.jobs() == []
    wait_for(run, is_parked, SETTLED_S)
    collected(server, run)
    assert len(server.jobs()) == 1


def test_a_connection_that_breaks_while_a_job_is_created_costs_no_second_job(server: MockLLM) -> None:
    server.order(arm={"lose": 1})
    run = parked(pipeline())
    collected(server, run)
    assert answered(run) == 12
    assert len(server.jobs()) == 1


# --- stopped --------------------------------------------------------------------


def test_stop_leaves_the_job_and_resume_collects_it(server: MockLLM) -> None:
    run = parked(pipeline())
    run.stop()
    ended(run)
    assert run.status().state == "stopped"
    assert "run.resume() collects it" in repr(run)
    server.order(end="completed")
    run.resume()
    ended(run)
    assert answered(run) == 12
    assert len(server.jobs()) == 1


def test_a_paused_run_hands_nothing_over_but_waits_on(server: MockLLM) -> None:
    run = pipeline().start()
    run.pause()
    wait_for(run, lambda run: run.status().state == "paused")
    time.sleep(1.0)  # longer than it would take to gather
    if not server.jobs():  # else the pause came too late to see it
        run.resume()
        wait_for(run, is_parked)
    run.pause()
    server.order(end="completed")
    run.resume()
    ended(run)
    assert len(server.jobs()) == 1


def test_abort_with_cancel_jobs_ends_them_and_resume_takes_what_they_did(server: MockLLM) -> None:
    run = parked(pipeline())
    run.abort(cancel_jobs=True)
    (job,) = server.jobs()
    assert job["status"] == "cancelling"
    assert f"job {job['id']}: cancelled" in run.note
    server.order(end="cancelled", done=5)
    run.resume()
    until(lambda: len(server.jobs()) == 2)
    assert [job["n"] for job in server.jobs()] == [12, 7]
    collected(server, run)
    assert answered(run) == 12


# --- failures -------------------------------------------------------------------


def test_refused_requests_are_quarantined_and_failed_ones_go_again(server: MockLLM) -> None:
    run = parked(pipeline(prompts=["good", "[[filter]]", "later [[500x1]]", "never [[500]]"]))
    server.order(end="completed")
    until(lambda: len(server.jobs()) == 2)
    assert server.jobs()[1]["n"] == 2  # the refused one is not among them
    server.order(end="completed")
    until(lambda: len(server.jobs()) == 3)
    collected(server, run)
    assert answered(run) == 2
    errors = {row["row"]: row for row in run.errors().to_dict("records")}
    assert errors.keys() == {1, 3}
    assert errors[1]["kind"] == "ContentFilterError"
    assert "flagged as violating the usage policy" in errors[1]["reason"]
    assert (errors[3]["kind"], errors[3]["attempts"]) == ("ServerError", 3)
    step = run.status().step("answer")
    assert (step.asked, step.retries) == (4 + 2 + 1, 3)


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_what_a_job_did_not_come_to_before_it_expired_goes_again(server: MockLLM, kind: str) -> None:
    run = parked(pipeline(model(kind)))
    server.order(end="expired", done=5)
    until(lambda: len(server.jobs()) == 2)
    assert [job["n"] for job in server.jobs()] == [12, 7]
    collected(server, run)
    assert answered(run) == 12
    assert server.stats()["duplicate_prompts_after_ok"] == 0


def test_a_job_that_somebody_cancels_at_the_provider_is_not_handed_over_again(server: MockLLM) -> None:
    run = parked(pipeline(n_rows=3))
    collected(server, run, end="cancelled", done=1)
    assert run.status().state == "finished"
    assert list(run.errors()["kind"]) == ["RefusedRequestError"] * 2
    assert "was cancelled there" in run.errors()["reason"][0]
    assert len(server.jobs()) == 1
    run.retry()
    until(lambda: len(server.jobs()) == 2)
    collected(server, run)
    assert answered(run) == 3


def test_a_wrong_key_is_refused_before_anything_is_handed_over(
    server: MockLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    run = ended(pipeline().start())
    assert run.status().state == "failed"
    assert "AuthenticationError" in run.status().error
    assert server.jobs() == []
    by_path = server.stats()["by_path"]
    assert {name: n for name, n in by_path.items() if name.startswith("jobs")} == {"jobs/list": 1}


def test_a_server_without_jobs_is_told_at_once(server: MockLLM) -> None:
    llm = model(base_url=server.base_url.removesuffix("/v1") + "/vllm/v1", api_key=CANARY)
    run = ended(pipeline(llm).start())
    assert run.status().state == "failed"
    assert "takes no offline batches" in run.status().error


def test_a_model_that_does_not_exist_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with mock_llm(known_models_only=True, models=("other",)) as server:
        run = ended(pipeline(model(base_url=server.base_url, api_key="k")).start())
    assert run.status().step("answer").failed == 12
    assert "not supported by the Batch API" in run.errors()["reason"][0]


def test_too_much_waiting_at_the_provider_makes_smaller_jobs(server: MockLLM) -> None:
    server.order(arm={"crowded": 1})
    run = pipeline().start()
    until(lambda: len(server.jobs()) == 2)
    assert [job["n"] for job in server.jobs()] == [12, 6]
    time.sleep(0.5)
    assert len(server.jobs()) == 2  # one after the other
    server.order(end="completed")
    until(lambda: len(server.jobs()) == 3)
    collected(server, run)
    assert answered(run) == 12


def test_a_way_to_force_a_shape_that_is_refused_is_left_in_the_next_job() -> None:
    with mock_llm(refuses=("json_schema",)) as server:
        llm = model(base_url=server.base_url, api_key="k")
        run = ended(pipeline(llm, schema=SCHEMA).start())
        assert answered(run) == 12, repr(run)
        assert [job["n"] for job in server.jobs()] == [12, 12]


# --- shared, split --------------------------------------------------------------


def test_two_runs_that_want_the_same_wait_for_one_job(server: MockLLM) -> None:
    llm = model(generation_kwargs={"temperature": 0.0})
    first = parked(pipeline(llm))
    second = parked(pipeline(llm), new=True)
    (job,) = server.jobs()
    assert second.status().jobs[0].id == job["id"]
    assert f"handed over by {first.id}" in repr(second)
    server.order(end="completed")
    for run in (first, second):
        assert answered(ended(run)) == 12
    assert len(server.jobs()) == 1
    steps = [run.status().step("answer") for run in (first, second)]
    assert sum(step.input_tokens for step in steps) == server.stats()["prompt_tokens"]
    assert (steps[0].asked, steps[1].cached) == (12, 12)


def test_a_run_takes_over_the_job_of_one_that_was_stopped_and_keeps_it_from_being_cancelled(
    server: MockLLM,
) -> None:
    llm = model(generation_kwargs={"temperature": 0.0})
    first, second = parked(pipeline(llm)), parked(pipeline(llm), new=True)
    first.abort(cancel_jobs=True)
    assert f"kept, because {second.id} waits for it too" in first.note
    collected(server, second)
    assert answered(second) == 12
    assert [job["status"] for job in server.jobs()] == ["completed"]
    first.resume()
    assert answered(ended(first)) == 12


def test_a_run_that_wants_more_waits_for_the_job_and_hands_over_the_rest(server: MockLLM) -> None:
    llm = model(generation_kwargs={"temperature": 0.0})
    first = parked(pipeline(llm, n_rows=5))
    second = pipeline(llm, n_rows=12).start()
    until(lambda: len(server.jobs()) == 2)
    assert [job["n"] for job in server.jobs()] == [5, 7]
    server.order(end="completed")
    assert (answered(ended(first)), answered(ended(second))) == (5, 12)


def test_ten_thousand_requests_are_split_by_the_limit_of_a_job(server: MockLLM) -> None:
    run = pipeline(model(offline_batch_size=4_000), n_rows=10_000).start()
    until(lambda: len(server.jobs()) == 3)
    wait_for(run, lambda run: len(run.status().jobs) == 3 and is_parked(run))
    assert sorted(job["n"] for job in server.jobs()) == [2_000, 4_000, 4_000]
    names = [name for job in server.jobs() for name in job["names"]]
    assert len(set(names)) == 10_000
    collected(server, run)
    assert run.status().step("answer").done == 10_000
    assert server.stats()["duplicate_prompts_after_ok"] == 0


def test_two_models_that_meet_park_side_by_side(server: MockLLM) -> None:
    llms = [model(), model(model="other-model")]
    rows = [{"instruction": f"Say {number}"} for number in range(6)]
    run = Pipeline("pair").from_dicts(rows).generate(llm=llms, into="generations").start()
    until(lambda: len(server.jobs()) == 2)
    server.order(end="completed")
    ended(run)
    assert [len(row["generations"]) for row in run.rows_of_leaf("generate")] == [2] * 6


# --- money, keys, refusals ------------------------------------------------------


def test_a_batch_costs_what_its_discount_leaves_and_counts_against_the_budget(server: MockLLM) -> None:
    llm = model(price=(1000.0, 1000.0), offline_batch_discount=0.5)
    run = collected(server, parked(pipeline(llm, n_rows=4)))
    step = run.status().step("answer")
    assert step.cost_usd == pytest.approx((step.input_tokens + step.output_tokens) * 500.0 / 1e6)
    assert run.status().cost_usd == step.cost_usd


def test_a_budget_lets_only_as_much_into_a_job_as_it_may_cost(server: MockLLM) -> None:
    llm = model(generation_kwargs={"max_new_tokens": 90})
    run = parked(pipeline(llm), max_tokens=420)
    (job,) = server.jobs()
    assert 0 < job["n"] < 12
    server.order(end="completed")
    until(lambda: run.status().is_ended or len(server.jobs()) > 1)
    while not run.status().is_ended:
        server.order(end="completed")
        run.wait(0.5)
    status = run.status()
    assert status.state == "stopped"
    assert status.reason.startswith("budget")
    assert sum(step.input_tokens + step.output_tokens for step in status.steps) <= 420


def test_no_key_is_in_what_a_job_leaves_on_disk_or_at_the_provider(server: MockLLM, home: Path) -> None:
    run = parked(pipeline())
    files = [path for path in home.rglob("*") if path.is_file()]
    assert any(path.parent.name == "jobs" and path.suffix == ".jsonl" for path in files)
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
    assert CANARY not in str(server.jobs())
    assert all(CANARY not in str(seen["body"]) for seen in server.seen())
    assert list(server.jobs()[0]["metadata"]) == ["distilnb_job"]
    collected(server, run)
    assert list((home / "cache" / "jobs").iterdir()) == []


def test_without_the_reply_cache_there_is_nothing_to_collect_into(server: MockLLM) -> None:
    with pytest.raises(InputError, match="cache"):
        pipeline().start(cache="off")


def test_a_job_that_the_provider_does_not_know_is_not_handed_over_again(server: MockLLM) -> None:
    run = parked(pipeline())
    run.stop()
    ended(run)
    name = server.jobs()[0]["id"]
    server.reset()
    run.resume()
    ended(run)
    assert "JobNotFoundError" in run.status().error
    assert name in run.status().error
    assert server.jobs() == []
    run.abort(cancel_jobs=True)
    assert "forgotten" in run.note
    run.resume()
    until(server.jobs)  # what the status says may still be of the run's life before
    collected(server, run)
    assert answered(run) == 12


def test_the_command_line_shows_and_cancels_jobs(server: MockLLM, capsys: pytest.CaptureFixture[str]) -> None:
    run = parked(pipeline())
    (job,) = server.jobs()
    app(["runs"], standalone_mode=False)
    assert f"parked: job {job['id']}" in capsys.readouterr().out
    app(["stop", run.id, "--cancel-jobs"], standalone_mode=False)
    assert f"job {job['id']}: cancelled" in capsys.readouterr().out
    assert run.status().state == "stopped"
    assert server.jobs()[0]["status"] == "cancelling"


def test_a_job_that_cannot_be_cancelled_is_named(server: MockLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    run = parked(pipeline())
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    with pytest.raises(RunError, match=str(server.jobs()[0]["id"])):
        run.abort(cancel_jobs=True)
    assert run.status().state == "stopped"

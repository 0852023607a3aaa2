"""Limits of a live run: raised and lowered while it runs, kept for a resume, over the whole life of the run."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from distilnb.engine import events
from distilnb.errors import DistilnbError, InputError, RunError, UnknownPriceError, UnknownStepError
from distilnb.llms.openai import OpenAILLM
from distilnb.pipeline import Pipeline
from distilnb.run import Run, attach
from tests.conftest import processes_of, wait_until_gone
from tests.runs import kill_worker, wait_for, worker_pids
from tests.servers import MockLLM, mock_llm

N_ROWS = 250
INF = float("inf")


@pytest.fixture
def server() -> Iterator[MockLLM]:
    with mock_llm(latency_ms=40) as running:
        yield running


def pipeline(server: MockLLM, n_rows: int = N_ROWS, concurrency: int = 4, **options: Any) -> Pipeline:
    llm = OpenAILLM(model="m", base_url=server.base_url, max_concurrency=concurrency, **options)
    rows = [{"i": i} for i in range(n_rows)]
    return Pipeline("limits", llm=llm).from_dicts(rows).generate(prompt="Say {{ i }}.").map(same, makes=["j"])


def same(i: int) -> dict[str, int]:
    return {"j": i}


def some_are_done(run: Run) -> bool:
    return run.status().step("generate").done >= 8


def has_done(run: Run, n_rows: int) -> bool:
    return run.status().step("generate").done >= n_rows


def is_adjusted(run: Run) -> bool:
    return any(isinstance(event, events.Adjusted) for event in run.events())


# --- of a model ---


def test_concurrency_is_raised_past_what_the_worker_was_given(server: MockLLM) -> None:
    run = pipeline(server, 1500).start()
    wait_for(run, some_are_done)
    assert server.stats()["max_in_flight"] <= 4
    run.adjust(max_concurrency=100)  # more than the 64 rows that a small model's worker has at a time
    wait_for(run, lambda _: server.stats()["max_in_flight"] > 64)
    assert run.wait(60).state == "finished"
    assert server.stats()["max_in_flight"] <= 100
    assert server.stats()["requests"] == 1500


def in_flight_for_a_while(server: MockLLM) -> int:
    """Return the most in flight over many looks: between two waves of equal latency it is few at any limit."""
    most = 0
    for _ in range(20):
        most = max(most, server.stats()["in_flight"])
        time.sleep(0.02)
    return most


def test_concurrency_is_lowered_and_those_who_wait_are_not_lost(server: MockLLM) -> None:
    run = pipeline(server, 300, concurrency=32).start()
    wait_for(run, lambda _: server.stats()["max_in_flight"] >= 16)
    status = run.adjust("generate", max_concurrency=3)
    assert status.limits.models["generate"]["max_concurrency"] == 3
    wait_for(run, lambda _: in_flight_for_a_while(server) <= 3)
    seen = []
    while not run.status().is_ended:
        seen.append(server.stats()["in_flight"])
        if len(seen) == 100:
            run.adjust(max_concurrency=32)
    assert len(seen) > 100
    assert max(seen[:90]) <= 3
    assert run.wait(60).state == "finished"
    assert list(run.to_pandas()["i"]) == list(range(300))
    assert server.stats()["requests"] == 300


def test_requests_per_minute_are_set_and_lifted(server: MockLLM) -> None:
    run = pipeline(server, 120, rpm=60).start()
    wait_for(run, lambda run: run.status().step("generate").done >= 2)
    run.adjust(rpm=INF)
    wait_for(run, lambda run: run.status().step("generate").done >= 60)
    run.adjust(rpm=30)
    wait_for(run, lambda run: len([e for e in run.events() if isinstance(e, events.Adjusted)]) == 2)
    wait_for(run, lambda _: server.stats()["in_flight"] == 0)
    before = server.stats()["requests"]
    run.wait(1.5)
    assert server.stats()["requests"] <= before + 2
    run.adjust(rpm=INF)
    assert run.wait(30).state == "finished"
    assert server.stats()["requests"] == 120


def test_changed_limits_hold_after_a_kill_and_a_resume(server: MockLLM, home: Path) -> None:
    run = pipeline(server, concurrency=2).start()
    wait_for(run, some_are_done)
    run.adjust(max_concurrency=24)
    wait_for(run, is_adjusted)
    os.kill(worker_pids(run)["runner"], signal.SIGKILL)
    assert wait_until_gone(home) == []
    server.reset()
    again = attach(run.id)
    assert again.status().limits.models["generate"]["max_concurrency"] == 24
    again.resume()
    assert again.wait(60).state == "finished"
    assert 12 <= server.stats()["max_in_flight"] <= 24


def test_a_restarted_worker_has_the_changed_limits(server: MockLLM) -> None:
    run = pipeline(server, concurrency=32).start()
    wait_for(run, some_are_done)
    run.adjust(max_concurrency=2)
    wait_for(run, is_adjusted)
    os.kill(worker_pids(run)["ask_worker"], signal.SIGKILL)
    wait_for(run, lambda _: server.stats()["in_flight"] == 0)
    server.reset()
    wait_for(run, lambda _: server.stats()["requests"] >= 10)
    assert server.stats()["max_in_flight"] <= 2
    run.abort()
    run.wait(30)


def test_a_step_is_adjusted_alone_and_equal_models_together(server: MockLLM) -> None:
    writer = OpenAILLM(model="writer", base_url=server.base_url, max_concurrency=4)
    judge = OpenAILLM(model="judge", base_url=server.base_url, max_concurrency=4)
    p = Pipeline("several").from_dicts([{"i": i} for i in range(100)])
    for name, llm in (("one", writer), ("two", judge), ("three", writer)):
        p = p.generate(name, "Say {{ i }}" + name, llm=llm, into=name)
    run = p.start()
    limits = run.adjust("three", max_concurrency=7, tpm=1000).limits.models
    assert {name: of["max_concurrency"] for name, of in limits.items()} == {"one": 7, "two": 4, "three": 7}
    assert limits["one"]["tpm"] == 1000
    wait_for(run, is_adjusted)
    (told,) = [event for event in run.events() if isinstance(event, events.Adjusted)]
    assert told.steps == ["one", "three"]
    assert told.changes == {"max_concurrency": 7, "tpm": 1000}
    run.abort()
    run.wait(30)


def test_refusals_are_told_at_most_once_a_second() -> None:
    with mock_llm(max_concurrency=2, latency_ms=20, retry_after=0.05) as server:
        run = pipeline(server, 150, concurrency=32, max_retries=100).start()
        status = run.wait(60)
        assert status.state == "finished"
        told = [event for event in run.events() if isinstance(event, events.Limited)]
        assert told
        assert told[0].model == "openai:m"
        assert sum(event.n_refused for event in told) <= server.stats()["rejected_429"]
        assert (status.ended_at or 0) - status.started_at + 1 >= len(told)
        assert all(later.at - event.at > 0.5 for event, later in itertools.pairwise(told))


@pytest.mark.parametrize(
    "step, limits, error, told",
    [
        (None, {}, InputError, "No limit was given"),
        ("genrate", {"rpm": 5}, UnknownStepError, "Did you mean 'generate'?"),
        ("map", {"rpm": 5}, InputError, r"Step 'map' asks no model; these do: \['generate'\]"),
        (None, {"rpm": -1}, InputError, r"rpm is -1.\nGive a whole number above 0, or float\('inf'\)"),
        (
            None,
            {"max_concurrency": 0},
            InputError,
            "max_concurrency is 0.\nGive a whole number above 0, or leave",
        ),
        (None, {"max_concurrency": INF}, InputError, "max_concurrency is inf"),
        (None, {"max_concurrency": 2.5}, InputError, "max_concurrency is 2.5"),
        (None, {"tpm": True}, InputError, "tpm is True"),
        (None, {"max_cost": float("nan")}, InputError, "max_cost is nan"),
        (None, {"max_cost": -0.5}, InputError, "max_cost is -0.5.\nGive a number above 0"),
        (None, {"max_time": "1h"}, InputError, "max_time is '1h'"),
        (None, {"max_tokens": 1.5}, InputError, "max_tokens is 1.5"),
    ],
)
def test_wrong_values_are_told(
    server: MockLLM, step: str | None, limits: dict[str, Any], error: type[DistilnbError], told: str
) -> None:
    run = pipeline(server).start()
    with pytest.raises(error, match=told):
        run.adjust(step, **limits)
    run.abort()
    run.wait(30)
    assert not is_adjusted(run)


def test_what_cannot_be_adjusted_says_so(server: MockLLM) -> None:
    run = Pipeline("cheap").from_dicts([{"i": 1}]).map(same, makes=["j"]).start()
    with pytest.raises(InputError, match="No step of the run asks a model"):
        run.adjust(max_concurrency=3)
    run.wait(30)
    with pytest.raises(RunError, match="is finished"):
        run.adjust(max_time=3)


def test_a_budget_needs_prices(server: MockLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    run = pipeline(server).start()
    monkeypatch.setattr("distilnb.llms.prices.price_of", lambda llm: None)
    with pytest.raises(
        UnknownPriceError, match="the price of openai:m, which step 'generate' asks, is unknown"
    ):
        run.adjust(max_cost=3)
    run.adjust(max_tokens=10**9)
    run.abort()
    run.wait(30)


# --- the budget ---


def test_a_budget_holds_over_resumes_and_says_so_before_it_starts_anything(
    server: MockLLM, home: Path
) -> None:
    sample = pipeline(server, 4, price=(1.0, 1.0)).start(new=True)
    row_cost = (sample.wait(30).cost_usd or 0) / 4
    run = pipeline(server, price=(1.0, 1.0), concurrency=8).start(max_cost=row_cost * 100)
    wait_for(run, some_are_done)
    run.stop()
    spent = run.wait(30).cost_usd or 0
    assert 0 < spent < row_cost * 100
    run.resume()
    status = run.wait(60)
    assert (status.state, status.reason.partition(":")[0]) == ("stopped", "budget")
    assert spent < (status.cost_usd or 0) <= row_cost * 100
    assert wait_until_gone(home) == []
    n_events, n_requests = len(run.events()), server.stats()["requests"]
    with pytest.raises(RunError, match=r"was stopped by max_cost .*\nRaise it first: run.adjust\(max_cost="):
        run.resume()
    run.adjust(max_cost=row_cost * 50)
    with pytest.raises(RunError, match="was stopped by max_cost"):
        run.resume()
    assert processes_of(Path(run.path)) == []
    assert (len(run.events()), server.stats()["requests"]) == (n_events, n_requests)
    assert run.adjust(max_cost=row_cost * 10_000).state == "stopped"
    run.resume()
    assert run.wait(60).state == "finished"
    assert list(run.to_pandas()["i"]) == list(range(N_ROWS))
    assert server.stats()["duplicate_prompts_after_ok"] == 0


def test_a_budget_that_is_lowered_while_it_runs_stops_at_what_is_in_flight(server: MockLLM) -> None:
    run = pipeline(server, concurrency=8).start()
    wait_for(run, some_are_done)
    status = run.status()
    spent = status.step("generate").input_tokens + status.step("generate").output_tokens
    per_row = spent / status.step("generate").done
    run.adjust(max_tokens=spent)
    status = run.wait(30)
    assert status.state == "stopped"
    assert status.reason == f"budget: max_tokens {spent}"
    n_sent = server.stats()["requests"]
    assert status.step("generate").done == n_sent < N_ROWS
    used = status.step("generate").input_tokens + status.step("generate").output_tokens
    assert (
        used <= spent + per_row * 8 * 6
    )  # what was done until the command was taken, and what was in flight
    run.adjust(max_tokens=INF)
    run.resume()
    assert run.wait(60).state == "finished"
    assert server.stats()["requests"] == N_ROWS


def test_a_budget_is_not_passed_however_often_workers_are_killed(server: MockLLM) -> None:
    run = pipeline(server, concurrency=8).start(max_tokens=6000)
    for n_done in (8, 32, 56):
        wait_for(run, partial(has_done, n_rows=n_done))
        kill_worker(run, "ask_worker")
    status = run.wait(60)
    assert status.state == "stopped"
    used = status.step("generate").input_tokens + status.step("generate").output_tokens
    assert 0 < used <= 6000


def test_time_is_up_over_the_whole_life_and_can_be_extended(server: MockLLM) -> None:
    run = pipeline(server, concurrency=1).start(max_time=2)
    began = time.monotonic()
    status = run.wait(30)
    assert time.monotonic() - began >= 2
    assert (status.state, status.reason) == ("stopped", "time: max_time 2 s")
    assert status.ran_s >= 2
    assert "at most 0:02" in repr(run)
    with pytest.raises(RunError, match=r"was stopped by max_time 2"):
        run.resume()
    n_done = status.step("generate").done
    assert 0 < n_done < N_ROWS
    run.adjust(max_time=5)
    run.resume()
    status = run.wait(30)
    assert status.reason == "time: max_time 5 s"
    assert n_done < status.step("generate").done < N_ROWS
    run.adjust(max_time=INF, max_concurrency=32)
    run.resume()
    assert run.wait(60).state == "finished"
    assert server.stats()["requests"] == N_ROWS


def test_a_changed_limit_makes_no_equal_start_another_run(server: MockLLM) -> None:
    run = pipeline(server).start(max_time=100)
    run.adjust(max_time=200)
    assert pipeline(server).start(max_time=100).id == run.id
    other = pipeline(server).start(max_time=200)
    assert other.id != run.id
    for one in (run, other):
        one.abort()
        one.wait(30)


def test_tokens_stay_below_their_limit_and_the_run_goes_on_when_it_is_raised() -> None:
    with mock_llm(latency_ms=20, tokens=40, tokens_sigma=0.8) as server:
        p = pipeline(server, 200, concurrency=8, generation_kwargs={"max_new_tokens": 60})
        run = p.start(max_tokens=2000)
        status = run.wait(60)
        assert (status.state, status.reason) == ("stopped", "budget: max_tokens 2000")
        told = server.stats()
        assert 1000 < told["prompt_tokens"] + told["completion_tokens"] <= 2000
        again = attach(run.id)
        assert "at most 2k tokens" in repr(again)
        with pytest.raises(RunError, match="was stopped by max_tokens 2000"):
            again.resume()
        again.adjust(max_tokens=10**6)
        again.resume()
        assert again.wait(60).state == "finished"
        assert server.stats()["requests"] == 200


def test_replies_longer_than_was_thought_are_set_aside_for_once_one_was_seen() -> None:
    with mock_llm(latency_ms=20, tokens=1500) as server:
        run = pipeline(server, 100, concurrency=1).start(max_tokens=10_000)
        assert run.wait(60).state == "stopped"
        assert server.stats()["completion_tokens"] <= 10_000

"""Members of pools, chains of backups and mixtures that go by offline batch, beside others that are asked at once."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from distilnb.engine.plan import OFFLINE_WINDOW
from distilnb.errors import InputError, SpecError
from distilnb.llms import LLMPool, MixtureOfAgentsLLM, OpenAILLM
from distilnb.llms.base import LLM
from distilnb.llms.openai_images import OpenAIImageGeneration
from distilnb.pipeline import Pipeline
from distilnb.run import Run
from tests.runs import PATIENCE_S, wait_for
from tests.servers import MockLLM, mock_llm

DEAD = "http://127.0.0.1:9/v1"  # the discard port: nothing listens there
N_ROWS = 12


@pytest.fixture(scope="module")
def holding() -> Iterator[MockLLM]:
    with mock_llm(hold_jobs=True, vary=True) as running:
        yield running


@pytest.fixture
def server(holding: MockLLM) -> MockLLM:
    holding.reset()
    return holding


def direct(server: MockLLM, name: str = "direct", **fields: Any) -> OpenAILLM:
    return OpenAILLM(model=name, **{"base_url": server.base_url, "max_retries": 0, **fields})


def offline(server: MockLLM, name: str = "offline", **fields: Any) -> OpenAILLM:
    return direct(server, name, **{"offline_batch": True, "offline_batch_poll": 0.05, **fields})


def asks(llm: LLM, k: int = 1) -> Pipeline:
    rows = [{"instruction": f"Say {number}"} for number in range(N_ROWS)]
    return Pipeline("mixed").from_dicts(rows).generate("answer", llm=llm, k=k)


def parked(run: Run) -> bool:
    return run.status().is_parked and all(job.state == "parked" for job in run.status().jobs)


def collected(server: MockLLM, run: Run) -> Run:
    server.order(end="completed")
    assert run.wait(PATIENCE_S).state == "finished", repr(run)
    return run


def models_of(run: Run) -> list[list[str]]:
    return [list(models) for models in run.rows("answer")["generation_models"]]


def jobs_of(server: MockLLM) -> list[int]:
    return [job["n"] for job in server.jobs()]


def test_a_member_of_a_pool_goes_by_batch_and_the_other_is_asked_at_once(server: MockLLM) -> None:
    run = asks(LLMPool(llms=[offline(server), direct(server)]), k=2).start()
    wait_for(run, parked)
    assert jobs_of(server) == [N_ROWS]
    assert server.stats()["by_model"]["direct"] == N_ROWS
    collected(server, run)
    assert models_of(run) == [["offline", "direct"]] * N_ROWS
    step = run.status().step("answer")
    assert (step.asked, step.retries, step.cached, step.failed) == (2 * N_ROWS, 0, 0, 0)


def test_a_run_counts_each_member_at_its_own_price(server: MockLLM) -> None:
    prices = {"price": (1_000.0, 1_000.0)}
    members = [offline(server, offline_batch_discount=1.0, **prices), direct(server, **prices)]
    run = asks(LLMPool(llms=members, n=1)).start()
    wait_for(run, parked)
    collected(server, run)
    n_direct = models_of(run).count(["direct"])
    assert 0 < n_direct < N_ROWS
    stories = [run.why(number).story for number in range(N_ROWS)]
    costs = [
        question.cost_usd or 0.0 for story in stories for one in story.chapters for question in one.questions
    ]
    assert sorted(costs)[: N_ROWS - n_direct] == [0.0] * (N_ROWS - n_direct)  # the provider takes all off
    assert run.status().cost_usd == pytest.approx(sum(costs))
    assert run.status().cost_usd > 0


def test_a_killed_worker_s_follower_makes_no_second_job_for_a_pool(server: MockLLM) -> None:
    run = asks(LLMPool(llms=[offline(server), direct(server)]), k=2).start()
    wait_for(run, parked)
    run.abort()
    run.wait(PATIENCE_S)
    run.resume()
    wait_for(run, parked)
    collected(server, run)
    assert jobs_of(server) == [N_ROWS]
    assert server.stats()["by_model"]["direct"] == N_ROWS
    assert run.status().step("answer").asked == 2 * N_ROWS


def test_a_backup_by_batch_answers_for_a_model_that_is_not_there(server: MockLLM) -> None:
    run = asks(direct(server, base_url=DEAD) | offline(server)).start()
    wait_for(run, parked)
    assert sum(jobs_of(server)) == N_ROWS
    collected(server, run)
    assert models_of(run) == [["offline"]] * N_ROWS
    assert run.status().step("answer").stood_in == N_ROWS


class _Recovering(http.server.BaseHTTPRequestHandler):
    """A model that fails until it is up."""

    is_up: ClassVar[bool] = False
    n_asked: ClassVar[int] = 0

    def do_POST(self) -> None:
        type(self).n_asked += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        said = {"choices": [{"message": {"role": "assistant", "content": "I am back."}}], "model": "first"}
        body = json.dumps(said if self.is_up else {"error": {"message": "down"}}).encode()
        self.send_response(200 if self.is_up else 500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def recovering() -> Iterator[str]:
    _Recovering.is_up, _Recovering.n_asked = False, 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Recovering) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_address[1]}/v1"
        served.shutdown()
        thread.join()


def test_a_row_that_waits_for_its_backup_s_job_waits_on_after_a_kill_though_the_first_model_is_back(
    server: MockLLM, recovering: str
) -> None:
    run = asks(direct(server, "first", base_url=recovering) | offline(server)).start()
    wait_for(run, parked)
    assert sum(jobs_of(server)) == N_ROWS
    run.abort()
    run.wait(PATIENCE_S)
    _Recovering.is_up, _Recovering.n_asked = True, 0
    run.resume()
    wait_for(run, parked)
    collected(server, run)
    assert _Recovering.n_asked == 0
    assert models_of(run) == [["offline"]] * N_ROWS
    assert run.status().step("answer").stood_in == N_ROWS
    again = asks(direct(server, "first", base_url=recovering) | offline(server)).start(new=True)
    again.wait(PATIENCE_S)
    assert again.status().step("answer").cached == N_ROWS
    assert _Recovering.n_asked == 0


def test_what_a_job_does_not_bring_a_backup_is_asked_for_at_once(server: MockLLM) -> None:
    run = asks(offline(server) | direct(server)).start()
    wait_for(run, parked)
    server.order(end="cancelled", done=5)
    assert run.wait(PATIENCE_S).state == "finished", repr(run)
    names = [models[0] for models in models_of(run)]
    assert (names.count("offline"), names.count("direct")) == (5, N_ROWS - 5)


def test_a_mixture_hands_one_job_over_for_each_of_its_turns(server: MockLLM) -> None:
    mixture = MixtureOfAgentsLLM(
        aggregator_llm=offline(server, "judge"), proposers_llms=[offline(server, "a"), direct(server, "b")]
    )
    run = asks(mixture).start()
    wait_for(run, parked)
    assert jobs_of(server) == [N_ROWS]
    server.order(end="completed")
    wait_for(run, lambda run: len(server.jobs()) == 2)
    wait_for(run, parked)
    collected(server, run)
    assert jobs_of(server) == [N_ROWS, N_ROWS]
    assert models_of(run) == [["judge"]] * N_ROWS


def test_answers_that_come_one_by_one_wait_for_each_other_before_they_are_handed_on() -> None:
    """One request at a time, each longer than the time without a new one after which a job is handed over."""
    with mock_llm(hold_jobs=True, latency_ms=700) as slow:
        mixture = MixtureOfAgentsLLM(
            aggregator_llm=offline(slow, "judge"),
            proposers_llms=[direct(slow, "slow", max_concurrency=1)],
        )
        run = asks(mixture).start(rows=4)
        wait_for(run, parked)
        assert jobs_of(slow) == [4]
        collected(slow, run)


def test_a_wrong_key_of_one_member_ends_the_run_before_a_job_is_waited_for(server: MockLLM) -> None:
    with mock_llm(require_key="right") as strict:
        wrong = direct(strict, "strict", api_key="wrong")
        run = asks(LLMPool(llms=[offline(server), wrong]), k=2).start()
        assert run.wait(PATIENCE_S).state == "failed", repr(run)
    assert "strict" in run.status().error


def test_a_preview_asks_all_members_at_once(server: MockLLM) -> None:
    asks(LLMPool(llms=[offline(server), direct(server)]), k=2).preview(2)
    assert jobs_of(server) == []


def test_a_pool_with_such_a_member_is_refused_without_the_cache(server: MockLLM) -> None:
    with pytest.raises(InputError, match="openai:offline goes by offline batch"):
        asks(LLMPool(llms=[offline(server), direct(server)])).start(cache="off")


def test_many_rows_of_a_pool_may_wait(server: MockLLM) -> None:
    pool = LLMPool(llms=[offline(server), direct(server)])
    assert pool.goes_by_batch
    assert not LLMPool(llms=[direct(server), direct(server)]).goes_by_batch
    run = asks(pool).start()
    wait_for(run, parked)
    (stage,) = [stage for stage in run._reader.plan.stages if stage.name == "answer"]
    assert (stage.is_offline, stage.window) == (True, OFFLINE_WINDOW)
    run.adjust(max_concurrency=3)
    collected(server, run)


def test_jobs_of_a_pool_s_member_can_be_called_off(server: MockLLM) -> None:
    run = asks(LLMPool(llms=[direct(server), offline(server)]), k=2).start()
    wait_for(run, parked)
    run.abort(cancel_jobs=True)
    (job,) = server.jobs()
    assert f"job {job['id']}: cancelled" in run.note
    assert job["status"] in ("cancelling", "cancelled")


def test_a_quote_for_a_pool_counts_the_member_that_goes_by_batch_at_its_price(server: MockLLM) -> None:
    free = offline(server, price=(1.0, 1.0), offline_batch_discount=1.0)
    dear = direct(server, price=(1.0, 1.0))
    half, whole = (
        asks(LLMPool(llms=[one, dear]), k=2).estimate() for one in (free, direct(server, price=(1.0, 1.0)))
    )
    assert half.cost_usd.high < whole.cost_usd.high
    assert any("offline batch" in note for note in half.notes)


@pytest.mark.parametrize(
    "fields, told",
    [
        ({"base_urls": ["http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"]}, "base_urls"),
        ({"magpie_pre_query_template": "llama3"}, "pre-query template"),
    ],
)
def test_what_no_job_can_do_is_refused_by_name(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        OpenAILLM(model="m", offline_batch=True, **fields)


def test_models_that_draw_take_no_jobs() -> None:
    with pytest.raises(SpecError, match="OpenAIImageGeneration has no offline_batch"):
        OpenAIImageGeneration(model="gpt-image-1", offline_batch=True)

"""Pools, backups and mixtures in previews and runs, by the requests that each model gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import distilnb as dn
from distilnb.errors import MissingKeyError, UnknownPriceError
from distilnb.llms import LLMPool, MixtureOfAgentsLLM, OpenAILLM
from distilnb.llms.base import LLM
from distilnb.pipeline import Pipeline
from distilnb.run import Run
from tests.runs import PATIENCE_S, done, kill_worker, wait_for
from tests.servers import MockLLM, mock_llm

N_ROWS = 60
DEAD = "http://127.0.0.1:9/v1"  # the discard port: nothing listens there


@pytest.fixture(scope="module")
def shared_server() -> Iterator[MockLLM]:
    with mock_llm(vary=True, latency_ms=2) as server:
        yield server


@pytest.fixture
def server(shared_server: MockLLM) -> MockLLM:
    shared_server.reset()
    return shared_server


def model(server: MockLLM, name: str, **fields: Any) -> OpenAILLM:
    return OpenAILLM(model=name, base_url=server.base_url, **{"max_retries": 1, **fields})


def pool_of(server: MockLLM, names: str = "abc", **fields: Any) -> LLMPool:
    return LLMPool(llms=[model(server, name) for name in names], **fields)


def asks(llm: LLM | list[LLM], k: int = 1, n_rows: int = N_ROWS, mark: str = "") -> Pipeline:
    rows = [{"instruction": f"Tell {number}{mark}"} for number in range(n_rows)]
    return Pipeline("asked").from_dicts(rows).generate("answer", llm=llm, k=k)


def by_model(server: MockLLM) -> Counter[str]:
    return Counter(server.stats()["by_model"])


def counts(run: Run) -> tuple[int, int, int]:
    """Return how many rows failed, how many requests were sent, how many the cache answered."""
    step = run.status().step("answer")
    return step.failed, step.asked, step.cached


def models_of(run: Run) -> list[list[str]]:
    return [list(models) for models in run.rows("answer")["generation_models"]]


# --- pools ----------------------------------------------------------------------


@pytest.mark.parametrize("k, n", [(1, None), (2, None), (3, None), (4, None), (7, None), (3, 2), (1, 1)])
def test_k_of_n_models_answer_each_row(server: MockLLM, k: int, n: int | None) -> None:
    run = done(asks(pool_of(server, n=n), k))
    found = models_of(run)
    drawn = n or 3
    for models in found:
        shares = Counter(models)
        assert (len(models), len(shares)) == (k, min(k, drawn))
        assert sum(share > k // drawn for share in shares.values()) == k % drawn
    # One request for each model of a row, however many of its replies that model gives.
    assert by_model(server) == Counter(name for models in found for name in set(models))
    assert counts(run) == (0, sum(len(set(models)) for models in found), 0)


def test_preview_run_and_resume_draw_alike_and_a_kill_repeats_what_was_in_flight(server: MockLLM) -> None:
    slow = LLMPool(llms=[model(server, name, max_concurrency=2) for name in "abc"], weights=[1, 2, 3])
    pipeline = asks(slow, k=2, n_rows=200)
    preview = pipeline.preview(8)
    n_previewed = server.stats()["requests"]
    assert n_previewed == preview.asked == 16
    shown = preview.to_pandas()["generation_models"]
    run = pipeline.start(new=True)
    for n_rows in (30, 90):
        wait_for(run, lambda run, n=n_rows: run.status().step("answer").done > n)  # type: ignore[misc]
        kill_worker(run, "ask_worker")
    assert run.wait(PATIENCE_S).state == "finished"
    made = run.rows("answer")
    assert [made["generation_models"][row_id] for row_id in shown.index] == list(shown)
    assert run.status().step("answer").failed == 0
    n_asked = server.stats()["requests"]
    assert 400 <= n_asked <= 400 + 2 * 3 * 2  # per kill, two in flight with each of three models
    again = done(pipeline)
    assert (server.stats()["requests"], counts(again)) == (n_asked, (0, 0, 400))
    assert models_of(again) == models_of(run)


def test_a_reply_is_the_members_own_whoever_asked_it_first(server: MockLLM) -> None:
    alone = done(asks(model(server, "a")))
    assert counts(alone) == (0, N_ROWS, 0)
    server.reset()
    run = done(asks(pool_of(server), k=3))
    assert by_model(server) == {"b": N_ROWS, "c": N_ROWS}
    assert counts(run) == (0, 2 * N_ROWS, N_ROWS)
    texts = [replies[0] for replies in run.rows("answer")["generations"]]
    assert texts == [replies[0] for replies in alone.rows("answer")["generations"]]


def test_an_edited_member_asks_its_own_part_alone(server: MockLLM) -> None:
    done(asks(pool_of(server), k=2))
    before = by_model(server)
    server.reset()
    edited = LLMPool(
        llms=[
            model(server, "a"),
            model(server, "b", generation_kwargs={"temperature": 0.3}),
            model(server, "c"),
        ]
    )
    done(asks(edited, k=2))
    assert by_model(server) == {"b": before["b"]}


def test_equal_rows_are_shared_out_too(server: MockLLM) -> None:
    rows = [{"instruction": "Tell me."} for _ in range(90)]
    run = done(Pipeline("equal").from_dicts(rows).generate("answer", llm=pool_of(server)))
    shares = Counter(models[0] for models in models_of(run))
    assert by_model(server) == shares
    assert min(shares.values()) > 15
    assert len({replies[0] for replies in run.rows("answer")["generations"]}) == 90


def test_a_member_without_a_backup_fails_its_rows_and_a_retry_asks_only_it(server: MockLLM) -> None:
    run = done(
        asks(pool_of(server), k=3, n_rows=6, mark="[[500x3@b]]")
    )  # three times: both tries, and one more
    assert counts(run)[0] == 6
    assert by_model(server) == {"a": 6, "b": 12, "c": 6}
    server_before = by_model(server)
    assert run.retry().wait(PATIENCE_S).state == "finished"
    assert run.status().step("answer").failed == 0
    assert by_model(server) - server_before == {"b": 12}  # one more failure each, and the answer


def test_one_model_with_two_accounts_gives_different_replies(server: MockLLM) -> None:
    twice = LLMPool(llms=[model(server, "a", api_key="sk-1"), model(server, "a", api_key="sk-2")])
    run = done(asks(twice, k=2, n_rows=5))
    assert all(len(set(replies)) == 2 for replies in run.rows("answer")["generations"])
    assert by_model(server) == {"a": 10}
    assert counts(done(asks(model(server, "a"), k=2, n_rows=5))) == (0, 0, 5)


def test_max_cost_needs_the_price_of_each_member(server: MockLLM) -> None:
    unknown = OpenAILLM(model="nobody-knows", api_key="sk-x")
    with pytest.raises(UnknownPriceError, match="nobody-knows"):
        asks(LLMPool(llms=[model(server, "a"), unknown])).start(max_cost=1.0)


def test_each_members_price_counts(server: MockLLM) -> None:
    llms = [model(server, "a", price=(0, 1_000_000)), model(server, "b", price=(0, 10_000_000))]
    run = done(asks(LLMPool(llms=llms), k=2, n_rows=10))
    step = run.status().step("answer")
    assert step.output_tokens == 20 * 32
    assert step.cost_usd == 10 * 32 * 1 + 10 * 32 * 10


def test_a_budget_holds_for_all_members_together(server: MockLLM) -> None:
    llms = [
        model(server, name, price=(0, 1_000_000), generation_kwargs={"max_new_tokens": 32}) for name in "ab"
    ]
    run = asks(LLMPool(llms=llms), k=2).start(new=True, max_cost=400.0)
    status = run.wait(PATIENCE_S)
    assert status.state == "stopped"
    assert status.cost_usd is not None
    assert 400 - 64 <= status.cost_usd <= 400


def test_limits_are_each_members_own_and_can_be_changed_by_its_place(server: MockLLM) -> None:
    llms = [model(server, "a", max_concurrency=2), model(server, "b", max_concurrency=3)]
    run = done(asks(LLMPool(llms=llms), k=2))
    places = {place: limits["max_concurrency"] for place, limits in run.status().limits.models.items()}
    assert places == {"answer.llm.0": 2, "answer.llm.1": 3}
    assert server.stats()["max_in_flight"] <= 5
    run = asks(LLMPool(llms=llms), k=2, mark=" again").start(new=True)
    one = run.adjust("answer.llm.1", max_concurrency=9).limits.models
    assert [one[place]["max_concurrency"] for place in places] == [2, 9]
    both = run.adjust("answer", max_concurrency=4).limits.models
    assert [both[place]["max_concurrency"] for place in places] == [4, 4]
    assert run.wait(PATIENCE_S).state == "finished"


def test_models_within_models_are_limited_by_the_paths_of_their_parameters(server: MockLLM) -> None:
    inner = LLMPool(llms=[model(server, "b"), model(server, "c")])
    mixture = MixtureOfAgentsLLM(aggregator_llm=model(server, "d"), proposers_llms=[model(server, "e")])
    p = asks(LLMPool(llms=[model(server, "a"), inner, mixture]), k=1, n_rows=400)
    run = p.start(new=True)
    names = [
        "answer.llm.0",
        "answer.llm.1.0",
        "answer.llm.1.1",
        "answer.llm.2.aggregator_llm",
        "answer.llm.2.proposers_llms.0",
    ]
    try:
        assert list(run.status().limits.models) == names

        def changed(place: str, value: int) -> list[str]:
            models = run.adjust(place, max_concurrency=value).limits.models
            return [name for name in names if models[name]["max_concurrency"] == value]

        assert changed("answer.llm.1.1", 3) == names[2:3]
        assert changed("answer.llm.llms.1.llms.1", 4) == names[2:3]
        assert changed("answer.llm.1", 5) == names[1:3]
        assert changed("answer.llm.2.proposers_llms", 6) == names[4:]
        assert changed("answer", 7) == names
    finally:
        run.abort()
        run.wait(PATIENCE_S)


def test_pools_stand_in_lists_of_models_and_in_files(server: MockLLM, tmp_path: Any) -> None:
    pipeline = asks([pool_of(server, "ab"), model(server, "c")], k=2, n_rows=5)
    assert all({"c"} < set(models) <= {"a", "b", "c"} for models in models_of_join(done(pipeline)))
    pipeline.save(tmp_path / "pipeline.yaml")
    opened = dn.open(tmp_path / "pipeline.yaml")
    assert opened.graph.digest == pipeline.graph.digest
    n_asked = server.stats()["requests"]
    done(opened)
    assert server.stats()["requests"] == n_asked


def models_of_join(run: Run) -> list[list[str]]:
    return [list(models) for models in run.to_pandas()["generation_models"]]


def test_a_shape_is_kept_by_whoever_answers(server: MockLLM) -> None:
    rows = [{"instruction": f"Yes or no {number}? [[wrong@b]]"} for number in range(8)]
    pipeline = Pipeline("shaped").from_dicts(rows)
    pipeline = pipeline.generate("answer", llm=pool_of(server, "ab"), k=2, schema=["yes", "no"])
    run = done(pipeline)
    step = run.status().step("answer")
    assert (step.failed, step.reasked) == (8, 16)  # b is asked again, twice, and a never
    assert by_model(server) == {"a": 8, "b": 24}


def mixed(server: MockLLM) -> dict[str, LLM]:
    one, two, three = (model(server, f"m{price}", price=(price, 2 * price)) for price in (1, 10, 100))
    return {
        "pool": LLMPool(llms=[one, two, three]),
        "backup": one | two,
        "mixture": MixtureOfAgentsLLM(aggregator_llm=three, proposers_llms=[one, two]),
    }


@pytest.mark.parametrize("kind", ["pool", "backup", "mixture"])
def test_an_estimate_holds_what_all_models_together_come_to(server: MockLLM, kind: str) -> None:
    pipeline = asks(mixed(server)[kind], k=2, mark=f" for a {kind}")
    estimate = pipeline.estimate()
    assert server.stats()["requests"] == {"pool": 10, "backup": 5, "mixture": 20}[kind]
    run = done(pipeline)
    step = run.status().step("answer")
    for told, true in (
        (estimate.requests, step.asked),
        (estimate.input_tokens, step.input_tokens),
        (estimate.output_tokens, step.output_tokens),
        (estimate.cost_usd, step.cost_usd),
    ):
        assert told is not None
        assert true is not None
        assert told.low - 1e-9 <= true <= told.high + 1e-9
    assert step.cost_usd
    known = pipeline.estimate(ask=False)
    assert known.requests is not None
    assert (known.requests.high, known.cached) == (0, server.stats()["requests"])


# --- backups --------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", ["401", "404", "500", "429x99", "filter", "quota", "garbage", "400", "context"]
)
def test_a_backup_answers_what_the_first_model_fails_at_for_good(server: MockLLM, fault: str) -> None:
    llm = model(server, "a") | model(server, "b")
    run = done(asks(llm, n_rows=5, mark=f" [[{fault}@a]]"))
    step = run.status().step("answer")
    assert (run.status().state, step.failed, step.stood_in) == ("finished", 0, 5)
    assert models_of(run) == [["b"]] * 5
    assert by_model(server)["b"] == 5
    [told] = [event for event in run.events() if event.kind == "backed_up"]
    assert (told.model, told.backup, bool(told.why)) == ("openai:a", "openai:b", True)  # type: ignore[attr-defined]
    assert "answered by the backup openai:b" in repr(run.why(0))
    before = by_model(server)
    again = done(asks(llm, n_rows=5, mark=f" [[{fault}@a]]"))
    assert (by_model(server), counts(again), models_of(again)) == (before, (0, 0, 5), [["b"]] * 5)


def test_a_server_that_is_not_there_costs_each_row_next_to_nothing(server: MockLLM) -> None:
    dead = OpenAILLM(model="a", base_url=DEAD, max_retries=6, max_concurrency=4)
    run = done(asks(dead | model(server, "b"), n_rows=80))
    step = run.status().step("answer")
    assert (step.failed, step.stood_in, by_model(server)["b"]) == (0, 80, 80)
    assert step.asked - 80 <= 20 + 4  # as many in a row, and what was on its way by then


def test_a_preview_says_that_a_backup_answered_and_why(server: MockLLM) -> None:
    preview = asks(model(server, "a") | model(server, "b"), n_rows=3, mark=" [[404@a]]").preview(3)
    assert "3 by a backup (openai:a: " in repr(preview)
    assert by_model(server)["b"] == 3
    assert preview.asked <= 3 + 3  # all three may have been on their way to the first one


def test_only_the_rows_that_fail_go_to_the_backup(server: MockLLM) -> None:
    rows = [{"instruction": f"Tell {n}{' [[400@a]]' * (n % 3 == 0)}"} for n in range(30)]
    llm = model(server, "a") | model(server, "b") | model(server, "c")
    run = done(Pipeline("some").from_dicts(rows).generate("answer", llm=llm, k=2))
    assert models_of(run) == [["b", "b"] if n % 3 == 0 else ["a", "a"] for n in range(30)]
    assert by_model(server) == {"a": 30, "b": 10}
    assert run.status().step("answer").stood_in == 20


def test_replies_of_the_backup_alone_do_not_keep_the_first_model_from_being_asked(server: MockLLM) -> None:
    done(asks(model(server, "b"), n_rows=5))
    run = done(asks(model(server, "a") | model(server, "b"), n_rows=5))
    assert models_of(run) == [["a"]] * 5
    failing = done(asks(model(server, "b"), n_rows=5, mark=" [[400@a]]"))
    server.reset()
    run = done(asks(model(server, "a") | model(server, "b"), n_rows=5, mark=" [[400@a]]"))
    assert by_model(server) == {"a": 5}  # the backup's replies are there
    assert list(run.rows("answer")["generations"]) == list(failing.rows("answer")["generations"])
    server.reset()
    done(asks(model(server, "a") | model(server, "b"), n_rows=5, mark=" [[400@a]]"))
    assert server.stats()["requests"] == 0  # that they stand in was noted


def test_a_refresh_that_the_first_model_answers_takes_back_that_the_backup_stands_in(
    server: MockLLM,
) -> None:
    pipeline = asks(model(server, "a") | model(server, "b"), n_rows=3, mark=" refreshed [[500x2@a]]")
    assert models_of(done(pipeline)) == [["b"]] * 3
    fresh = pipeline.start(cache="refresh")
    fresh.wait(PATIENCE_S)
    assert models_of(fresh) == [["a"]] * 3
    before = by_model(server)
    later = done(pipeline)
    assert (models_of(later), by_model(server)) == ([["a"]] * 3, before)
    assert list(later.rows("answer")["generations"]) == list(fresh.rows("answer")["generations"])


def test_a_second_account_or_server_of_the_same_model_is_a_backup_too(server: MockLLM) -> None:
    with mock_llm(require_key="sk-right") as guarded:
        one, other = (model(guarded, "a", api_key=key) for key in ("sk-wrong", "sk-right"))
        run = done(asks(one | other, n_rows=5))
        assert (run.status().state, counts(run)[0]) == ("finished", 0)
    dead = OpenAILLM(model="a", base_url=DEAD, cache_id="mine", max_retries=0)
    run = done(asks(dead | model(server, "a", cache_id="mine"), n_rows=5))
    assert (counts(run)[0], by_model(server)) == (0, {"a": 5})


def test_an_edited_backup_has_the_first_model_asked_again(server: MockLLM) -> None:
    done(asks(model(server, "a") | model(server, "b"), n_rows=5, mark=" [[400@a]]"))
    server.reset()
    done(asks(model(server, "a") | model(server, "c"), n_rows=5, mark=" [[400@a]]"))
    assert by_model(server) == {"a": 5, "c": 5}


def test_a_wrong_key_with_a_backup_is_told_once_and_without_one_stops_the_run() -> None:
    with mock_llm(require_key="sk-right") as guarded, mock_llm() as other:
        wrong = model(guarded, "a", api_key="sk-wrong", max_concurrency=4)
        run = done(asks(wrong | model(other, "b"), n_rows=40))
        assert (run.status().state, run.status().step("answer").stood_in) == ("finished", 40)
        assert guarded.stats()["requests"] <= 4
        assert [event.kind for event in run.events()].count("backed_up") == 1
        both = done(asks(wrong | model(guarded, "b", api_key="sk-wrong"), n_rows=40, mark="!"))
        assert both.status().state == "failed"
        assert "openai:a" in both.status().error
        assert "openai:b" in both.status().error


def test_a_missing_key_is_told_before_anything_starts(server: MockLLM) -> None:
    with pytest.raises(MissingKeyError):
        asks(OpenAILLM(model="a") | model(server, "b")).start()


def test_a_kill_asks_nothing_twice_that_was_answered(server: MockLLM) -> None:
    llm = model(server, "a", max_concurrency=4, max_retries=0) | model(server, "b", max_concurrency=4)
    rows = [{"instruction": f"Tell {n}{' [[500@a]]' * (n % 2)}"} for n in range(300)]
    pipeline = Pipeline("killed").from_dicts(rows).generate("answer", llm=llm)
    run = pipeline.start(new=True)
    for n_rows in (40, 140):
        wait_for(run, lambda run, n=n_rows: run.status().step("answer").done > n)  # type: ignore[misc]
        kill_worker(run, "ask_worker")
    assert run.wait(PATIENCE_S).state == "finished"
    stats = server.stats()
    assert run.status().step("answer").failed == 0
    assert stats["duplicate_prompts_after_ok"] <= 2 * (4 + 4)  # what was in flight at each kill
    # Some of a's failures let it rest; all that it has answered is in the rows.
    assert Counter(models[0] for models in models_of(run))["a"] <= 150
    before = stats["requests"]
    assert counts(done(pipeline)) == (0, 0, 300)
    assert server.stats()["requests"] == before


def test_a_re_ask_that_fails_goes_to_the_backup(server: MockLLM) -> None:
    rows = [{"instruction": "Yes or no? [[wrong@a]] [[400x0@a]]"}]
    llm = model(server, "a") | model(server, "b")
    run = done(Pipeline("shaped").from_dicts(rows).generate("answer", llm=llm, schema=["yes", "no"]))
    # Wrong replies are the task's business: three of a, none of b.
    assert (by_model(server), run.status().step("answer").failed) == ({"a": 3}, 1)


# --- mixtures -------------------------------------------------------------------


def mixture_of(server: MockLLM, **fields: Any) -> MixtureOfAgentsLLM:
    given = {"aggregator_llm": model(server, "c"), "proposers_llms": [model(server, "a"), model(server, "b")]}
    return MixtureOfAgentsLLM(**{**given, **fields})


@pytest.mark.parametrize("rounds, k", [(1, 1), (1, 3), (2, 2)])
def test_a_mixture_asks_every_part_once_and_counts_all(server: MockLLM, rounds: int, k: int) -> None:
    pipeline = asks(mixture_of(server, rounds=rounds), k, n_rows=10)
    run = done(pipeline)
    # In the first round one request brings all k answers of a proposer; what is made of answers is asked one by one.
    each = 10 * (1 + k * (rounds - 1))
    assert by_model(server) == {"a": each, "b": each, "c": 10 * k}
    step, stats = run.status().step("answer"), server.stats()
    assert (step.asked, step.failed, step.cached) == (stats["requests"], 0, 0)
    assert step.output_tokens == stats["completion_tokens"]
    assert step.input_tokens == stats["prompt_tokens"]
    assert models_of(run) == [["c"] * k] * 10
    assert all(len(set(replies)) == k for replies in run.rows("answer")["generations"])
    told = repr(run.why(0))
    assert told.count("prompt to openai:a, for an answer to build on") == 1 + k * (rounds - 1)
    assert told.count("prompt to openai:c:") == k
    before = stats["requests"]
    assert counts(done(pipeline)) == (0, 0, before)
    assert server.stats()["requests"] == before


def test_a_mixture_builds_on_what_its_proposers_have_answered_alone(server: MockLLM) -> None:
    done(asks(model(server, "a"), n_rows=10))
    server.reset()
    done(asks(mixture_of(server), n_rows=10))
    assert by_model(server) == {"b": 10, "c": 10}


def test_an_edited_aggregator_is_all_that_is_asked_again(server: MockLLM) -> None:
    done(asks(mixture_of(server), n_rows=10))
    server.reset()
    done(asks(mixture_of(server, aggregator_llm=model(server, "d")), n_rows=10))
    assert by_model(server) == {"d": 10}


def test_a_killed_mixture_repeats_only_what_was_in_flight(server: MockLLM) -> None:
    llms = [model(server, name, max_concurrency=4) for name in "abc"]
    pipeline = asks(MixtureOfAgentsLLM(aggregator_llm=llms[2], proposers_llms=llms[:2]), n_rows=200)
    run = pipeline.start(new=True)
    for n_rows in (40, 120):
        wait_for(run, lambda run, n=n_rows: run.status().step("answer").done > n)  # type: ignore[misc]
        kill_worker(run, "ask_worker")
    assert run.wait(PATIENCE_S).state == "finished"
    assert 600 <= server.stats()["requests"] <= 600 + 2 * 3 * 4
    assert run.status().step("answer").failed == 0


def test_a_retry_of_a_mixture_asks_the_aggregator_anew(server: MockLLM) -> None:
    rows = [{"instruction": "Yes or no? [[wrong@c]]"}]
    pipeline = Pipeline("shaped").from_dicts(rows)
    run = done(pipeline.generate("answer", llm=mixture_of(server), schema=["yes", "no"], max_reasks=0))
    assert (by_model(server), run.status().step("answer").failed) == ({"a": 1, "b": 1, "c": 1}, 1)
    run.retry().wait(PATIENCE_S)
    assert by_model(server) == {"a": 1, "b": 1, "c": 2}


def test_a_proposer_with_a_backup_does_not_fail_the_row(server: MockLLM) -> None:
    safe = model(server, "a") | model(server, "d")
    llm = mixture_of(server, proposers_llms=[safe, model(server, "b")])
    run = done(asks(llm, n_rows=4, mark=" [[400@a]]"))
    assert (by_model(server), counts(run)[0]) == ({"a": 4, "d": 4, "b": 4, "c": 4}, 0)
    before = by_model(server)
    done(asks(llm, n_rows=4, mark=" [[400@a]]"))
    assert by_model(server) == before

"""What a run would ask, told by the cache alone: known requests, rows that wait behind them, their measure."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from contextlib import closing
from typing import Any

import pytest

from distilnb.engine.cache import ReplyCache
from distilnb.engine.foresee import Outlook, RowsToRun, foresee
from distilnb.engine.models import Models
from distilnb.engine.preview import StepResult, preview_graph
from distilnb.engine.sample import draw_rows, pinned_sample
from distilnb.llms import OpenAILLM
from distilnb.pipeline import Pipeline
from distilnb.spec.step import GeneratorStep
from tests.servers import mock_llm


def source(p: Pipeline) -> GeneratorStep:
    step = p.graph.steps["load"]
    assert isinstance(step, GeneratorStep)
    return step


def sampled(p: Pipeline, n: int, *, asks: bool = True) -> dict[str, StepResult]:
    samples = {"load": pinned_sample(p.name, source(p), n)}
    return {result.name: result for result in preview_graph(p.graph, samples, asks=asks)}


def outlooks(
    p: Pipeline, n: int = 3, *, rows: int | None = None, too_slow: Collection[str] = (), asks: bool = True
) -> dict[str, Outlook]:
    to_run = {"load": RowsToRun(*draw_rows(source(p), rows))}
    return foresee(p.graph, sampled(p, n, asks=asks), to_run, too_slow=too_slow)


def start(n: int = 10) -> Pipeline:
    p = Pipeline("seen", llm="rehearsal").from_dicts([{"i": i, "instruction": f"Say {i}."} for i in range(n)])
    return p.generate("answer", "{{ instruction }}", k=2)


def more(p: Pipeline, name: str = "more") -> Pipeline:
    return p.generate(name, "Of {{ generations }}", into=name)


def test_at_the_first_task_every_request_is_known_behind_it_only_those_of_cached_rows() -> None:
    found = outlooks(more(start()))
    first, second = found["answer"], found["more"]
    assert (first.n_cached, len(first.unsent), first.n_open, len(first.answered)) == (3, 7, 0, 3)
    assert {unsent.n_replies for unsent in first.unsent} == {2}
    assert (second.n_cached, second.unsent, second.n_open) == (3, [], 7)
    assert [use.n_requests for use in second.per_row] == [1, 1, 1]
    assert all(use.input_tokens > 0 and use.output_tokens > 0 for use in second.per_row)


def test_a_task_that_was_added_behind_has_known_requests_where_the_rows_are_cached() -> None:
    outlooks(start())
    found = outlooks(more(start()), asks=False)["more"]
    assert (found.n_cached, len(found.unsent), found.n_open, found.per_row) == (0, 3, 7, [])


def test_the_sample_is_evidence_where_it_is_not_in_the_run() -> None:
    p = start(100)
    in_run = sum(order[0] < 10 for order in pinned_sample(p.name, source(p), 8).orders)
    found = outlooks(more(p), 8, rows=10)
    assert in_run < 8
    assert len(found["answer"].answered) == len(found["more"].per_row) == 8
    assert (found["answer"].n_cached, len(found["answer"].unsent)) == (in_run, 10 - in_run)
    assert (found["more"].n_cached, found["more"].n_open) == (in_run, 10 - in_run)


def test_rows_that_a_filter_leaves_out_count_as_nothing_among_those_that_wait() -> None:
    p = start(40).filter("i % 4 > 0").generate("b", "{{ generations }}", into="b").filter("i % 2 == 0")
    found = outlooks(more(p), 16)
    assert found["b"].is_sieved
    assert found["more"].is_sieved
    assert (
        {use.n_requests for use in found["b"].per_row}
        == {use.n_requests for use in found["more"].per_row}
        == {0, 1}
    )
    assert not outlooks(more(start(9).filter("i > 4")), 3)["answer"].is_sieved


@pytest.mark.parametrize("cut", ["a slow step", "a global step"])
def test_what_is_not_run_on_all_rows_leaves_the_sample_as_the_only_measure(cut: str) -> None:
    calls: list[int] = []

    def slow(i: int) -> dict[str, Any]:
        calls.append(i)
        return {"j": i}

    p = start().map(slow, makes=["j"], name="slow") if cut == "a slow step" else start().dedup("instruction")
    found = outlooks(more(p), too_slow=["slow"])["more"]
    assert (found.n_cached, found.unsent, found.n_open, len(found.per_row)) == (3, [], 7, 3)
    assert len(calls) in (0, 3)


def test_a_global_step_before_any_task_is_run() -> None:
    p = Pipeline("first", llm="rehearsal").from_dicts([{"i": i // 2} for i in range(10)]).dedup("i")
    found = outlooks(p.generate("answer", "Say {{ i }}."))["answer"]
    assert found.n_open == 0
    assert found.n_cached + len(found.unsent) == 5


def test_rows_of_one_row_are_added_up() -> None:
    found = outlooks(more(start().expand("generations")))["more"]
    assert [use.n_requests for use in found.per_row] == [2, 2, 2]
    assert found.n_cached == 6


@pytest.mark.parametrize("fixed, n_requests", [({}, 1), ({"seed": 7}, 2)])
def test_replies_that_are_no_neighbours_are_foreseen_as_the_requests_that_bring_them(
    fixed: dict[str, int], n_requests: int
) -> None:
    with mock_llm() as server:
        llm = OpenAILLM(model="m", base_url=server.base_url, generation_kwargs=fixed)
        p = Pipeline("seen", llm=llm).from_dicts([{"i": 1}]).generate("answer", "Say {{ i }}.", k=3)
        sampled(p, 1)
        with closing(sqlite3.connect(ReplyCache.default_path())) as db, db:
            db.execute("DELETE FROM replies WHERE rowid != (SELECT rowid FROM replies LIMIT 1 OFFSET 1)")
        [unsent] = outlooks(p, 1, asks=False)["answer"].unsent
        assert (unsent.n_replies, unsent.n_requests) == (2, n_requests)
        n_before = server.stats()["requests"]
        sampled(p, 1)
        assert server.stats()["requests"] - n_before == n_requests


def test_only_a_preview_that_asks_lets_models_be_asked_again_that_have_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    p = start(3)
    asked_again: list[bool] = []
    monkeypatch.setattr(Models, "try_again", lambda models: asked_again.append(True))
    outlooks(p, asks=False)
    assert asked_again == []
    sampled(p, 3)
    assert asked_again == [True]

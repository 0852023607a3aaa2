"""Local models in previews and runs: one load for all of them, and its progress told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import distilnb as dn
from distilnb.engine.models import Models
from distilnb.engine.preview import StepResult
from distilnb.errors import RunFailedError
from tests.llms.hosts.fake_engine import pid_in
from tests.llms.hosts.fake_llm import FakeLLM

ROWS = [{"instruction": f"question {number}"} for number in range(12)]


def pipeline_of(llm: FakeLLM, *, rows: list[dict[str, Any]] = ROWS) -> Any:
    other = llm.updated(generation_kwargs={"max_new_tokens": 2})
    return (
        dn.Pipeline("local")
        .from_dicts(rows)
        .generate("first", "{{ instruction }}", into="one", llm=llm)
        .generate("second", "again: {{ one }}", into="two", llm=other)
    )


def n_loaded(llm: FakeLLM) -> int:
    return [event["event"] for event in llm.host().place().events()].count("loaded")


def test_two_tasks_one_preview_and_two_runs_load_a_model_once() -> None:
    llm = FakeLLM()
    pipeline = pipeline_of(llm)
    preview = pipeline.preview(3)
    first = pipeline.start()
    second = pipeline_of(llm, rows=[{"instruction": f"other {n}"} for n in range(8)]).start()
    for run, n_rows in ((first, 12), (second, 8)):
        status = run.wait(timeout=60)
        assert status.state == "finished", status.error
        assert len(run.rows("second")) == n_rows
    assert n_loaded(llm) == 1
    pids = {pid_in(texts[0]) for run in (first, second) for texts in run.rows("first")["one"]}
    assert pids == {pid_in(row["one"][0]) for row in preview.rows}


def test_a_run_goes_on_when_the_host_dies() -> None:
    llm = FakeLLM()
    rows = [*ROWS, {"instruction": "die once here"}, {"instruction": "die always"}]
    run = (
        dn.Pipeline("local")
        .from_dicts(rows)
        .generate("first", "{{ instruction }}", into="one", llm=llm)
        .start()
    )
    status = run.wait(timeout=90)
    assert status.state == "finished", status.error
    assert len(run.rows("first")) == 13
    assert list(run.errors()["kind"]) == ["HostDiedError"]


def test_a_model_that_does_not_load_ends_the_run_with_its_log(tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.write_text("9")
    run = pipeline_of(FakeLLM(load_dies=str(left))).start()
    status = run.wait(timeout=60)
    assert status.state == "failed"
    assert "the fake dies of loading" in status.error
    with pytest.raises(RunFailedError):
        run.distiset()


def test_a_run_says_that_it_waits_for_the_model_to_be_loaded() -> None:
    run = pipeline_of(FakeLLM(load_s=4)).start()
    seen: set[str] = set()
    while not run.status().is_ended:
        seen.update(run.status().notes)
    assert run.status().state == "finished"
    assert any("loading fake:parrot" in note for note in seen), seen
    assert not run.status().notes


def test_a_preview_says_that_it_waits_for_the_model_to_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from distilnb.engine import preview as preview_module
    from distilnb.engine.sample import pinned_sample

    pipeline = pipeline_of(FakeLLM(load_s=3))
    graph = pipeline.graph
    source = next(iter(graph.steps))
    samples = {source: pinned_sample("local", graph.steps[source], 2)}
    seen: list[str] = []

    def on_row(result: StepResult) -> None:
        seen.append(result.words)

    results = list(preview_module.preview_graph(graph, samples, on_row=on_row))
    assert any("loading fake:parrot" in words for words in seen), seen
    assert results[-1].words == ""


def test_models_without_a_host_wait_for_nothing() -> None:
    models = Models()
    assert models.words(dn.llm("rehearsal")) == ""
    assert models.take_waiting() == []

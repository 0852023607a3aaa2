"""Embedding in previews and runs: each text paid for once, few requests, failures of single rows, a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import distilnb as dn
from distilnb.cli import app
from distilnb.errors import UnknownPriceError
from distilnb.llms.openai_embeddings import OpenAIEmbeddings
from distilnb.pipeline import Pipeline
from distilnb.run import Run
from distilnb.steps import EmbeddingGeneration
from tests.runs import done, kill_worker, wait_for
from tests.servers import MockLLM, mock_llm

N_ROWS = 600


@pytest.fixture
def server() -> Iterator[MockLLM]:
    with mock_llm(embedding_dim=16) as running:
        yield running


def pipeline(server: MockLLM, texts: list[Any], **fields: Any) -> Pipeline:
    model = OpenAIEmbeddings(**{"model": "m", "base_url": server.base_url, **fields})
    rows = [{"instruction": text} for text in texts]
    return Pipeline("vectors").from_dicts(rows).embed("instruction", model=model)


def texts(n: int = N_ROWS) -> list[Any]:
    return [f"text {number}" for number in range(n)]


def rows_of(run: Run) -> list[dict[str, Any]]:
    return list(run.distiset().rows())


def tokens(run: Run) -> int:
    return sum(step.input_tokens + step.output_tokens for step in run.status().steps)


def embedded(run: Run) -> int:
    return run.status().step("embed").done


def test_a_text_is_paid_for_once_whoever_asks(server: MockLLM) -> None:
    given = [*texts(), *texts(100)]
    preview = pipeline(server, given).preview(5)
    assert [list(row) for row in preview.rows] == [["instruction", "embedding", "embedding_model"]] * 5
    first = done(pipeline(server, given))
    rows = rows_of(first)
    assert [row["instruction"] for row in rows] == given
    assert {len(row["embedding"]) for row in rows} == {16}
    assert rows[7]["embedding"] == rows[N_ROWS + 7]["embedding"] != rows[8]["embedding"]
    vector_of = {row["instruction"]: row["embedding"] for row in rows}
    assert [row["embedding"] for row in preview.rows] == [
        vector_of[row["instruction"]] for row in preview.rows
    ]
    figures = first.status().step("embed")
    assert (figures.done, figures.asked) == (700, N_ROWS - 5)
    n_sent = server.stats()["requests"]
    assert n_sent < 30  # of up to 128 texts, instead of 600
    # Another pipeline, other batches: nothing is asked.
    again = done(pipeline(server, given, batch_size=7))
    assert rows_of(again) == rows
    assert again.status().step("embed").asked == 0
    assert server.stats()["requests"] == n_sent


def test_rows_without_a_text_fail_and_the_others_go_on(server: MockLLM) -> None:
    run = done(pipeline(server, ["a", "", None, "b"]))
    assert [row["instruction"] for row in rows_of(run)] == ["a", "b"]
    errors = run.errors()
    assert list(errors["row"]) == [1, 2]
    assert "'instruction' is empty" in errors["reason"][0]


def test_a_worker_that_is_killed_pays_again_for_no_more_than_was_in_flight() -> None:
    with mock_llm(embedding_dim=16, latency_ms=100) as server:
        run = pipeline(server, texts(), batch_size=10, max_concurrency=2).start()
        wait_for(run, lambda run: embedded(run) > 100)
        kill_worker(run, "ask_worker")
        run.wait(60)
        rows = rows_of(run)
        stats = server.stats()
    assert len({tuple(row["embedding"]) for row in rows}) == N_ROWS
    assert stats["requests"] <= N_ROWS / 10 + 2 + 2  # two were in flight; two more were cut off by the kill


def test_a_wrong_key_costs_at_most_the_concurrency() -> None:
    with mock_llm(require_key="right") as server:
        run = pipeline(server, texts(), api_key="wrong", batch_size=10, max_concurrency=3).start()
        run.wait(60)
        assert run.status().state == "failed"
        assert server.stats()["rejected_401"] <= 3


def test_a_budget_counts_the_tokens_of_texts(server: MockLLM) -> None:
    own = {"base_url": "https://api.openai.com/v1", "model": "nobody-priced", "api_key": "k"}
    unpriced = pipeline(server, texts(), **own)
    with pytest.raises(UnknownPriceError):
        unpriced.start(max_cost=1.0)
    run = done(pipeline(server, texts(), price=(1.0, 0.0), batch_size=10), max_tokens=300)
    assert run.status().state == "stopped"
    assert 100 < tokens(run) <= 300
    cost = done(pipeline(server, texts(), price=(1.0, 0.0))).status().cost_usd
    assert cost == pytest.approx(2 * 500e-6, rel=0.5)


def test_an_estimate_foretells_requests_and_tokens(server: MockLLM) -> None:
    p = pipeline(server, texts(), price=(1.0, 0.0))
    quote = p.estimate()["embed"]
    run = done(p)
    assert quote.input_tokens.low <= tokens(run) <= quote.input_tokens.high
    assert quote.output_tokens.high == 0


def test_the_class_form_the_file_and_the_names_of_1x(server: MockLLM, tmp_path: Path) -> None:
    with Pipeline("written") as p:
        load = dn.steps.LoadDataFromDicts(data=[{"question": "Why?"}])
        embed = EmbeddingGeneration(
            embeddings=OpenAIEmbeddings(model="m", base_url=server.base_url, dimensions=4),
            input_mappings={"text": "question"},
        )
        load >> embed
    p.save(tmp_path / "written.yaml")
    assert "OpenAIEmbeddings" in (tmp_path / "written.yaml").read_text()
    again = dn.open(tmp_path / "written.yaml")
    [row] = again.preview().rows
    assert len(row["embedding"]) == 4
    assert row["model_name"] == "m"
    said = CliRunner().invoke(app, ["pipeline", "info", "--config", str(tmp_path / "written.yaml")])
    assert said.exit_code == 0, said.output
    assert json.dumps(server.base_url)[1:-4] in said.output


def test_the_rehearsal_needs_no_model() -> None:
    p = Pipeline("try").from_dicts([{"text": "cats and dogs"}]).embed("text", model="rehearsal")
    [row] = rows_of(done(p))
    assert len(row["embedding"]) == 64
    assert row["embedding_model"] == "rehearsal"

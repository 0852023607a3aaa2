"""What becomes of a row that fails: quarantine, None in its columns, or the end of the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distilnb.errors import InputError, ParseError, RunFailedError
from distilnb.pipeline import Pipeline
from distilnb.run import Run
from distilnb.spec.step import Step
from distilnb.steps.join import CombineOutputs, GroupColumns
from distilnb.tasks.base import Task
from tests.conftest import wait_until_gone
from tests.runs import wait_for
from tests.servers import mock_llm

ROWS = [{"i": i} for i in range(12)]
BAD = [3, 7]


def halves(i: int) -> dict[str, float]:
    if i in BAD:
        raise ValueError(f"{i} is bad")
    return {"half": i / 2}


class Echo(Task):
    """Fails on the replies to some rows."""

    inputs = ["i"]
    outputs = ["echo"]

    def format_input(self, input: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"role": "user", "content": f"Say {input['i']}."}]

    def format_output(self, output: str | None, input: dict[str, Any]) -> dict[str, Any]:
        if input["i"] in BAD:
            raise ParseError("no echo")
        return {"echo": input["i"]}


class Twice(Step):
    """Makes two rows of each, and fails on some."""

    by_row = True
    inputs = ["i"]
    outputs = ["copy"]

    def process(self, rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:  # type: ignore[override]
        for row in rows:
            if row["i"] in BAD:
                raise ValueError("cannot be copied")
            yield [{**row, "copy": number} for number in range(2)]


def counts(run: Run, step: str) -> tuple[int, int, int, int]:
    status = run.status().step(step)
    return status.done, status.failed, status.partial, status.made


def by_i(run: Run, column: str) -> dict[int, Any]:
    rows = run._reader.rows(next(iter(run._reader.plan.leaves))).rows
    return {row["i"]: row[column] for row in rows}


@pytest.mark.parametrize("makes", [["half"], None], ids=["columns known", "columns not known"])
def test_a_fused_row_step_that_fails_gives_none(makes: list[str] | None) -> None:
    pipeline = Pipeline("rows").from_dicts(ROWS).map(halves, makes=makes).map(lambda i: {"next": i + 1})
    run = pipeline.start(on_error="null")
    assert run.wait(30).state == "finished"
    rows = run.rows("map_2")
    assert list(rows["i"]) == list(range(12))
    assert rows["half"].isna().tolist() == [i in BAD for i in range(12)]
    assert rows["next"].tolist() == list(range(1, 13))
    assert counts(run, "map") == (12, 0, 2, 12)
    assert counts(run, "map_2") == (12, 0, 0, 12)
    errors = run.errors()
    assert errors["is_partial"].tolist() == [True, True]
    assert errors["kind"].tolist() == ["ValueError", "ValueError"]
    assert errors["reason"].tolist() == ["3 is bad", "7 is bad"]


def test_rows_inside_fused_steps_are_read_with_their_nones() -> None:
    rows = [{"a": [1, 2], "i": 0}, {"a": 5, "i": 1}]  # of which one cannot be expanded
    run = Pipeline("inside").from_dicts(rows).expand("a").keep("i").start(on_error="null")
    run.wait(30)
    assert counts(run, "expand") == (2, 0, 1, 3)
    assert [row["a"] for row in run._reader.rows("expand").rows] == [1, 2, None]
    assert run.rows("keep").index.tolist() == run.rows("expand").index.tolist()


@pytest.mark.parametrize("policy, expected", [("null", (12, 0, 2, 12)), ("quarantine", (10, 2, 0, 10))])
def test_a_task_that_fails_on_a_row(policy: Any, expected: tuple[int, int, int, int]) -> None:
    pipeline = (
        Pipeline("task", llm="rehearsal").from_dicts(ROWS).ask(Echo(name="echo")).map(lambda i: {"n": i})
    )
    run = pipeline.start(on_error=policy)
    assert run.wait(30).state == "finished"
    assert counts(run, "echo") == expected
    kept = by_i(run, "echo")
    assert kept == {i: None if i in BAD else i for i in range(12) if policy == "null" or i not in BAD}
    errors = run.errors()
    assert len(errors) == 2
    assert errors["reply"].str.len().gt(0).all()
    assert errors["is_partial"].tolist() == [policy == "null"] * 2
    if policy == "null":
        assert all(row["model_name"] is None for row in run.rows_of_leaf("map") if row["i"] in BAD)


def test_a_row_step_that_expands_gives_one_row_of_none() -> None:
    run = Pipeline("twice").from_dicts(ROWS).then(Twice(name="twice")).start(on_error="null")
    assert run.wait(30).state == "finished"
    rows = run.rows("twice")
    assert len(rows) == 2 * 10 + 2
    assert rows["copy"].isna().sum() == 2
    assert counts(run, "twice") == (12, 0, 2, 22)
    assert [row_id.count(".") for row_id in rows.index] == [1] * 22
    assert run.errors()["row_id"].isin(run.rows("load").index).all()


@pytest.mark.parametrize(
    "join", [GroupColumns(columns=["half"], output_columns=["halves"]), CombineOutputs()]
)
def test_a_join_lets_rows_go_on_whose_partner_was_left_out(join: Step) -> None:
    start = Pipeline("joins").from_dicts(ROWS)
    good = start.map(halves, makes=["half"]).graph.step("map").updated(name="good")
    if isinstance(join, CombineOutputs):
        other = start.filter("i < 10").graph.step("filter").updated(name="other")
    else:
        other = start.map(few_halves, makes=["half"]).graph.step("map").updated(name="other")
    run = (start >> [good, other]).then(join.updated(name="join")).start(on_error="null")
    assert run.wait(30).state == "finished"
    rows = run.rows_of_leaf("join")
    assert [row["i"] for row in rows] == list(range(12))
    assert counts(run, "join")[1] == 0
    if isinstance(join, GroupColumns):
        assert rows[3]["halves"] == [None, 1.5]
        assert all("half" not in row for row in rows)
    else:
        assert [row["half"] for row in rows][:4] == [0, 0.5, 1, None]
        assert counts(run, "join") == (12, 0, 2, 12)


def few_halves(i: int) -> dict[str, float]:
    return {"half": i / 2}


def test_the_first_failed_row_ends_the_run_with_its_reason(home: Path) -> None:
    with mock_llm(latency_ms=20) as server:
        from distilnb.llms.openai import OpenAILLM

        llm = OpenAILLM(model="m", base_url=server.base_url, max_concurrency=2)
        rows = [{"i": i} for i in range(60)]
        pipeline = Pipeline("raise", llm=llm).from_dicts(rows).ask(Echo(name="echo"))
        run = pipeline.start(on_error="raise")
        status = run.wait(30)
        assert status.state == "failed"
        row_id = run.errors()["row_id"][0]
        assert status.error == f"Row {row_id!r} failed at step 'echo': ParseError: no echo"
        assert status.reason == f"row: {row_id}"
        assert status.step("echo").state == "failed"
        with pytest.raises(RunFailedError, match=r"Row 'load:.*' failed at step 'echo': ParseError: no echo"):
            run.distiset()
        assert wait_until_gone(home) == []
        step = status.step("echo")
        assert server.stats()["requests"] == step.done + step.failed < 60
        run.resume()
        run.wait(30)
        if run.status().state == "failed":  # at the second bad row
            run.resume()
            run.wait(30)
        assert run.status().state == "finished"
        assert len(run.rows("echo")) == 58
        assert server.stats()["requests"] == 60


def test_raise_is_for_row_steps_and_joins_too() -> None:
    run = Pipeline("raise").from_dicts(ROWS).map(halves).start(on_error="raise")
    status = run.wait(30)
    assert (status.state, status.step("map").state) == ("failed", "failed")
    assert "failed at step 'map': ValueError: 3 is bad" in status.error
    start = Pipeline("joins").from_dicts(ROWS)
    few = start.filter("i < 10").graph.step("filter").updated(name="few")
    same = start.map(few_halves, makes=["half"]).graph.step("map").updated(name="all")
    run = (start >> [same, few]).then(CombineOutputs(name="join")).start(on_error="raise")
    status = run.wait(30)
    assert status.state == "failed"
    assert "failed at step 'join': MissingPartnerError" in status.error


def test_a_run_without_failed_rows_is_the_same_in_every_mode() -> None:
    for policy in ("quarantine", "null", "raise"):
        run = Pipeline("good").from_dicts(ROWS).map(few_halves).start(on_error=policy)  # type: ignore[arg-type]
        wait_for(run, lambda run: True)
        assert run.wait(30).state == "finished"
        assert len(run.errors()) == 0


def test_unknown_words_name_what_there_is() -> None:
    pipeline = Pipeline("words").from_dicts(ROWS)
    with pytest.raises(InputError, match="executor is 'ray'; there is 'local'"):
        pipeline.start(executor="ray")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"on_error is 'nul'.*\nDid you mean 'null'\?"):
        pipeline.start(on_error="nul")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_time is 0"):
        pipeline.start(max_time=0)


class Holding(Step):
    """Holds something, which it lets go in a file."""

    inputs = ["i"]
    outputs = ["held"]
    log: str

    def unload(self) -> None:
        with Path(self.log).open("a") as file:
            file.write(f"{self.name}\n")

    def process(self, rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:  # type: ignore[override]
        yield [{**row, "held": row["i"]} for row in rows]


class HoldingEcho(Echo):
    """Asks, and lets go in a file too."""

    log: str

    def unload(self) -> None:
        with Path(self.log).open("a") as file:
            file.write(f"{self.name}\n")


def test_a_run_that_a_row_ends_lets_its_steps_unload(home: Path, tmp_path: Path) -> None:
    log = tmp_path / "unloaded"
    holding = Holding(name="holding", log=str(log))
    asking = HoldingEcho(name="asking", log=str(log), llm="rehearsal")
    run = Pipeline("unload").from_dicts(ROWS).then(holding).then(asking).start(on_error="raise")
    status = run.wait(60)
    assert (status.state, status.reason.partition(":")[0]) == ("failed", "row")
    assert wait_until_gone(home) == []
    assert sorted(log.read_text().split()) == ["asking", "holding"]

"""Runs whose source is cut: rows, ids and order are those of a source that one worker reads."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from distilnb.engine import planning
from distilnb.pipeline import Pipeline
from distilnb.rows import Batch
from distilnb.run import Run
from distilnb.spec.step import StepInput, StepOutput
from distilnb.steps import cutting
from distilnb.steps.function import step
from distilnb.steps.sources import LoadDataFromFileSystem
from tests.conftest import processes_of, wait_until_gone

N_ROWS = 3000
TIMEOUT_S = 120


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with equal rows, blank lines, and what the fast JSON reader refuses or changes."""
    chance, lines = Random(4), list[str]()
    for number in range(N_ROWS):
        lines += [""] * (chance.random() < 0.02)
        odd = chance.choice(["NaN", "12345678901234567890123", '"\\ud800"'])
        value = odd if chance.random() < 0.005 else number if chance.random() < 0.7 else number % 7
        lines.append(f'{{"v": {value}, "text": "{"x" * 20}"}}')
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "MANY_BYTES", 1000)
    monkeypatch.setattr(planning, "PART_BYTES", 2000)


@step
def slowly(rows: StepInput) -> StepOutput:
    """Let a run take long enough to be met."""
    time.sleep(0.005)
    yield rows


def rows_of(run: Run, name: str = "load") -> Batch:
    return run._reader.rows(name)


def finished(run: Run) -> Run:
    status = run.wait(TIMEOUT_S)
    assert status.state == "finished", status.error
    return run


def row_workers(run: Run) -> Iterator[int]:
    for process in processes_of(Path(run.path)):
        if "engine.row_worker " in " ".join(process.cmdline()):
            yield process.pid


def is_cut(run: Run) -> bool:
    return run._reader.plan.stage("load").is_cut


def test_a_cut_source_has_the_rows_ids_and_order_of_a_whole_one(
    path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    def pipeline() -> Pipeline:
        return Pipeline("cut").from_files(path).keep("v")

    whole = finished(pipeline().start())
    monkeypatch.setattr(cutting, "MANY_BYTES", 1000)
    monkeypatch.setattr(planning, "PART_BYTES", 2000)
    run = finished(pipeline().start(new=True))
    assert (is_cut(whole), is_cut(run)) == (False, True)
    for name in ("load", "keep"):
        expected, made = rows_of(whole, name), rows_of(run, name)
        assert repr(made.rows) == repr(expected.rows)  # NaN is not equal to itself
        assert (made.ids, made.list_orders()) == (expected.ids, expected.list_orders())
    assert run.status().step("load").made == len(rows_of(run)) == N_ROWS
    assert len({row_id.rsplit(":", 1)[1] for row_id in rows_of(run).ids}) > 100  # equal rows were counted
    assert wait_until_gone(home) == []


@pytest.mark.usefixtures("cut")
def test_kills_while_parts_are_read_lose_and_double_nothing(path: Path) -> None:
    run = Pipeline("killed").from_files(path).then(slowly).start()
    assert is_cut(run)
    chance, n_kills = Random(11), 0
    while not run.status().is_ended and n_kills < 12:
        time.sleep(0.1 * chance.random())
        everybody = [process.pid for process in processes_of(Path(run.path))]
        for pid in everybody if n_kills % 4 == 3 else [*row_workers(run)][:1]:
            n_kills += 1
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        while run.status().state in (
            "lost",
            "failed",
        ):  # a worker that is killed three times in a row ends a run
            run.resume()
    while run.wait(TIMEOUT_S).state in ("lost", "failed"):
        run.resume()
    assert run.status().state == "finished"
    calm = finished(Pipeline("calm").from_files(path).then(slowly).start())
    for name in ("load", "slowly"):
        expected, made = rows_of(calm, name), rows_of(run, name)
        assert repr(made.rows) == repr(expected.rows)
        assert (made.ids, made.list_orders()) == (expected.ids, expected.list_orders())
    assert run.status().step("slowly").done == N_ROWS


@pytest.mark.usefixtures("cut")
def test_a_line_that_is_no_row_ends_the_run_behind_the_rows_before_it_until_it_is_mended(path: Path) -> None:
    lines = path.read_text().split("\n")
    lines[2000] = "{no row"
    path.write_text("\n".join(lines))
    run = Pipeline("broken").from_files(path).keep("v").start()
    status = run.wait(TIMEOUT_S)
    assert status.state == "failed"
    assert "line 2001: no JSON" in status.error
    assert len(rows_of(run)) == len([line for line in lines[:2000] if line])
    lines[2000] = '{"v": 1, "text": "mended"}'
    path.write_text("\n".join(lines))
    run.resume()
    whole = finished(Pipeline("mended").from_files(path).keep("v").start())
    for name in ("load", "keep"):
        expected, made = rows_of(whole, name), rows_of(finished(run), name)
        assert repr(made.rows) == repr(expected.rows)
        assert (made.ids, made.list_orders()) == (expected.ids, expected.list_orders())


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("begin", ["", "\ufeff"])
def test_a_file_of_blank_lines_is_an_error_as_an_empty_one_is(
    path: Path, begin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        LoadDataFromFileSystem, "check", lambda _: None
    )  # as if it is emptied behind the check
    path.write_text(begin + " \r\n\n" * 3000, encoding="utf-8")
    run = Pipeline("blank").from_files(path).then(slowly).start()
    status = run.wait(TIMEOUT_S)
    assert is_cut(run)
    assert status.state == "failed"
    assert "Source 'load' made no row." in status.error


@pytest.mark.usefixtures("cut")
def test_blank_parts_beside_a_row_are_no_error(path: Path) -> None:
    path.write_text("\n" * 5000 + '{"v": 1}' + "\n" * 5000)
    run = finished(Pipeline("one").from_files(path).keep("v").start())
    assert is_cut(run)
    assert rows_of(run).rows == [{"v": 1}]


@pytest.mark.usefixtures("cut")
def test_a_source_is_read_by_one_where_parts_are_of_no_use(path: Path) -> None:
    def is_planned_cut(pipeline: Pipeline, **options: int) -> bool:
        plan = planning.make_plan(pipeline.graph, run_id="r", pipeline="p", digest="d", options=dict(options))
        return plan.stage("load").is_cut

    source = Pipeline("p").from_files(path)
    assert is_planned_cut(source.keep("v"))
    assert not is_planned_cut(source.keep("v"), rows=10)
    assert not is_planned_cut(source)
    assert not is_planned_cut(source.generate(llm="rehearsal", prompt="{{ v }}"))

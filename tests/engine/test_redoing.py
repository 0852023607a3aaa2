"""Rows of fused steps that are done again: from the step where they failed, alone, and not beyond a row that kills."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from distilnb.engine.apply import Outcome, apply_step
from distilnb.engine.deaths import Poison
from distilnb.engine.lineage import Attempt
from distilnb.engine.plan import Plan, Stage
from distilnb.engine.redoing import Marks, apply_with_marks
from distilnb.engine.row_worker import RowWorker
from distilnb.engine.rundir import RunDir
from distilnb.engine.vitals import Vitals, shared_memory
from distilnb.rows import Batch
from distilnb.spec.step import Step
from distilnb.steps.columns import ExpandColumns
from distilnb.steps.function import MapRows

NAMES = ("each", "check", "last")
FAMILY = Batch([{"n": [1, 2]}], ["load:a:0"], [[0]])
SISTERS = [("check", "load:a:0.0"), ("last", "load:a:0.1")]


def steps(seen: list[tuple[str, int]]) -> dict[str, Step]:
    def noted(name: str) -> MapRows:
        def note(n: int) -> dict[str, int]:
            seen.append((name, n))
            return {name: n}

        return MapRows(name=name, function=note, made_columns=[name])

    return {"each": ExpandColumns(name="each", columns={"n": "n"}), **{n: noted(n) for n in NAMES[1:]}}


def test_a_row_is_led_to_the_step_where_it_failed_without_its_sisters() -> None:
    seen: list[tuple[str, int]] = []
    of = steps(seen)
    marks = Marks({0: [("last", "load:a:0.1")]}, {})
    outcome = apply_with_marks(NAMES, lambda name, _: of[name], FAMILY, [0], marks, apply_step)
    assert seen == [("check", 2), ("last", 2)]
    assert outcome.batch.ids == ["load:a:0.1"]
    assert outcome.counts == {"last": {"done": 1, "made": 1}}


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RowWorker:
    stage = Stage("last", "rows", NAMES, ("load",))
    monkeypatch.setattr(RunDir, "plan", lambda _: Plan("run", "p", "digest", (stage,)))
    descriptor = shared_memory()
    vitals = Vitals(descriptor)
    os.close(descriptor)
    made = RowWorker(RunDir(tmp_path), vitals)
    made.steps = steps([])
    return made


def failed(outcome: Outcome) -> list[tuple[str, str, str]]:
    return [(failure.step, failure.row_id, failure.kind) for failure in outcome.failures]


def do(worker: RowWorker, marks: Marks, poison: Poison) -> list[tuple[str, str, str]]:
    outcome: Any = worker._run_marked(worker.plan.stages[0], FAMILY, [0], marks, poison)
    return failed(outcome)


def test_a_retried_row_that_kills_its_worker_is_quarantined_where_it_does(worker: RowWorker) -> None:
    """It had failed at `check`, passes it now, and kills at `last`: there its next retry begins."""
    marks = Marks({0: [("check", "load:a:0.0")]}, {})
    assert do(worker, marks, Poison(2, "SIGSEGV", 2)) == [("last", "load:a:0.0", "WorkerDied")]


def test_what_is_done_in_one_go_with_a_row_that_kills_ends_with_it(worker: RowWorker) -> None:
    assert do(worker, Marks({0: SISTERS}, {}), Poison(1, "SIGSEGV", 2)) == [
        ("check", "load:a:0.0", "WorkerDied"),
        ("last", "load:a:0.1", "WorkerDied"),
    ]


def test_rows_beside_a_retried_one_are_done_by_their_version_up_to_the_step_that_kills(
    worker: RowWorker,
) -> None:
    """Below a global step a row comes anew that was mended by an edited step: no entry is opened, the attempt stays."""

    def fail(n: int) -> dict[str, int]:
        raise ValueError(n)

    worker._edited["check", 2] = worker.steps["check"]
    worker.steps["check"] = MapRows(name="check", function=fail, made_columns=["check"])
    marks = Marks({}, {"check": {f"load:a:0.{i}": Attempt(0, 2) for i in range(2)}})
    assert do(worker, marks, Poison(2, "SIGSEGV", 2)) == [
        ("last", "load:a:0.0", "WorkerDied"),
        ("last", "load:a:0.1", "WorkerDied"),
    ]

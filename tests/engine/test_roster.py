"""Who does what: how many workers a plan has, and which may do each stage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from distilnb.engine.plan import Plan, Stage
from distilnb.engine.planning import make_plan
from distilnb.engine.roster import Roster
from distilnb.errors import SpecError
from distilnb.pipeline import Pipeline
from distilnb.spec.step import Step, StepResources
from distilnb.steps.columns import KeepColumns

SOURCE = Stage("load", "source", ("load",), replicas=1)
ROWS = Stage("keep", "rows", ("keep",), ("load",))
JOIN = Stage("join", "join", ("join",), ("keep", "load"), replicas=1)
ASK = Stage("ask", "ask", ("ask",), ("join",), "ask")
SPOOL = Stage("list", "spool", ("list",))


class Keeps(Step):
    """May keep state in its process."""


def roster(*stages: Stage, row_workers: int = 2) -> Roster:
    return Roster(Plan("run", "p", "d", stages, options={"row_workers": row_workers}))


def pick(roster: Roster, stage: Stage, loads: dict[str, int], *, ended: bool = False) -> str | None:
    return roster.pick(stage, loads.keys(), lambda name: loads[name], lambda source: ended)


def plan_of(pipeline: Pipeline, **options: Any) -> Plan:
    return make_plan(pipeline.graph, run_id="r", pipeline="p", digest="d", options=options)


def test_a_plan_without_row_steps_has_no_row_worker() -> None:
    assert roster(SPOOL, ASK).names == ["ask-0"]
    assert roster(SPOOL, ROWS).names == ["rows-0", "rows-1"]


def test_sources_are_apart_from_the_other_pinned_stages() -> None:
    staff = roster(SOURCE, ROWS, JOIN)
    loads = {"rows-0": 0, "rows-1": 5000}
    assert pick(staff, SOURCE, loads) == "rows-0"
    assert pick(staff, JOIN, loads) == "rows-1"


def test_rows_go_to_the_least_busy_but_not_to_a_source_until_it_ends() -> None:
    staff = roster(SOURCE, ROWS)
    loads = {"rows-0": 0, "rows-1": 2000}
    assert pick(staff, ROWS, loads) == "rows-1"
    assert pick(staff, ROWS, loads, ended=True) == "rows-0"
    assert pick(staff, ROWS, {"rows-0": 0}) == "rows-0"


def test_pinned_work_waits_for_its_own_worker() -> None:
    staff = roster(SOURCE, ROWS, JOIN)
    assert pick(staff, JOIN, {"rows-0": 0}) is None
    assert pick(staff, ROWS, {}) is None


def test_one_worker_does_everything_where_there_is_one() -> None:
    staff = roster(SOURCE, ROWS, JOIN, row_workers=1)
    assert {pick(staff, stage, {"rows-0": 9}) for stage in (SOURCE, ROWS, JOIN)} == {"rows-0"}


def test_as_many_row_workers_as_stages_can_work_at_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"i": 1}\n')
    source = Pipeline("p").from_files(path)
    listed = Pipeline("p").from_dicts([{"i": 1}])
    n_two = min(2, os.cpu_count() or 1)
    assert plan_of(source).options["row_workers"] == 1
    assert plan_of(source.keep("i")).options["row_workers"] == n_two
    assert plan_of(listed.keep("i")).options["row_workers"] == 1
    assert plan_of(listed.generate(llm="rehearsal", prompt="{{ i }}")).options["row_workers"] == 0
    assert plan_of(source.keep("i"), row_workers=5).options["row_workers"] == 5


def test_a_class_of_the_user_has_one_process_unless_it_asks_for_more() -> None:
    listed = Pipeline("p").from_dicts([{"i": 1}])
    several = Keeps(name="keeps", resources=StepResources(replicas=3))
    assert plan_of(listed.then(Keeps(name="keeps"))).stage("keeps").replicas == 1
    plan = plan_of(listed.then(several))
    assert (plan.stage("keeps").replicas, plan.options["row_workers"]) == (3, 3)
    assert plan_of(listed.keep("i")).stage("keep").replicas == 0


def test_steps_that_want_different_numbers_of_processes_are_not_fused() -> None:
    listed = Pipeline("p").from_dicts([{"i": 1}])
    several = Keeps(name="several", resources=StepResources(replicas=3))
    plan = plan_of(listed.keep("i").then(several).then(Keeps(name="one")))
    assert [stage.steps for stage in plan.stages] == [("load",), ("keep", "several"), ("one",)]


def test_resources_are_plain_data_with_known_fields() -> None:
    step = KeepColumns(columns=["i"], resources=StepResources(replicas=2))
    assert step.dump()["resources"] == {"replicas": 2}
    assert step.digest == KeepColumns(columns=["i"]).digest
    with pytest.raises(SpecError, match=r"resources\.replicas"):
        KeepColumns(columns=["i"], resources={"replicas": 0})  # type: ignore[typeddict-item]

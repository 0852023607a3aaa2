"""The interpreter itself, on pipelines that can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from distilnb.llms.request import Reply, Request
from distilnb.rows import Row, row_digest
from distilnb.spec.graph import Graph
from distilnb.spec.step import GlobalStep, Step
from distilnb.steps.columns import ExpandColumns
from distilnb.steps.dedup import ExactDedup
from distilnb.steps.filter import FilterRows
from distilnb.steps.join import CombineOutputs
from distilnb.steps.route import RouteRows
from distilnb.steps.sources import LoadDataFromDicts
from distilnb.tasks.base import Task
from distilnb.tasks.generation import TextGeneration
from tests.property.sequential import Interpreter, Loss, StepFailed, Trouble

ROWS: Sequence[Row] = [{"n": 1, "l": [7, 8]}, {"n": 2, "l": []}, {"n": 1, "l": [7, 8]}]


def source(number: int, k: int = 0) -> str:
    return f"load:{row_digest(ROWS[number])}:{k}"


def interpret(*steps: tuple[Step, list[str]]) -> Interpreter:
    graph = Graph().appending(LoadDataFromDicts(name="load", data=list(ROWS)))
    for step, after in steps:
        graph = graph.appending(step, after)
    interpreter = Interpreter(graph, {"load": ROWS}, answer)
    interpreter.interpret()
    return interpreter


def answer(task: Task, row_id: str, request: Request, attempt: int) -> Sequence[Reply]:
    number = request.messages[-1]["content"]
    return [Reply(f"{number}{index}" if number == "1" or index else "") for index in range(request.n)]


def ids(interpreter: Interpreter, step: str) -> list[str]:
    return [item.id for item in interpreter.endings[step].items]


def test_equal_rows_have_different_ids() -> None:
    assert ids(interpret(), "load") == [source(0), source(1), source(2, 1)]


def test_children_are_named_below_their_parent_and_a_childless_row_is_dropped() -> None:
    interpreter = interpret((ExpandColumns(name="each", columns={"l": "l"}), ["load"]))
    first, second = source(0), source(2, 1)
    assert ids(interpreter, "each") == [f"{first}.0", f"{first}.1", f"{second}.0", f"{second}.1"]
    assert interpreter.endings["each"].figures == {"done": 2, "dropped": 1, "made": 4}


def test_a_partner_that_was_filtered_is_trouble_at_the_join_with_its_cause() -> None:
    interpreter = interpret(
        (FilterRows(name="ones", condition="n == 1"), ["load"]),
        (CombineOutputs(name="both"), ["load", "ones"]),
    )
    assert ids(interpreter, "both") == [source(0), source(2, 1)]
    assert interpreter.troubles == [Trouble(source(1), "both", "MissingPartnerError", "ones")]


def test_a_global_step_keeps_the_first_of_equal_rows_under_its_name() -> None:
    interpreter = interpret((ExactDedup(name="dedup"), ["load"]))
    assert ids(interpreter, "dedup") == [source(0), source(1)]
    assert interpreter.endings["dedup"].lost == {source(2, 1): Loss("dedup")}


def test_a_reply_that_cannot_be_used_is_the_rows_trouble() -> None:
    ask = TextGeneration(name="ask", template="{{ n }}", num_generations=2, group_generations=True)
    interpreter = interpret((ask, ["load"]))
    assert [item.row["generation"] for item in interpreter.endings["ask"].items] == [
        ["10", "11"],
        ["10", "11"],
    ]
    assert interpreter.troubles == [Trouble(source(1), "ask", "ParseError")]


class Broken(GlobalStep):
    def process(self, rows: list[Row]) -> None:  # type: ignore[override]
        raise OSError("no")


def test_the_error_of_a_global_step_fails_the_run() -> None:
    with pytest.raises(StepFailed, match="broken"):
        interpret((Broken(name="broken"), ["load"]))


def test_a_row_that_its_only_branch_lost_is_lost_where_the_branches_meet() -> None:
    route = RouteRows(
        name="route", branches={"ones": ["ones"], "rest": ["met"]}, when={"ones": "n == 1"}, default="rest"
    )
    interpreter = interpret(
        (route, ["load"]),
        (FilterRows(name="ones", condition="n > 1"), ["route"]),
        (CombineOutputs(name="met"), ["ones", "route"]),
        (CombineOutputs(name="again"), ["load", "met"]),
    )
    assert ids(interpreter, "met") == ids(interpreter, "again") == [source(1)]
    lost = [Trouble(source(at, k), "again", "MissingPartnerError", "ones") for at, k in ((0, 0), (2, 1))]
    assert interpreter.troubles == lost


def test_a_row_that_failed_goes_on_where_that_is_wanted() -> None:
    graph = Graph().appending(LoadDataFromDicts(name="load", data=list(ROWS)))
    graph = graph.appending(TextGeneration(name="ask", template="{{ n }}"), ["load"])
    interpreter = Interpreter(graph, {"load": ROWS}, answer, keeps_failed=True)
    interpreter.interpret()
    (trouble,) = interpreter.troubles
    assert (trouble.id, trouble.kind, trouble.goes_on) == (source(1), "ParseError", True)
    assert ids(interpreter, "ask") == [source(0), source(1), source(2, 1)]

"""The graph: what a change leaves of the edges, and in which order."""

from __future__ import annotations

import pytest

from distilnb.errors import CycleError, UnknownStepError
from distilnb.pipeline import Pipeline
from distilnb.spec.graph import Edge, Graph
from distilnb.spec.step import Step


def drawn(*edges: Edge) -> Graph:
    names = dict.fromkeys(name for edge in edges for name in edge)
    return Graph({name: Step(name=name) for name in names}, edges)


def test_dropping_both_branches_before_a_join_leaves_one_edge() -> None:
    graph = drawn(("in", "a"), ("in", "b"), ("a", "join"), ("b", "join"))
    assert graph.dropping("a").dropping("b").edges == (("in", "join"),)


def test_dropping_a_step_beside_a_straight_edge_leaves_one_edge() -> None:
    graph = drawn(("in", "a"), ("in", "out"), ("a", "out"))
    assert graph.dropping("a").edges == (("in", "out"),)


@pytest.mark.parametrize("dropped, before_join", [("a", ["in", "b"]), ("b", ["a", "in"])])
def test_the_order_in_which_branches_meet_stays(dropped: str, before_join: list[str]) -> None:
    graph = drawn(("in", "a"), ("in", "b"), ("a", "join"), ("b", "join"))
    assert graph.dropping(dropped).predecessors("join") == before_join


def test_what_came_before_flows_into_all_that_came_after() -> None:
    graph = drawn(("a", "x"), ("b", "x"), ("x", "c"), ("x", "d"), ("d", "e"))
    assert graph.dropping("x").edges == (("a", "c"), ("b", "c"), ("a", "d"), ("b", "d"), ("d", "e"))
    assert list(graph.dropping("x").steps) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("dropped, left", [("a", (("b", "c"),)), ("c", (("a", "b"),))])
def test_dropping_an_end_drops_its_edges(dropped: str, left: tuple[Edge, ...]) -> None:
    assert drawn(("a", "b"), ("b", "c")).dropping(dropped).edges == left


def test_a_step_that_is_not_there_cannot_be_dropped() -> None:
    with pytest.raises(UnknownStepError, match="'x'"):
        drawn(("a", "b")).dropping("x")


def test_a_pipeline_without_both_branches_gives_each_row_once() -> None:
    from distilnb.steps.columns import KeepColumns

    source = Pipeline("p").from_dicts([{"x": 1}, {"x": 2}])
    branches = [KeepColumns(columns=["x"], name="a"), KeepColumns(columns=["x"], name="b")]
    joined = (source >> branches).combine(name="join")
    assert len(set(joined.drop_step("a").drop_step("b").graph.edges)) == 1
    assert len(joined.drop_step("a").drop_step("b").graph.edges) == 1


def test_a_circle_is_told_in_the_direction_of_the_rows() -> None:
    with pytest.raises(CycleError, match=r"a → b → c → a|b → c → a → b|c → a → b → c"):
        drawn(("in", "a"), ("a", "b"), ("b", "c"), ("c", "a")).order()

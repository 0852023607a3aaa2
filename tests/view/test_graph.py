from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from distilnb.engine.status import RunStatus, StepStatus
from distilnb.spec.graph import Graph
from distilnb.steps import RouteRows
from distilnb.view.drawing import describe
from distilnb.view.graph import dot_source, draw_svg, graph_bundle, outline
from tests.view.samples import HOSTILE, Making, Source, branches, chain, check_html, large, status

needs_dot = [
    pytest.mark.dot,
    pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz's dot is not installed: make parts"),
]
both_ways = pytest.mark.parametrize(
    "use_dot", [pytest.param(True, marks=needs_dot), False], ids=["dot", "own"]
)


def names_in(svg: str) -> list[str]:
    """Return the first text of each card."""
    root = ElementTree.fromstring(svg)
    groups = [g for g in root.iter() if g.tag.endswith("}g") and g.get("class") == "node"]
    return [next(t.text or "" for t in group.iter() if t.tag.endswith("}text")) for group in groups]


def test_outline_of_a_chain() -> None:
    assert outline(chain()) == (
        "load → answer → judge\n"
        "  load    Source  makes id, instruction\n"
        "  answer  Making  makes generations, models\n"
        "  judge   Making  makes ratings"
    )


def test_outline_of_branches_joins_and_leaves() -> None:
    assert outline(branches()).splitlines()[:7] == [
        "load",
        "├ a",
        "├ b",
        "└ c",
        "a + b → group",
        "├ to_sft",
        "└ to_dpo",
    ]


def test_outline_with_a_status_says_state_counts_and_cost() -> None:
    assert outline(chain(), None, status()) == (
        "load → answer → judge\n"
        "  load    Source  ✓ finished 412              makes id, instruction\n"
        "  answer  Making  ► running 309/412    $0.06  makes generations, models\n"
        "  judge   Making  ► running 320/1,000  $0.35  makes ratings"
    )


def test_before_a_run_steps_are_to_run_and_say_what_is_cached() -> None:
    steps = (
        StepStatus("load", "Source", total=412),
        StepStatus("answer", "Making", total=412, cached=5),
        StepStatus("judge", "Making", total=412, cached=412),
    )
    told = outline(chain(), None, RunStatus("", "prefs", "starting", steps))
    assert "○ to run" in told
    assert "○ cached 5/412, to run" in told
    assert "✓ cached" in told


def test_an_empty_graph_shows_itself() -> None:
    assert graph_bundle(Graph())["text/plain"] == "no steps yet"
    assert "no steps yet" in check_html(graph_bundle(Graph())["text/html"])


@both_ways
@pytest.mark.parametrize("make", [chain, branches, large], ids=["chain", "branches", "large"])
def test_every_step_is_drawn(use_dot: bool, make: type) -> None:
    graph = make()
    assert sorted(names_in(draw_svg(graph, use_dot=use_dot))) == sorted(graph.steps)


@both_ways
def test_a_drawing_tells_states_in_words_and_columns_on_edges(use_dot: bool) -> None:
    svg = draw_svg(chain(), None, status(), ["Step 'judge' overwrites column 'x'."], use_dot=use_dot)
    told = check_html(svg)
    for word in ("running", "309/412", "$0.06", "generations", "models", "+ ratings", "►", "✓", "⚠"):
        assert word in told


@both_ways
def test_a_drawing_fits_any_page(use_dot: bool) -> None:
    svg = draw_svg(large(), None, use_dot=use_dot)
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "group"
    assert "max-width:100%" in root.get("style", "")
    assert "white" not in svg
    assert "#fff" not in svg
    assert "black" not in svg
    assert 'fill="currentColor"' in svg
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids)) == 2
    assert root.get("aria-labelledby") == " ".join(map(str, ids))


def test_equal_graphs_make_equal_drawings_and_others_have_other_ids() -> None:
    assert draw_svg(chain(), use_dot=False) == draw_svg(chain(), use_dot=False)
    one, other = (draw_svg(graph, use_dot=False) for graph in (chain(), branches()))
    assert one.split('aria-labelledby="')[1][:14] != other.split('aria-labelledby="')[1][:14]


@both_ways
def test_a_graph_does_not_turn_while_its_run_goes(use_dot: bool) -> None:
    """A state that is longer to write must not turn a drawing from left-to-right to downwards."""
    wide = replace(status(), steps=tuple(replace(s, total=10**9, done=10**8) for s in status().steps))
    boxes = [
        ElementTree.fromstring(draw_svg(chain(), None, s, use_dot=use_dot)).attrib
        for s in (None, status(), wide)
    ]
    assert all(float(box["width"]) > float(box["height"]) for box in boxes)


@both_ways
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_names_and_columns_stay_text(use_dot: bool, text: str) -> None:
    graph = (
        Graph().appending(Source(name="load")).appending(Making(name=text, makes=[text, text * 30]), ["load"])
    )
    graph = graph.appending(Making(name="end"), [text])
    svg = draw_svg(graph, None, None, [f"Step {text!r} is odd"], use_dot=use_dot)
    check_html(svg)
    assert len(names_in(svg)) == 3


@both_ways
def test_a_long_name_is_cut_and_told_whole_in_the_title(use_dot: bool) -> None:
    name = "a_very_long_step_name_that_goes_on_and_on"
    svg = draw_svg(chain(name), use_dot=use_dot)
    assert names_in(svg)[1] == "a_very_long_step_name_that_…"
    assert f"<title>{name} (Making)" in svg


@pytest.mark.parametrize("make", [chain, branches, large], ids=["chain", "branches", "large"])
def test_a_shown_graph_is_small(make: type) -> None:
    bundle = graph_bundle(
        make(), None, None, ["Step 'a' overwrites column 'x'."], title="prefs", notes=["412 rows"]
    )
    assert len(bundle["text/html"].encode()) < 20_000
    told = check_html(bundle["text/html"])
    assert told.startswith("prefs")
    assert told.endswith("412 rows")
    assert bundle["text/plain"].splitlines()[0] == "prefs"
    assert bundle["text/plain"].splitlines()[-2:] == ["⚠ Step 'a' overwrites column 'x'.", "412 rows"]


def test_a_graph_of_thirty_steps_is_drawn_with_its_states_and_one_of_ninety_is_outlined() -> None:
    for n_steps, is_drawn in ((30, True), (90, False)):
        graph = large(n_steps)
        steps = tuple(
            StepStatus(name, "Making", "running", 100, 50, asked=9, cost_usd=0.1) for name in graph.steps
        )
        html = graph_bundle(graph, None, status(steps=steps))["text/html"]
        assert ("<svg" in html) == is_drawn
        assert "running 50/100" in check_html(html)
        assert len(html.encode()) < 20_000


def test_dot_source_is_made_without_dot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    source = dot_source(describe(chain(), None, status(), []))
    assert source.startswith("digraph pipeline {")
    assert source.count(" -> ") == 2
    assert names_in(draw_svg(chain())) == ["load", "answer", "judge"]


def test_a_dot_that_fails_leaves_the_drawing_to_us(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    from pathlib import Path

    fake = Path(str(tmp_path)) / "dot"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert names_in(draw_svg(chain())) == ["load", "answer", "judge"]


def test_a_wrong_graph_is_drawn_too() -> None:
    """A step that reads a column nobody makes: that is when one looks at the drawing."""

    class Picky(Making):
        inputs = ["nowhere"]

    graph = chain().appending(Picky(name="picky"), ["judge"])
    assert "picky" in names_in(draw_svg(graph, use_dot=False))


def routed() -> Graph:
    """Return two routes, one in a branch of the other, whose second branch leads straight into the join."""
    steps = [
        Source(name="load"),
        RouteRows(
            name="kind",
            branches={"long": ["a"], "short": ["both"], "odd": ["draw"]},
            when=WHEN,
            default="odd",
        ),
        Making(name="a"),
        RouteRows(name="draw", branches=["b", "c"], weights={"b": 3, "c": 0.5}),  # type: ignore[arg-type]
        Making(name="b"),
        Making(name="c"),
        Making(name="both"),
    ]
    edges = [("load", "kind"), ("kind", "a"), ("kind", "draw"), ("kind", "both"), ("a", "both")]
    edges += [("draw", "b"), ("draw", "c")]
    return Graph({step.name: step for step in steps}, tuple(edges))


WHEN = {"long": "len(text) > 40 and language != 'zh-Hans'", "short": "n < 3"}


def test_the_outline_tells_on_what_terms_rows_take_a_branch() -> None:
    assert outline(routed()).splitlines()[:6] == [
        "load → kind",
        "├ [len(text) > 40 and language != 'zh-Hans'] a",
        "└ [else] draw",
        "  ├ [1 of 2, weight 3] b",
        "  └ [1 of 2, weight 0.5] c",
        "kind [n < 3] + a → both",
    ]


@both_ways
def test_a_drawing_tells_them_on_the_edges(use_dot: bool) -> None:
    svg = draw_svg(routed(), use_dot=use_dot)
    root = ElementTree.fromstring(svg)
    edges = [g for g in root.iter() if g.tag.endswith("}g") and g.get("class") == "edge"]
    told = {"".join(t.text or "" for t in g.iter() if t.tag.endswith("}text")).strip("\xa0 ") for g in edges}
    assert {"len(text) > 40 and lang…", "else", "n < 3", "1 of 2, weight 3", "1 of 2, weight 0.5"} <= told
    assert (
        "language != &#x27;zh-Hans&#x27;" in svg or "language != &#39;zh-Hans&#39;" in svg
    )  # in whole, as a title


def test_labels_of_a_route_do_not_lie_upon_each_other() -> None:
    root = ElementTree.fromstring(draw_svg(routed(), use_dot=False))
    labels = [
        next(t for t in g.iter() if t.tag.endswith("}text"))
        for g in root.iter()
        if g.get("class") == "edge" and any(t.tag.endswith("}text") for t in g.iter())
    ]
    places = sorted((float(t.get("y", 0)), float(t.get("x", 0)), len(t.text or "")) for t in labels)
    for (y, x, n), (other_y, other_x, _) in pairwise(places):
        assert y != other_y or x + n * 5 < other_x

"""The route: which branches a row takes hangs on its id, its columns and the seed, and on nothing else."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from distilnb.errors import MissingValueError, SpecError, StepRowError
from distilnb.pipeline import Pipeline, routing_batch_function, sample_n_steps
from distilnb.rows import IdMaker
from distilnb.steps import KeepColumns, LoadDataFromDicts, RouteRows

IDS = [IdMaker("load").make({"n": n}) for n in range(20_000)]


def chosen(route: RouteRows, ids: list[str] = IDS) -> list[list[str]]:
    return [route.choose(row_id, {}) for row_id in ids]


def test_lots_are_drawn_as_weights_say() -> None:
    route = RouteRows(branches=["a", "b", "c"], weights={"a": 6, "b": 3, "c": 1})  # type: ignore[arg-type]
    shares = Counter(name for names in chosen(route) for name in names)
    assert sum(shares.values()) == len(IDS)
    # The standard deviation of a share is at most 0.0035.
    assert {name: round(count / len(IDS), 1) for name, count in shares.items()} == {
        "a": 0.6,
        "b": 0.3,
        "c": 0.1,
    }


def test_two_of_three_are_two_and_each_pair_is_as_frequent() -> None:
    pairs = Counter(map(tuple, chosen(RouteRows(branches=["a", "b", "c"], n=2))))  # type: ignore[arg-type]
    assert set(pairs) == {("a", "b"), ("a", "c"), ("b", "c")}
    assert all(abs(count / len(IDS) - 1 / 3) < 0.02 for count in pairs.values())


def test_lots_are_the_same_in_every_process_and_version() -> None:
    """Pinned: a changed draw would send the rows of a resumed or repeated run elsewhere, and ask again."""
    route = RouteRows(branches=["a", "b", "c"], weights={"a": 2, "b": 1, "c": 1}, n=2)  # type: ignore[arg-type]
    ids = [f"load:{n:016x}:0" for n in range(12)]
    assert " ".join("".join(names) for names in chosen(route, ids)) == "ac ab ab ac ab ab ac ab ab ab bc bc"


def test_another_seed_draws_anew() -> None:
    one, other = (RouteRows(branches=["a", "b"], n=1, seed=seed) for seed in (0, 1))  # type: ignore[arg-type]
    same = sum(a == b for a, b in zip(chosen(one), chosen(other), strict=True))
    assert abs(same / len(IDS) - 0.5) < 0.02


def test_a_new_branch_takes_rows_but_moves_no_others() -> None:
    before = chosen(RouteRows(branches=["a", "b"], n=1))  # type: ignore[arg-type]
    after = chosen(RouteRows(branches=["a", "b", "c"], n=1))  # type: ignore[arg-type]
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert {name for names in moved for name in names} == {"c"}
    assert abs(len(moved) / len(IDS) - 1 / 3) < 0.02


def test_a_row_takes_every_branch_whose_condition_holds_else_the_default() -> None:
    route = RouteRows(
        branches=["even", "big", "rest"],  # type: ignore[arg-type]
        when={"even": "n % 2 == 0", "big": lambda n: n > 9},  # type: ignore[dict-item]
        default="rest",
    )
    assert [route.choose("", {"n": n}) for n in (2, 11, 12, 3)] == [
        ["even"],
        ["big"],
        ["even", "big"],
        ["rest"],
    ]
    assert route.updated(default="").choose("", {"n": 3}) == []


def test_a_condition_that_needs_a_missing_value_is_the_error_of_the_row() -> None:
    route = RouteRows(branches=["a", "b"], when={"a": "n > 1"}, default="b")  # type: ignore[arg-type]
    with pytest.raises(MissingValueError, match="'n' is None"):
        route.choose("", {"n": None})


def test_a_function_gets_the_branches_and_the_columns_that_it_names() -> None:
    def by_topic(steps: list[str], topic: str, *, strict: bool = False) -> list[str]:
        return [step for step in steps if step.startswith(topic)]

    route = RouteRows(branches=["sea_a", "sea_b", "sky"], function=by_topic)  # type: ignore[arg-type]
    assert route.needed() == ["topic"]
    assert route.choose("", {"topic": "sea"}) == ["sea_a", "sea_b"]
    assert route.choose("", {"topic": "earth"}) == []


def test_a_function_that_draws_draws_the_same_for_the_same_row_and_leaves_random_alone() -> None:
    @routing_batch_function()
    def two(steps: list[str]) -> list[str]:
        return random.sample(steps, 2)

    route = two.to_step().with_branch("a", ["a"]).with_branch("b", ["b"]).with_branch("c", ["c"])
    random.seed(7)
    state = random.getstate()
    first = chosen(route, IDS[:300])
    assert random.getstate() == state
    random.seed(8)
    assert chosen(route, IDS[:300]) == first
    assert len({tuple(names) for names in first}) == 3


@pytest.mark.parametrize("named", ["lft", ["left", "lft"], [3]])
def test_a_function_that_names_no_branch_is_the_error_of_the_row(named: object) -> None:
    route = RouteRows(branches=["left", "right"], function=lambda steps, row: named)  # type: ignore[arg-type]
    with pytest.raises(StepRowError, match="the branches are"):
        route.choose("", {})


@pytest.mark.parametrize(
    "named, steps", [("left", ["left"]), (None, []), ([], []), (("right", "left"), ["left", "right"])]
)
def test_what_a_function_may_return(named: object, steps: list[str]) -> None:
    route = RouteRows(branches=["left", "right"], function=lambda steps: named)  # type: ignore[arg-type]
    assert route.choose("", {}) == steps


def test_the_decorator_takes_its_function_with_or_without_a_call() -> None:
    def first(steps: list[str]) -> list[str]:
        return steps[:1]

    for routing in (
        routing_batch_function(first),
        routing_batch_function()(first),
        routing_batch_function("a description, as in distilabel")(first),
        routing_batch_function(description="the same")(first),
    ):
        assert routing(["a", "b"]) == ["a"]
        assert routing.to_step().function.live is first
    with pytest.raises(SpecError, match="is no function"):
        routing_batch_function(3)


# --- in a graph ----------------------------------------------------------------


def keeping(*names: str) -> list[KeepColumns]:
    return [KeepColumns(name=name, columns=["n"]) for name in names]


@pytest.mark.parametrize("form", ["arrows", "connect"])
def test_the_class_form_of_distilabel(form: str) -> None:
    with Pipeline("p") as p:
        load = LoadDataFromDicts(name="load", data=[{"n": 1}])
        steps = keeping("a", "b", "c")
        if form == "arrows":
            load >> sample_n_steps(2) >> steps
        else:
            load.connect(*steps, routing_batch_function=sample_n_steps(2))
    route = p.graph.steps["route_rows_0"]
    assert isinstance(route, RouteRows)
    assert (route.branches, route.n) == ({"a": ["a"], "b": ["b"], "c": ["c"]}, 2)
    assert p.graph.successors("load") == ["route_rows_0"]
    p.check()


def test_one_routing_may_stand_in_several_places() -> None:
    half = sample_n_steps(1)
    with Pipeline("p") as p:
        load = LoadDataFromDicts(name="load", data=[{"n": 1}])
        a, b, c, d = keeping("a", "b", "c", "d")
        load >> half >> [a, b]
        b >> half >> [c, d]
    assert [name for name in p.graph.steps if name.startswith("route")] == ["route_rows_0", "route_rows_1"]
    p.check()


def branched() -> Pipeline:
    """Return a pipeline with a branch of two steps, one of two beginnings, and one that goes straight on."""
    source = Pipeline("p", llm="rehearsal").from_dicts([{"instruction": "hi", "n": n} for n in range(9)])
    return source.route(
        {
            "long": lambda p: p.generate("draft").map(lambda generations: {"length": len(generations[0])}),
            "twice": lambda p: p.generate("both", llm=["rehearsal", "rehearsal"]),
            "none": lambda p: p,
        },
        when={"long": "n > 6", "twice": "n > 3"},
        default="none",
    ).combine()


def branches_of(p: Pipeline) -> dict[str, list[str]]:
    route = p.graph.steps["route"]
    assert isinstance(route, RouteRows)
    return route.branches


def test_a_branch_begins_with_what_its_function_adds() -> None:
    p = branched()
    assert branches_of(p) == {"long": ["draft"], "twice": ["both_1", "both_2"], "none": ["combine"]}
    assert p.graph.predecessors("combine") == ["map", "both", "route"]
    p.check()


def test_a_routed_pipeline_is_equal_to_what_is_read_from_its_file() -> None:
    p = branched().drop_step("map")
    read = Pipeline.from_yaml(p.to_yaml())
    assert read == p
    assert read.digest == p.digest
    assert branches_of(read) == branches_of(p)


def test_a_function_in_a_file_is_trusted_or_not() -> None:
    p = Pipeline("p").from_dicts([{"n": n} for n in range(4)])
    p = p.route(keeping("a", "b"), by=by_size).combine()
    with pytest.raises(SpecError, match="was not trusted"):
        Pipeline.from_yaml(p.to_yaml()).check()
    read = Pipeline.from_yaml(p.to_yaml(), trust_code=True)
    assert read.digest == p.digest
    assert read.preview(4).rows == p.preview(4).rows


def by_size(steps: list[str], n: int) -> str:
    return steps[n % 2]


def test_the_digest_knows_the_order_of_branches_where_it_counts() -> None:
    one, other = (RouteRows(branches=names, n=1) for names in (["a", "b"], ["b", "a"]))  # type: ignore[arg-type]
    assert one.digest == other.digest
    assert one.updated(n=None, function=by_size).digest != other.updated(n=None, function=by_size).digest


def test_a_dropped_step_leaves_its_branch_to_those_that_follow() -> None:
    p = branched()
    assert branches_of(p.drop_step("draft"))["long"] == ["map"]
    assert branches_of(p.drop_step("draft").drop_step("map"))["long"] == ["combine"]
    p.drop_step("draft").drop_step("map").check()
    assert p.drop_step("route").graph.predecessors("combine") == ["map", "both", "load"]


def test_a_dropped_leaf_takes_its_branch_along() -> None:
    source = Pipeline("p").from_dicts([{"n": 1}])
    p = source.route(keeping("a", "b", "c"), weights={"a": 1, "b": 2, "c": 3}).drop_step("b")
    route = p.graph.steps["route"]
    assert isinstance(route, RouteRows)
    assert (list(route.branches), route.weights) == (["a", "c"], {"a": 1, "c": 3})
    p.check()


def test_a_branch_of_one_model_becomes_one_of_two_and_back() -> None:
    p = branched().generate("draft", llm=["rehearsal", "rehearsal"])
    assert branches_of(p)["long"] == ["draft_1", "draft_2"]
    p.check()
    assert branches_of(p.generate("draft"))["long"] == ["draft"]


def test_branches_may_be_added_by_verbs_that_name_the_route() -> None:
    p = Pipeline("p", llm="rehearsal").from_dicts([{"instruction": "hi"}]).route(weights={"a": 1, "b": 1})
    p = p.generate("a", after="route").generate("b", after="route").combine(after=["a", "b"])
    assert branches_of(p) == {"a": ["a"], "b": ["b"]}
    p.check()


def test_a_route_named_again_changes_in_place_and_keeps_its_branches() -> None:
    p = branched().route(when={"long": "n > 7", "twice": "n > 3"}, default="none", name="route")
    assert branches_of(p) == branches_of(branched())
    assert p.graph.edges == branched().graph.edges
    p.check()
    with pytest.raises(SpecError, match="has its branches"):
        p.route({"long": lambda p: p}, n=1, name="route")

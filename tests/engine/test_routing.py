"""Routes and joins against a plain function of one row: random graphs, nested, with losses and every `how`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from distilnb.engine.preview import preview_graph
from distilnb.pipeline import Pipeline
from distilnb.rows import Batch, IdMaker, Row
from distilnb.steps import RouteRows

N_ROWS = 24
ROWS: list[Row] = [{"n": n} for n in range(N_ROWS)]
IDS = [IdMaker("load").make(row) for row in ROWS]


@dataclass(frozen=True)
class Plain:
    """A step that makes a column, or loses each row of a number divisible by `loses`: by an error, or on purpose."""

    loses: int = 0
    is_error: bool = True


@dataclass(frozen=True)
class Fork:
    """Branches of a step, and their join; without a way all rows take all branches."""

    branches: tuple[tuple[Any, ...], ...]
    way: str
    how: str


def blocks() -> st.SearchStrategy[tuple[Any, ...]]:
    plain = st.builds(Plain, st.sampled_from([0, 0, 2, 3, 5]), st.booleans())

    def forked(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        branches = st.lists(st.lists(inner, max_size=2).map(tuple), min_size=2, max_size=3).map(tuple)
        ways = st.sampled_from(["all", "one", "two", "weights", "when", "default"])
        return plain | st.builds(Fork, branches, ways, st.sampled_from(["inner", "left", "outer"]))

    return st.lists(st.recursive(plain, forked, max_leaves=7), min_size=1, max_size=3).map(tuple)


# --- the pipeline --------------------------------------------------------------


class Drawing:
    """Draws blocks as a pipeline, and keeps for each the function from a row to what becomes of it."""

    def __init__(self) -> None:
        self.n_steps = 0

    def chain(self, p: Pipeline, chain: Sequence[Any]) -> Pipeline:
        for block in chain:
            p = self.fork(p, block) if isinstance(block, Fork) else self.plain(p, block)
        return p

    def name(self) -> str:
        self.n_steps += 1
        return f"s{self.n_steps}"

    def plain(self, p: Pipeline, block: Plain) -> Pipeline:
        name = self.name()
        if block.loses and not block.is_error:
            return p.filter(f"n % {block.loses} != 0", name=name)
        return p.map(making(name, block.loses), makes=[name], name=name)

    def fork(self, p: Pipeline, block: Fork) -> Pipeline:
        n, names = len(block.branches), [f"b{number}" for number in range(len(block.branches))]
        options: dict[str, dict[str, Any]] = {
            "all": {"n": n},
            "one": {"n": 1},
            "two": {"n": 2, "seed": 3},
            "weights": {"weights": {name: 1 + number for number, name in enumerate(names)}},
            "when": {"when": {name: f"n % {number + 2} == 0" for number, name in enumerate(names)}},
            "default": {"when": dict.fromkeys(names[1:], "n < 9"), "default": names[0]},
        }
        branches = {
            name: lambda p, chain=chain: self.chain(p, chain)
            for name, chain in zip(names, block.branches, strict=True)
        }
        route, join = self.name(), self.name()
        return p.route(branches, name=route, **options[block.way]).combine(how=block.how, name=join)  # type: ignore[arg-type]


def making(name: str, loses: int) -> Callable[..., Row]:
    def make(n: int) -> Row:
        if loses and n % loses == 0:
            raise ValueError(f"{n} is refused")
        return {name: n}

    return make


# --- the same for one row ------------------------------------------------------


class Loop:
    """What a pipeline makes of one row, step by step; `None` stands for a row that was lost."""

    def __init__(self, p: Pipeline, row_id: str) -> None:
        self.p = p
        self.row_id = row_id
        self.n_steps = 0

    def name(self) -> str:
        self.n_steps += 1
        return f"s{self.n_steps}"

    def chain(self, row: Row | None, chain: Sequence[Any]) -> Row | None:
        for block in chain:
            row = self.fork(row, block) if isinstance(block, Fork) else self.plain(row, block)
        return row

    def plain(self, row: Row | None, block: Plain) -> Row | None:
        name = self.name()
        if row is None or (block.loses and row["n"] % block.loses == 0):
            return None
        return row if block.loses and not block.is_error else {**row, name: row["n"]}

    def fork(self, row: Row | None, block: Fork) -> Row | None:
        route, join = self.p.graph.steps[self.name()], self.name()
        assert isinstance(route, RouteRows)
        chosen = set() if row is None else route._chosen(self.row_id, row)
        taken: list[Row | None] = []
        straight_on = [f"b{number}" for number, chain in enumerate(block.branches) if not chain]
        for number, chain in enumerate(block.branches):
            # Branches without a step are one way from the route to the join, which stands where the first of them does.
            names = {f"b{number}"} if chain else set(straight_on if f"b{number}" == straight_on[0] else ())
            result = self.chain(row if names & chosen else None, chain)
            if names & chosen:
                taken.append(result)
        there = [result for result in taken if result is not None]
        is_kept = (
            len(there) == len(taken) or block.how == "outer" or (block.how == "left" and taken[0] is not None)
        )
        if not there or not is_kept:
            return None
        joined: Row = {}
        for result in there:
            joined.update(result)
        return {**dict.fromkeys(self.p.graph.columns()[join].names), **joined}


@settings(max_examples=60, deadline=None)
@given(blocks())
def test_every_row_is_what_a_plain_function_makes_of_it(chain: tuple[Any, ...]) -> None:
    p = Drawing().chain(Pipeline("law").from_dicts(ROWS), chain)
    p.check()
    batch = Batch(ROWS, IDS, [[n] for n in range(N_ROWS)])
    *_, last = preview_graph(p.graph, {"load": batch})
    made = dict(zip(last.outgoing.ids, last.outgoing.rows, strict=True))
    expected = {row_id: Loop(p, row_id).chain(row, chain) for row_id, row in zip(IDS, ROWS, strict=True)}
    assert made == {row_id: row for row_id, row in expected.items() if row is not None}
    assert last.outgoing.ids == [row_id for row_id in IDS if row_id in made]

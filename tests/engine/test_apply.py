"""One step on one batch: who is whose child, and who failed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilnb.engine.apply import FILTERED, Outcome, apply_step, merge
from distilnb.engine.apply_global import apply_global
from distilnb.rows import Batch, Gone, IdMaker, Row
from distilnb.spec.step import DropRow, GlobalStep, Step
from distilnb.steps import (
    DropColumns,
    ExpandColumns,
    FilterRows,
    FunctionStep,
    KeepColumns,
    MapRows,
    MergeColumns,
    RenameColumns,
)

Rows = Iterator[list[Row]]


def make_batch(*values: Any) -> Batch:
    batch = Batch()
    for index, value in enumerate(values):
        batch.add({"x": value}, f"id{index}", [index])
    return batch


class InPlace(Step):
    """Changes the rows it got, as 1.x steps do."""

    name: str = "in_place"
    inputs = ["x"]
    outputs = ["y"]

    def process(self, rows: list[Row]) -> Rows:  # type: ignore[override]
        for row in rows:
            row["y"] = row["x"] + 1
        yield rows


class Even(Step):
    """Keeps some of the rows it got."""

    name: str = "even"

    def process(self, rows: list[Row]) -> Rows:  # type: ignore[override]
        yield [row for row in rows if row["x"] % 2 == 0]


class Twice(Step):
    """Makes two new rows of each, without saying so."""

    name: str = "twice"

    def process(self, rows: list[Row]) -> Rows:  # type: ignore[override]
        yield [{**row, "copy": copy} for row in rows for copy in range(2)]


class Picky(Step):
    """Raises on 3, leaves 5 out."""

    name: str = "picky"

    def process(self, rows: list[Row]) -> Rows:  # type: ignore[override]
        for row in rows:
            if row["x"] == 3:
                raise ValueError("three")
            if row["x"] == 5:
                raise DropRow("five")
        yield rows


def test_rows_of_the_caller_are_not_changed() -> None:
    batch = make_batch(1, 2)
    assert [row["y"] for row in apply_step(InPlace(), batch).batch.rows] == [2, 3]
    assert batch.rows == [{"x": 1}, {"x": 2}]


@given(st.lists(st.integers(0, 9), max_size=120))
def test_a_filter_keeps_the_ids_of_what_it_kept(values: list[int]) -> None:
    outcome = apply_step(Even(), make_batch(*values))
    assert outcome.batch.ids == [f"id{i}" for i, value in enumerate(values) if value % 2 == 0]
    assert [gone.id for gone in outcome.batch.gone] == [
        f"id{i}" for i, value in enumerate(values) if value % 2
    ]


def test_children_carry_their_parents_id_and_order() -> None:
    outcome = apply_step(Twice(), make_batch("a", "b"))
    assert outcome.batch.ids == ["id0.0", "id0.1", "id1.0", "id1.1"]
    assert outcome.batch.orders == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert outcome.counts["twice"] == {"done": 2, "made": 4}


def test_one_bad_row_costs_itself_alone() -> None:
    outcome = apply_step(Picky(), make_batch(*range(7)))
    assert outcome.batch.ids == ["id0", "id1", "id2", "id4", "id6"]
    assert [(f.row_id, f.kind, f.reason) for f in outcome.failures] == [("id3", "ValueError", "three")]
    assert "in process" in outcome.failures[0].traceback
    assert outcome.drop_reasons == {"picky": {"five": 1}}
    assert outcome.counts["picky"] == {"done": 5, "made": 5, "failed": 1, "dropped": 1}


def test_mapped_columns_enter_and_leave_under_other_names() -> None:
    step = InPlace(input_mappings={"x": "number"}, output_mappings={"y": "next"})
    batch = Batch([{"number": 4, "x": "kept"}], ["id"], [[0]])
    row = apply_step(step, batch).batch.rows[0]
    assert row["number"] == 4
    assert row["next"] == 5


def test_a_step_that_makes_no_dicts_fails_its_rows() -> None:
    class Wrong(Step):
        name: str = "wrong"

        def process(self, rows: list[Row]) -> Any:  # type: ignore[override]
            yield ["no dict" for _ in rows]

    outcome = apply_step(Wrong(), make_batch(1))
    assert outcome.failures[0].reason == "Step 'wrong' made a 'str'; it must make dicts."


def one_after_the_other(steps: list[Step], batch: Batch) -> Outcome:
    total = Outcome(batch)
    for step in steps:
        outcome = apply_step(step, total.batch)
        merge(total, outcome)
        total.batch = outcome.batch
    return total


def test_fused_steps_count_each_for_itself() -> None:
    outcome = one_after_the_other([Even(), InPlace()], make_batch(1, 2, 4))
    assert [row["y"] for row in outcome.batch.rows] == [3, 5]
    assert outcome.counts == {
        "even": {"done": 2, "made": 2, "dropped": 1},
        "in_place": {"done": 2, "made": 2},
    }
    assert outcome.drop_reasons == {"even": {FILTERED: 1}}


def test_a_users_step_gets_batches_of_its_own_size() -> None:
    sizes: list[int] = []

    class Sized(Step):
        name: str = "sized"
        input_batch_size: int = 2

        def process(self, rows: list[Row]) -> Rows:  # type: ignore[override]
            sizes.append(len(rows))
            yield rows

    apply_step(Sized(), make_batch(*range(5)))
    assert sizes == [2, 2, 1]


# --- on columns ---


def outcome_by_row(step: Step, batch: Batch) -> Any:
    """What the step does when it has no form on columns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distilnb.engine.apply._try_columns", lambda *_: None)
        return apply_step(step, batch)


def seen(outcome: Any) -> Any:
    batch = outcome.batch
    return (
        batch.rows,
        [*batch.rows[0]] if batch.rows else [],  # a batch has its columns in the order of its first row
        batch.ids,
        batch.orders,
        sorted(batch.gone),
        [(failure.row_id, failure.kind, failure.reason) for failure in outcome.failures],
        outcome.counts,
        outcome.drop_reasons,
    )


def picky(x: Any) -> dict[str, Any]:
    return {"half": x // 2}


def ragged(x: Any) -> dict[str, Any]:
    return {"odd": x} if x % 2 else {"x": 0, "even": x}


def sometimes_none(x: Any, items: Any = ()) -> dict[str, Any] | None:
    return None if x == 2 else {"n": len(items)}


def marked(x: Any, *, mark: str = "!") -> dict[str, str]:
    return {"text": f"{x}{mark}"}


STEPS: list[Step] = [
    KeepColumns(columns=["items", "x"]),
    KeepColumns(columns=["absent"]),
    DropColumns(columns=["x", "absent"]),
    DropColumns(columns=["x", "items"]),
    RenameColumns(columns={"x": "y"}),
    RenameColumns(columns={"x": "items"}),
    MergeColumns(columns=["items", "x"], output_column="all"),
    ExpandColumns(columns=["items"]),
    ExpandColumns(columns={"items": "item"}, input_mappings={"items": "x"}),
    ExpandColumns(columns={"items": "item"}, output_mappings={"item": "thing"}),
    FilterRows(condition="x % 2 == 0"),
    FilterRows(condition="x > 1 and items"),
    FilterRows(condition="x is odd"),
    FilterRows(condition=lambda x: x > 1),
    FilterRows(condition=lambda row: row["x"] > 1),
    MapRows(function=picky),
    MapRows(function=ragged),
    MapRows(function=lambda x: x),
    MapRows(function=lambda row: {"x": row["x"], "z": 1}),
    FunctionStep(function=sometimes_none),
    FunctionStep(function=marked, settings={"mark": "?"}),
    FunctionStep(function=picky, input_mappings={"x": "items"}, output_mappings={"half": "whole"}),
]


PAIRS = st.lists(st.integers(0, 9), min_size=2, max_size=2)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.kind()}-{STEPS.index(step)}")
@given(
    st.lists(
        st.fixed_dictionaries(
            {"x": st.integers(0, 3) | st.integers(0, 3) | st.none() | st.just("text")},
            optional={"items": st.lists(st.integers(0, 9), max_size=3) | PAIRS | st.just("no list")},
        ),
        max_size=6,
    )
    | st.lists(st.fixed_dictionaries({"x": st.integers(0, 3), "items": PAIRS}), max_size=6),
    st.booleans(),
    st.booleans(),
)
def test_a_step_does_to_columns_what_it_does_to_rows(
    step: Step, rows: list[Row], is_flat: bool, names_dropped: bool
) -> None:
    step = type(step)(**{**dict(step), "name": "tried"})
    rows = [{name: row[name] for name in ("x", "items") if name in row} for row in rows]
    orders: list[Any] = list(range(len(rows))) if is_flat else [[i, 4] for i in range(len(rows))]
    ids = [f"id{i}" for i in range(len(rows))]
    by_row = outcome_by_row(step, Batch([dict(row) for row in rows], list(ids), list(orders)))
    batch = Batch([dict(row) for row in rows], list(ids), list(orders))
    outcome = apply_step(step, batch, names_dropped=names_dropped)
    if not names_dropped:  # they are counted all the same
        failed = {failure.row_id for failure in by_row.failures}
        by_row.batch.gone = [gone for gone in by_row.batch.gone if gone.id in failed]
    assert seen(outcome) == seen(by_row)


def test_a_subclass_with_a_process_of_its_own_is_not_run_on_columns() -> None:
    class Shouting(KeepColumns):
        def process(self, rows: list[Row]) -> Rows:  # type: ignore[override]
            yield [{"x": str(row["x"]).upper()} for row in rows]

    Shouting.__name__ = "KeepColumns"  # as a class of the library is called
    outcome = apply_step(Shouting(name="shout", columns=["x"]), make_batch("a", "b"))
    assert outcome.batch.rows == [{"x": "A"}, {"x": "B"}]


def test_a_users_step_after_a_step_on_columns_gets_rows_of_its_own() -> None:
    batch = Batch(columns={"x": [1, 2]}, ids=["a", "b"], orders=[0, 1])
    outcome = one_after_the_other(
        [RenameColumns(name="r", columns={"x": "z"}), RenameColumns(name="s", columns={"z": "x"}), InPlace()],
        batch,
    )
    assert outcome.batch.rows == [{"x": 1, "y": 2}, {"x": 2, "y": 3}]
    assert batch.columns() == {"x": [1, 2]}


class Sorted(GlobalStep):
    """Returns the rows it got in another order, without the largest."""

    name: str = "sorted"

    def process(self, rows: list[Row]) -> Rows:  # type: ignore[override]
        yield sorted(rows, key=lambda row: -row["x"])[1:]


class Summed(GlobalStep):
    """Makes one new row of all."""

    name: str = "summed"

    def process(self, rows: list[Row]) -> Rows:  # type: ignore[override]
        yield [{"sum": sum(row["x"] for row in rows)}]


def test_a_global_step_keeps_the_ids_of_rows_that_it_returns() -> None:
    outcome = apply_global(Sorted(), [make_batch(2, 9, 5)], IdMaker("sorted").make)
    assert outcome.batch.ids == ["id2", "id0"]
    assert outcome.batch.orders == [[0], [1]]
    assert outcome.counts["sorted"] == {"done": 2, "dropped": 1, "made": 2}


def test_a_global_step_with_mappings_keeps_ids_too() -> None:
    step = Sorted(input_mappings={"x": "number"}, output_mappings={"x": "y"})
    batch = Batch([{"number": 2}, {"number": 9}], ["a", "b"], [[0], [1]])
    outcome = apply_global(step, [batch], IdMaker("sorted").make)
    assert outcome.batch.ids == ["a"]
    assert [gone.id for gone in outcome.batch.gone] == ["b"]


def test_a_step_that_reorders_its_rows_does_not_exchange_their_ids() -> None:
    class Ordered(Step):
        name: str = "ordered"

        def process(self, rows: list[Row]) -> Rows:  # type: ignore[override]
            yield sorted(rows, key=lambda row: row["x"])

    outcome = apply_step(Ordered(), make_batch(3, 1, 2))
    assert dict(zip(outcome.batch.ids, [row["x"] for row in outcome.batch.rows], strict=True)) == {
        "id0": 3,
        "id1": 1,
        "id2": 2,
    }


def test_a_global_step_names_new_rows_by_itself() -> None:
    outcome = apply_global(Summed(), [make_batch(2, 9)], IdMaker("summed").make)
    assert outcome.batch.rows == [{"sum": 11}]
    assert outcome.batch.ids[0].startswith("summed:")


def test_a_global_step_sees_rows_in_their_order() -> None:
    shuffled = make_batch(1, 2, 3).select([2, 0, 1])
    seen: list[int] = []

    class Watching(GlobalStep):
        name: str = "watching"

        def process(self, rows: list[Row]) -> Rows:  # type: ignore[override]
            seen.extend(row["x"] for row in rows)
            yield rows

    apply_global(Watching(), [shuffled], IdMaker("w").make)
    assert seen == [1, 2, 3]


def test_the_error_of_a_global_step_is_the_steps() -> None:
    class Broken(GlobalStep):
        name: str = "broken"

        def process(self, rows: list[Row]) -> Rows:  # type: ignore[override]
            raise KeyError("boom")

    with pytest.raises(KeyError, match="boom"):
        apply_global(Broken(), [make_batch(1)], IdMaker("b").make)


def test_rows_of_one_id_from_two_branches_leave_a_global_step_under_two() -> None:
    class Both(GlobalStep):
        name: str = "both"

        def process(self, *inputs: list[Row]) -> Rows:
            yield [row for rows in inputs for row in rows]

    outcome = apply_global(Both(), [make_batch(2, 5), make_batch(3)], IdMaker("both").make)
    assert [row["x"] for row in outcome.batch.rows] == [2, 5, 3]
    assert outcome.batch.ids[:2] == ["id0", "id1"]
    assert outcome.batch.ids[2].startswith("both:")
    assert outcome.batch.gone == []


def test_a_row_lost_in_two_branches_is_told_once_and_one_that_was_kept_is_not() -> None:
    class First(GlobalStep):
        name: str = "first"

        def process(self, *inputs: list[Row]) -> Rows:
            yield inputs[0][:1]

    left, right = make_batch(2, 5), make_batch(2, 5)
    right.gone.append(Gone("id0", [0], "filter", FILTERED))
    outcome = apply_global(First(), [left, right], IdMaker("first").make)
    assert outcome.batch.ids == ["id0"]
    assert [(gone.id, gone.step) for gone in outcome.batch.gone] == [("id1", "first")]

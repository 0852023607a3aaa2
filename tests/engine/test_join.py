"""Rows of several branches meet by their id; what waits is a place in a file, not a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distilnb.engine.apply import KeepFailed, Outcome
from distilnb.engine.deaths import Poison
from distilnb.engine.join import CHUNK_ROWS, Joiner
from distilnb.engine.shelf import MIN_KEPT, Shelf
from distilnb.rows import Batch, Gone, write_batch
from distilnb.spec.step import Step, StepInput, StepOutput
from distilnb.steps.join import CombineOutputs, GroupColumns

FILTERED = "left out by the step"


def make_batch(column: str, *numbers: int) -> Batch:
    batch = Batch()
    for number in numbers:
        batch.add({column: number}, f"id{number}", [number])
    return batch


def lost(number: int = 1, step: str = "filter") -> Batch:
    return Batch(gone=[Gone(f"id{number}", [number], step, FILTERED)])


def elsewhere(number: int = 1) -> Batch:
    return Batch(gone=[Gone(f"id{number}", [number], "", "", is_skip=True)])


def join(step: Step, *inputs: Batch, columns: tuple[tuple[str, ...], ...] = ()) -> Outcome:
    """Let one batch come at each input, and return what became of the rows that are complete then."""
    joiner = Joiner(step, columns or ((),) * len(inputs), inputs.__getitem__)
    ids = []
    for number, batch in enumerate(inputs):
        ids += joiner.add(number, number, range(len(batch) + len(batch.gone)))
    total = Outcome()
    for outcome, used in joiner.release(ids):
        assert sum(map(len, used.values())) == sum(len(batch) + len(batch.gone) for batch in inputs)
        total = outcome
    return total


def test_partners_may_come_in_any_order() -> None:
    batches = {10: make_batch("a", 1, 2), 20: make_batch("b", 2, 1)}
    joiner = Joiner(CombineOutputs(name="both"), ((), ()), batches.__getitem__)
    assert joiner.add(0, 10, [0, 1]) == []
    assert joiner.add(1, 20, [0, 1]) == ["id2", "id1"]
    [(outcome, used)] = joiner.release(["id2", "id1"])
    assert outcome.batch.rows == [{"a": 1, "b": 1}, {"a": 2, "b": 2}]  # in the order of the first file
    assert outcome.batch.orders == [[1], [2]]
    assert {number: sorted(indices) for number, indices in used.items()} == {10: [0, 1], 20: [0, 1]}


def test_a_lost_partner_quarantines_the_row_with_its_root_cause() -> None:
    outcome = join(CombineOutputs(name="both"), make_batch("a", 1), lost())
    assert outcome.failures[0].kind == "MissingPartnerError"
    assert f"step 'filter': {FILTERED}" in outcome.failures[0].reason
    assert outcome.counts == {"both": {"failed": 1}}


def test_a_row_lost_before_the_branches_is_counted_where_it_was() -> None:
    outcome = join(CombineOutputs(name="both"), lost(), lost())
    assert (outcome.failures, outcome.counts) == ([], {})
    assert outcome.batch.gone == lost().gone


def test_what_never_met_its_partner_is_quarantined_at_the_end() -> None:
    batch = make_batch("b", 7)
    joiner = Joiner(CombineOutputs(name="both"), ((), ()), lambda _: batch)
    joiner.add(1, 20, [0])
    [(outcome, used)] = joiner.release_rest()
    assert "no row of this id was made there" in outcome.failures[0].reason
    assert used == {20: [0]}
    [(outcome, used)] = joiner.release_rest()
    assert (outcome.failures, used) == ([], {})


def test_a_row_behind_a_lost_one_is_not_forgotten_at_the_end() -> None:
    """The first input lost it, the second has it, the third never spoke of it."""
    batches = [lost(), make_batch("b", 1)]
    joiner = Joiner(CombineOutputs(name="all"), ((), (), ()), batches.__getitem__)
    joiner.add(0, 0, [0])
    joiner.add(1, 1, [0])
    [(outcome, _)] = joiner.release_rest()
    assert [failure.row_id for failure in outcome.failures] == ["id1"]
    assert outcome.batch.gone[0].id == "id1"  # told to a join further down


def test_equal_ids_of_one_input_given_again_do_not_pair_with_themselves() -> None:
    joiner = Joiner(CombineOutputs(name="both"), ((), ()), lambda _: make_batch("a", 1))
    assert joiner.add(0, 10, [0]) == []
    assert joiner.add(0, 10, [0]) == []


def test_of_three_partners_the_lost_one_is_the_cause_and_the_row_does_not_vanish() -> None:
    batches = {10: lost(), 30: make_batch("c", 1)}
    for inputs in ([0, 2], [1, 2], [2, 1]):  # the one that never came stands before the lost one, or after it
        joiner = Joiner(CombineOutputs(name="all"), ((), (), ()), batches.__getitem__)
        joiner.add(inputs[0], 10, [0])
        joiner.add(inputs[1], 30, [0])
        [(outcome, used)] = joiner.release_rest()
        assert [(failure.row_id, failure.kind) for failure in outcome.failures] == [
            ("id1", "MissingPartnerError")
        ]
        assert f"step 'filter': {FILTERED}" in outcome.failures[0].reason
        assert used == {10: [0], 30: [0]}


def test_a_row_lost_everywhere_is_told_to_the_next_join() -> None:
    joiner = Joiner(CombineOutputs(name="both"), ((), ()), lambda _: lost())
    joiner.add(0, 10, [0])
    [(outcome, _)] = joiner.release_rest()
    assert (outcome.failures, outcome.batch.gone) == ([], lost().gone)


# --- retries -------------------------------------------------------------------


def test_what_is_forgotten_is_waited_with_no_longer() -> None:
    batches = {10: lost(), 20: make_batch("b", 2), 21: make_batch("b", 1), 11: make_batch("a", 1)}
    joiner = Joiner(CombineOutputs(name="both"), ((), ()), batches.__getitem__)
    assert joiner.add(0, 10, [0]) == []
    assert joiner.add(1, 20, [0]) == []
    joiner.forget(10, 0)
    joiner.forget(10, 0)  # it may be told twice
    assert joiner.add(1, 21, [0]) == []
    assert joiner.add(0, 11, [0]) == ["id1"]
    [(outcome, used)] = joiner.release(["id1"])
    assert outcome.batch.rows == [{"a": 1, "b": 1}]
    assert used == {11: [0], 21: [0]}
    [(_, used)] = joiner.release_rest()
    assert used == {20: [0]}


def test_who_comes_after_its_partners_went_on_is_known() -> None:
    batches = {0: make_batch("x", 1, 2), 1: lost(), 2: make_batch("y", 2), 3: make_batch("y", 1, 2)}
    joiner = Joiner(CombineOutputs(name="c", how="left"), ((), ()), batches.__getitem__)
    complete = joiner.add(0, 0, [0, 1]) + joiner.add(1, 1, [0]) + joiner.add(1, 2, [0])
    assert sorted(complete) == ["id1", "id2"]
    [(outcome, _)] = joiner.release(complete)
    assert len(outcome.batch) == 2
    assert joiner.come_late(3, [0, 1]) == [0]


def test_the_children_of_a_lost_row_are_let_go_in_the_same_message() -> None:
    numbers = range(CHUNK_ROWS + 1)
    children = Batch([{"x": n} for n in numbers], [f"s:h:0.{n}" for n in numbers], [[0, n] for n in numbers])
    batches = [children, Batch(gone=[Gone("s:h:0", [0], "b", "it failed")])]
    joiner = Joiner(CombineOutputs(name="c"), ((), ()), batches.__getitem__)
    joiner.add(0, 0, numbers)
    joiner.add(1, 1, [0])
    [(outcome, used)] = joiner.release_rest()
    assert len(outcome.failures) == CHUNK_ROWS + 1
    assert used == {0: list(numbers), 1: [0]}


# --- routed rows ---------------------------------------------------------------


def test_a_row_is_made_of_the_branches_that_it_took() -> None:
    inputs = make_batch("x", 1), elsewhere(), make_batch("x", 1)
    assert join(GroupColumns(name="g", columns=["x"]), *inputs).batch.rows == [{"grouped_x": [1, 1]}]
    assert join(CombineOutputs(name="c"), *inputs).batch.rows == [{"x": 1}]


def test_rows_of_different_branches_are_told_apart() -> None:
    left, right = make_batch("x", 1, 2, 3), make_batch("y", 3, 4)
    left.gone, right.gone = elsewhere(4).gone, elsewhere(1).gone + elsewhere(2).gone
    outcome = join(CombineOutputs(name="c"), left, right, columns=(("x",), ("y",)))
    made = dict(zip(outcome.batch.ids, outcome.batch.rows, strict=True))
    assert made == {
        "id1": {"x": 1, "y": None},
        "id2": {"x": 2, "y": None},
        "id3": {"x": 3, "y": 3},
        "id4": {"x": None, "y": 4},
    }
    assert {tuple(row) for row in made.values()} == {("x", "y")}  # whichever branch came first
    assert outcome.counts == {"c": {"done": 4, "made": 4}}


def test_a_route_may_lead_straight_into_a_join() -> None:
    batch = Batch([{"x": 1}, {"x": 2}], ["id1", "id2"], [[1], [2]], routes=[["c"], ["other"]])
    outcome = join(CombineOutputs(name="c"), batch, Batch([{"y": 2}], ["id2"], [[2]], elsewhere(1).gone))
    assert outcome.batch.rows == [{"x": 1}, {"y": 2}]


@pytest.mark.parametrize("how", ["inner", "left", "outer"])
def test_a_row_that_took_no_branch_here_is_passed_on_as_such(how: Any) -> None:
    outcome = join(CombineOutputs(name="c", how=how), elsewhere(), elsewhere())
    assert outcome.batch.gone == elsewhere().gone
    assert (outcome.failures, outcome.counts) == ([], {})


@pytest.mark.parametrize("how", ["inner", "left", "outer"])
def test_a_row_lost_in_the_only_branch_that_it_took_is_counted_there(how: Any) -> None:
    outcome = join(CombineOutputs(name="c", how=how), elsewhere(), lost())
    assert outcome.batch.gone == lost().gone
    assert (outcome.failures, outcome.counts) == ([], {})


def test_a_row_lost_in_one_of_the_branches_that_it_took_is_quarantined() -> None:
    outcome = join(CombineOutputs(name="c"), elsewhere(), lost(), make_batch("x", 1))
    assert [failure.kind for failure in outcome.failures] == ["MissingPartnerError"]
    assert outcome.batch.rows == []


# --- how -----------------------------------------------------------------------


def test_left_keeps_a_row_that_another_branch_lost_with_none() -> None:
    inputs = make_batch("x", 1), lost()
    columns = ("x",), ("x", "y")
    combined = join(CombineOutputs(name="c", how="left"), *inputs, columns=columns)
    assert combined.batch.rows == [{"x": 1, "y": None}]
    grouped = join(GroupColumns(name="g", columns=["x"], how="left"), *inputs, columns=columns)
    assert grouped.batch.rows == [{"y": None, "grouped_x": [1, None]}]
    assert grouped.failures == combined.failures == []


def test_left_is_the_first_branch_that_the_row_took() -> None:
    step = CombineOutputs(name="c", how="left")
    assert join(step, lost(), make_batch("x", 1)).failures[0].kind == "MissingPartnerError"
    assert join(step, elsewhere(), make_batch("x", 1), lost()).batch.rows == [{"x": 1}]
    late = join(step, elsewhere(), lost(), make_batch("x", 1))
    assert [failure.kind for failure in late.failures] == ["MissingPartnerError"]


def test_a_row_that_goes_on_without_its_partner_has_the_columns_of_both() -> None:
    inputs = {0: make_batch("x", 1), 1: lost()}
    keep = KeepFailed({"c": ("x", "y")})
    joiner = Joiner(CombineOutputs(name="c"), (("x",), ("x", "y")), inputs.__getitem__, keep)
    [(outcome, _)] = joiner.release([*joiner.add(0, 0, [0]), *joiner.add(1, 1, [0])])
    assert outcome.batch.rows == [{"x": 1, "y": None}]
    assert [(failure.kind, failure.is_partial) for failure in outcome.failures] == [
        ("MissingPartnerError", True)
    ]


def test_outer_keeps_what_any_branch_brings() -> None:
    outcome = join(GroupColumns(name="g", columns=["x"], how="outer"), lost(), make_batch("x", 1), lost())
    assert outcome.batch.rows == [{"grouped_x": [None, 1, None]}]
    assert outcome.batch.orders == [[1]]


def test_a_partner_that_never_comes_counts_as_lost() -> None:
    batch = make_batch("x", 1)
    joiner = Joiner(GroupColumns(name="g", columns=["x"], how="left"), ((), ()), lambda _: batch)
    joiner.add(0, 0, [0])
    [(outcome, _)] = joiner.release_rest()
    assert outcome.batch.rows == [{"grouped_x": [1, None]}]


def test_mapped_columns_do_not_mind_a_lost_partner() -> None:
    step = GroupColumns(name="g", columns=["a"], how="left", input_mappings={"a": "x"})
    assert join(step, make_batch("x", 1), lost()).batch.rows == [{"grouped_a": [1, None]}]


class Picky(Step):
    """Refuses the row of number 2, and takes exactly two branches."""

    def process(self, left: StepInput, right: StepInput) -> StepOutput:  # type: ignore[override]  # as users do
        if any(row["x"] == 2 for row in left):
            raise ValueError("two")
        yield [{**a, **b} for a, b in zip(left, right, strict=True)]


def test_an_error_costs_its_own_row() -> None:
    outcome = join(Picky(name="p"), make_batch("x", 1, 2, 3), make_batch("y", 1, 2, 3))
    assert outcome.batch.ids == ["id1", "id3"]
    assert [(failure.row_id, failure.reason) for failure in outcome.failures] == [("id2", "two")]


# --- memory --------------------------------------------------------------------


def test_rows_are_released_in_pieces() -> None:
    numbers = range(2 * CHUNK_ROWS + 1)
    batches = [make_batch("a", *numbers), make_batch("b", *reversed(numbers))]
    joiner = Joiner(CombineOutputs(name="both"), ((), ()), batches.__getitem__)
    joiner.add(0, 0, numbers)
    pieces = [outcome.batch for outcome, _ in joiner.release(joiner.add(1, 1, numbers))]
    assert [len(piece) for piece in pieces] == [CHUNK_ROWS, CHUNK_ROWS, 1]
    assert [row["a"] for piece in pieces for row in piece.rows] == list(numbers)


def test_a_shelf_reads_again_what_it_put_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr("distilnb.engine.shelf.read_batch", lambda path: read.append(path.name) or Batch())
    shelf = Shelf(tmp_path, max_bytes=1)
    for number in range(MIN_KEPT + 1):
        write_batch(tmp_path / f"{number}", Batch())
        shelf.put(number, f"{number}")
    shelf.get(MIN_KEPT)
    shelf.get(0)
    assert read == [*map(str, range(MIN_KEPT + 1)), "0"]


def test_a_shelf_keeps_what_fits(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for number in range(3 * MIN_KEPT):
        write_batch(tmp_path / f"{number}", make_batch("a", number))
        shelf.put(number, f"{number}")
    assert shelf.get(0) is shelf.get(0)
    assert len(shelf._kept) == 3 * MIN_KEPT


def test_a_row_that_kills_its_worker_is_given_up_with_all_its_places() -> None:
    batches = [elsewhere(), make_batch("x", 1)]
    joiner = Joiner(CombineOutputs(name="c"), ((), ()), batches.__getitem__)
    complete = joiner.add(0, 0, [0]) + joiner.add(1, 1, [0])
    outcome, used = joiner.give_up({row_id: Poison(0, "signal 11", 2) for row_id in complete})
    assert [(failure.row_id, failure.kind) for failure in outcome.failures] == [("id1", "WorkerDied")]
    assert used == {0: [0], 1: [0]}
    assert [outcome.batch.rows for outcome, _ in joiner.release_rest()] == [[]]

"""Rows of several branches meet by their id."""

from __future__ import annotations

from distilnb.engine.join import Joiner
from distilnb.rows import Batch, Gone
from distilnb.steps.join import CombineOutputs


def make_batch(column: str, *numbers: int) -> Batch:
    batch = Batch()
    for number in numbers:
        batch.add({column: number}, f"id{number}", [number])
    return batch


def test_partners_may_come_in_any_order() -> None:
    joiner = Joiner(CombineOutputs(name="both"), 2)
    assert joiner.add(0, make_batch("a", 1, 2), 10, [0, 1]) == []
    assert joiner.add(1, make_batch("b", 2, 1), 20, [0, 1]) == ["id2", "id1"]
    outcome, used = joiner.release(["id2", "id1"])
    assert outcome.batch.rows == [{"a": 2, "b": 2}, {"a": 1, "b": 1}]
    assert outcome.batch.orders == [[2], [1]]
    assert used == {10: [1, 0], 20: [0, 1]}


def test_a_lost_partner_quarantines_the_row_with_its_root_cause() -> None:
    joiner = Joiner(CombineOutputs(name="both"), 2)
    lost = Batch(gone=[Gone("id1", [1], "filter", "left out by the step")])
    joiner.add(0, make_batch("a", 1), 10, [0])
    complete = joiner.add(1, lost, 20, [0])
    outcome, used = joiner.release(complete)
    assert outcome.failures[0].kind == "MissingPartnerError"
    assert "step 'filter': left out by the step" in outcome.failures[0].reason
    assert outcome.counts == {"both": {"failed": 1}}
    assert used == {10: [0], 20: [0]}


def test_a_row_lost_before_the_branches_is_counted_where_it_was() -> None:
    joiner = Joiner(CombineOutputs(name="both"), 2)
    lost = Batch(gone=[Gone("id1", [1], "filter", "left out by the step")])
    joiner.add(0, lost, 10, [0])
    outcome, _ = joiner.release(joiner.add(1, lost, 20, [0]))
    assert (outcome.failures, outcome.counts) == ([], {})
    assert outcome.batch.gone == lost.gone


def test_what_never_met_its_partner_is_quarantined_at_the_end() -> None:
    joiner = Joiner(CombineOutputs(name="both"), 2)
    joiner.add(1, make_batch("b", 7), 20, [0])
    outcome, used = joiner.release_rest()
    assert "no row of this id was made there" in outcome.failures[0].reason
    assert used == {20: [0]}
    assert joiner.release_rest()[0].failures == []


def test_equal_ids_of_one_input_given_again_do_not_pair_with_themselves() -> None:
    joiner = Joiner(CombineOutputs(name="both"), 2)
    assert joiner.add(0, make_batch("a", 1), 10, [0]) == []
    assert joiner.add(0, make_batch("a", 1), 10, [0]) == []


def test_what_is_forgotten_is_waited_with_no_longer() -> None:
    joiner = Joiner(CombineOutputs(name="both"), 2)
    joiner.add(0, Batch(gone=[Gone("id1", [1], "a", "it failed")]), 10, [0])
    joiner.add(1, make_batch("b", 2), 20, [0])
    joiner.forget((10, 0))
    assert joiner.add(1, make_batch("b", 1), 21, [0]) == []
    assert joiner.add(0, make_batch("a", 1), 11, [0]) == ["id1"]
    outcome, used = joiner.release(["id1"])
    assert outcome.batch.rows == [{"a": 1, "b": 1}]
    assert used == {11: [0], 21: [0]}
    assert joiner.release_rest()[1] == {20: [0]}

"""Batches in pieces: small where rows are slow, whole where they are fast, and left off where that is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from distilnb.engine import pieces
from distilnb.engine.apply import Outcome
from distilnb.engine.pieces import GROWTH, PIECE_S, Pieces, do_pieces, one_by_one, unit_of
from distilnb.rows import Batch, Gone, Row
from distilnb.spec.code import Code
from distilnb.spec.step import Step, StepInput, StepOutput
from distilnb.steps.columns import ExpandColumns, KeepColumns
from distilnb.steps.filter import FilterRows
from distilnb.steps.function import FunctionStep, MapRows


class Clock:
    """Time that passes by the rows that are done."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pieces, "time", clock)
    return clock


def never() -> bool:
    return False


def sizes(of: Pieces, n_rows: int, clock: Clock, seconds_a_row: float) -> list[int]:
    found = []
    for piece in of.of(range(n_rows), never):
        found.append(len(piece))
        clock.now += len(piece) * seconds_a_row
    assert sum(found) == n_rows
    return found


def test_fast_rows_are_soon_done_by_whole_batches(clock: Clock) -> None:
    stage = Pieces()
    assert sizes(stage, 2000, clock, 1e-6) == [1, 8, 64, 512, 1415]
    assert sizes(stage, 2000, clock, 1e-6) == [2000]


def test_a_whole_batch_is_passed_as_it_is() -> None:
    entries = [3, 5]
    stage = Pieces(unit=2)
    assert next(stage.of(entries, never)) is entries


def test_any_number_of_batches_can_be_fast(clock: Clock) -> None:
    stage = Pieces(unit=100_000)
    for _ in range(2000):
        assert sizes(stage, 2000, clock, 1e-6) == [2000]
    assert stage.n_rows == 100_000
    stage = Pieces()
    for _ in range(2000):
        sizes(stage, 2000, clock, 0.0)
    assert sizes(stage, 60_000, clock, 0.0) == [60_000]


@pytest.mark.parametrize("seconds_a_row", [0.02, 0.05, 1.0])
def test_slow_rows_are_done_as_many_as_take_a_moment(clock: Clock, seconds_a_row: float) -> None:
    stage = Pieces()
    sizes(stage, 30, clock, seconds_a_row)
    most = max(1, round(PIECE_S / seconds_a_row))
    *found, _ = sizes(stage, 10 * most, clock, seconds_a_row)
    assert set(found) <= {most, most - 1 or 1}  # by one less, where the division says so


def test_rows_that_become_slow_are_soon_done_by_few_and_fast_again_by_many(clock: Clock) -> None:
    stage = Pieces()
    sizes(stage, 5000, clock, 1e-6)
    assert sizes(stage, 2000, clock, 0.05) == [2000]  # one batch for which nothing told of it
    assert sizes(stage, 10, clock, 0.05) == [2] * 5
    assert sizes(stage, 200, clock, 1e-6) == [2, 16, 128, 54]


def test_pieces_are_whole_numbers_of_what_a_step_takes_at_once(clock: Clock) -> None:
    stage = Pieces(unit=50)
    assert sizes(stage, 120, clock, 0.05) == [50, 50, 20]
    assert sizes(stage, 1000, clock, 0.001) == [50, 100, 100, 100, 100, 100, 100, 100, 100, 100, 50]


def test_the_rest_is_called_off_between_two_pieces_never_before_the_first(clock: Clock) -> None:
    stage = Pieces(unit=2)
    came = []
    for piece in stage.of(range(100), lambda: True):
        came.append(list(piece))
        clock.now += PIECE_S
    assert came == [[0, 1]]


def test_one_by_one_what_is_gone_comes_first_and_at_least_one_row() -> None:
    assert [*one_by_one([0, 2, 4, 5], 4, never)] == [[4, 5], [0], [2]]
    assert [*one_by_one([0, 2, 4, 5], 4, lambda: True)] == [[4, 5], [0]]
    assert [*one_by_one([4, 5], 4, lambda: True)] == [[4, 5]]


def test_what_became_of_all_pieces_is_one_outcome() -> None:
    def run(piece: Sequence[int]) -> Outcome:
        outcome = Outcome(Batch(gone=[Gone(f"g{piece[0]}", [0], "before", "why", False)]))
        for index in piece:
            outcome.batch.add({"i": index}, f"s:{index}", [index])
        outcome.drop("d", [9], "step", "reason")
        outcome.count("step", done=len(piece))
        return outcome

    outcome, done = do_pieces([[0, 1], [2], [5, 7]], run)
    assert done == [0, 1, 2, 5, 7]
    assert outcome.batch.ids == ["s:0", "s:1", "s:2", "s:5", "s:7"]
    assert outcome.batch.orders == [[0], [1], [2], [5], [7]]
    assert [gone.id for gone in outcome.batch.gone] == ["g0", "d", "g2", "d", "g5", "d"]
    assert outcome.counts["step"] == {"done": 5, "dropped": 3}
    assert outcome.drop_reasons == {"step": {"reason": 3}}
    assert do_pieces([], run)[1] == []


# --- what a step takes at once ----------------------------------------------------


class OfUser(Step):
    """A step class of a user."""

    name: str = "of_user"

    def process(self, rows: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        yield rows


def by_column(x: int) -> dict[str, int]:
    return {"y": x}


def by_batch(rows: StepInput) -> StepOutput:
    yield rows


def code(function: Callable[..., object]) -> Code:
    return Code.of(function)


@pytest.mark.parametrize(
    "steps, unit",
    [
        ([], 1),
        ([KeepColumns(columns=["x"]), ExpandColumns(columns=["x"])], 1),
        ([MapRows(function=by_column), FilterRows(condition="x > 1")], 1),
        ([FunctionStep(function=by_column)], 1),
        ([FunctionStep(function=by_batch, input_batch_size=7), MapRows(function=by_column)], 7),
        ([OfUser(input_batch_size=20), OfUser(input_batch_size=30)], 30),
    ],
)
def test_only_steps_that_take_several_rows_at_once_ask_for_more_than_one(
    steps: list[Step], unit: int
) -> None:
    assert unit_of(steps) == unit


def test_the_constants_fit_what_a_stop_promises() -> None:
    assert PIECE_S <= 0.25
    assert GROWTH > 1

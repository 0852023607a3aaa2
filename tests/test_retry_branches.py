"""Failed rows are done again behind routes, at joins that keep what a branch lost, and in runs that are controlled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from distilnb.errors import RunError
from distilnb.pipeline import Pipeline
from distilnb.run import Run
from distilnb.steps import CombineOutputs, MapRows
from tests.conftest import wait_until_gone
from tests.runs import done, raise_while, wait_for
from tests.runs import states as all_states

N_ROWS = 200
WANTED = (2, 150)


@pytest.fixture(autouse=True)
def no_process_stays(home: Path) -> Iterator[None]:
    yield
    assert wait_until_gone(home) == []


@pytest.fixture
def fault(tmp_path: Path) -> Path:
    place = tmp_path / "fault"
    place.touch()
    return place


def step(name: str, fault: Path | None = None, **fields: Any) -> MapRows:
    check = raise_while(fault, WANTED) if fault else None

    def note(n: int) -> dict[str, int]:
        if check:
            check(n)
        return {name: n}

    return MapRows(name=name, function=note, made_columns=[name], **fields)


def states(run: Run) -> set[tuple[int, str, str]]:
    return set(all_states(run))


def source() -> Pipeline:
    return Pipeline("branches").from_dicts([{"n": n} for n in range(N_ROWS)])


def as_undisturbed(run: Run, p: Pipeline, leaf: str) -> None:
    """Check that a run has come to what one makes that meets no fault, in figures too."""
    other = done(p)
    assert other.status().state == run.status().state == "finished"
    pd.testing.assert_frame_equal(run.rows(leaf), other.rows(leaf))
    for mine, wanted in zip(run.status().steps, other.status().steps, strict=True):
        assert (mine.name, mine.done, mine.failed, mine.made) == (wanted.name, wanted.done, 0, wanted.made)


# --- behind a route -------------------------------------------------------------


def test_a_row_goes_the_way_that_its_route_chose(fault: Path) -> None:
    p = source().route(
        {"even": lambda q: q.then(step("e", fault)), "all": lambda q: q.then(step("a"))},
        when={"even": "n % 2 == 0", "all": "n >= 0"},
    )
    p = p.combine(name="both").map(lambda n: {"last": n}, name="last")
    run = done(p)
    assert states(run) == {(n, name, "open") for n in WANTED for name in ("e", "both")}
    fault.unlink()
    run.retry().wait(120)
    assert {state for _, _, state in states(run)} == {"mended"}
    as_undisturbed(run, p, "last")


def test_a_row_that_failed_before_its_route_is_routed_then(fault: Path) -> None:
    p = source().then(step("first", fault))
    p = p.route(
        {"even": lambda q: q.then(step("e")), "odd": lambda q: q.then(step("o"))},
        when={"even": "n % 2 == 0", "odd": "n % 2 == 1"},
    ).combine(name="both")
    run = done(p)
    assert states(run) == {(n, "first", "open") for n in WANTED}
    fault.unlink()
    run.retry().wait(120)
    assert {state for _, _, state in states(run)} == {"mended"}
    as_undisturbed(run, p, "both")


def test_a_route_that_failed_decides_again(fault: Path) -> None:
    check = raise_while(fault, WANTED)

    def is_even(n: int) -> bool:
        check(n)
        return n % 2 == 0

    p = (
        source()
        .route(
            {"even": lambda q: q.then(step("e")), "odd": lambda q: q.then(step("o"))},
            when={"even": is_even, "odd": "n % 2 == 1"},
        )
        .combine(name="both")
    )
    run = done(p)
    assert states(run) == {(n, "route", "open") for n in WANTED}
    fault.unlink()
    run.retry().wait(120)
    assert {state for _, _, state in states(run)} == {"mended"}
    as_undisturbed(run, p, "both")


# --- where a join keeps what a branch lost --------------------------------------


def test_a_row_that_went_on_without_its_partner_is_not_taken_back(fault: Path) -> None:
    p = (source() >> [step("left"), step("right", fault)]) >> CombineOutputs(name="both", how="left")
    run = done(p)
    rows = run.rows("both")
    assert len(rows) == N_ROWS
    assert states(run) == {(n, "right", "kept") for n in WANTED}
    fault.unlink()
    with pytest.raises(RunError, match="what failed went on"):
        run.retry()
    assert run.status().state == "finished"
    pd.testing.assert_frame_equal(run.rows("both"), rows)
    assert run.distiset().info.failures == {
        "right": {"ValueError: 2 is not liked": 1, "ValueError: 150 is not liked": 1}
    }


def test_the_first_branch_of_a_left_join_can_be_retried(fault: Path) -> None:
    p = (source() >> [step("left", fault), step("right")]) >> CombineOutputs(name="both", how="left")
    run = done(p)
    assert states(run) == {(n, name, "open") for n in WANTED for name in ("left", "both")}
    fault.unlink()
    run.retry().wait(120)
    assert {state for _, _, state in states(run)} == {"mended"}
    as_undisturbed(run, p, "both")


def test_what_was_lost_above_the_branches_can_be_retried(fault: Path) -> None:
    p = source().then(step("first", fault)) >> [step("left"), step("right")]
    p = p >> CombineOutputs(name="both", how="outer")
    run = done(p)
    assert states(run) == {(n, "first", "open") for n in WANTED}
    fault.unlink()
    run.retry().wait(120)
    assert {state for _, _, state in states(run)} == {"mended"}
    as_undisturbed(run, p, "both")


# --- on_error -------------------------------------------------------------------


def test_rows_that_went_on_with_none_are_kept(fault: Path) -> None:
    run = done(source().then(step("first", fault)), on_error="null")
    assert states(run) == {(n, "first", "kept") for n in WANTED}
    fault.unlink()
    with pytest.raises(RunError, match="what failed went on"):
        run.retry()


def test_a_run_that_failed_at_a_row_goes_on_with_it(fault: Path) -> None:
    p = source().then(step("first", fault))
    run = done(p, on_error="raise")
    assert (run.status().state, run.status().reason[:4]) == ("failed", "row:")
    run.retry().wait(120)
    assert run.status().state == "failed"
    fault.unlink()
    run.retry().wait(120)
    assert {state for _, _, state in states(run)} == {"mended"}
    as_undisturbed(run, p, "first")


# --- a paused run ---------------------------------------------------------------


def test_a_paused_run_does_them_when_it_goes_on(fault: Path) -> None:
    gate = fault.with_name("gate")
    path = str(gate)

    def slow(n: int) -> dict[str, int]:
        import time

        while n == N_ROWS - 1 and not os.path.exists(path):
            time.sleep(0.01)
        return {"slow": n}

    p = source() >> [step("first", fault), MapRows(name="slow", function=slow)]
    run = p.start(new=True)
    try:
        wait_for(run, lambda run: run.status().step("first").failed == len(WANTED))
        run.pause()
        wait_for(run, lambda run: run.status().state == "paused")
        fault.unlink()
        run.retry("first")
        assert run.status().state == "paused"
        assert states(run) == {(n, "first", "retried") for n in WANTED}
        [event] = [event for event in run.events() if event.kind == "retried"]
        assert (event.kind, vars(event)["rows"]) == ("retried", len(WANTED))
        gate.touch()
        run.resume()
        assert run.wait(120).state == "finished"
    finally:
        gate.touch()
        run.abort()
        run.wait(60)
    assert states(run) == {(n, "first", "mended") for n in WANTED}
    assert run.status().step("first").done == N_ROWS

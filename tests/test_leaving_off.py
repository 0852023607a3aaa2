"""A stop and a pause come to a worker between two rows of a batch, and no row is done twice for it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from distilnb.engine.events import Paused
from distilnb.pipeline import Pipeline
from distilnb.run import Run, attach
from distilnb.spec.step import Row, Step
from tests.conftest import wait_until_gone
from tests.runs import wait_for

N_ROWS = 1000
ROW_S = 0.05  # so that a batch takes most of a minute
FEW = 15  # rows: what two workers may be at, with what passes until they hear of it on a slow machine


class Calls:
    """Which rows a slow step was called with, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def counted(self) -> Counter[int]:
        return Counter(map(int, self.path.read_text().split())) if self.path.exists() else Counter()

    def __len__(self) -> int:
        return self.counted().total()


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    return Calls(tmp_path / "calls")


def slow_pipeline(calls: Calls, seconds: Path) -> Pipeline:
    """Each row is noted, then takes as long as a file says."""
    noted, told = str(calls.path), str(seconds)

    def slowly(i: int) -> dict[str, int]:
        with open(noted, "a") as file:
            file.write(f"{i}\n")
        time.sleep(float(Path(told).read_text()))
        return {"twice": 2 * i}

    return Pipeline("slow").from_dicts([{"i": i} for i in range(N_ROWS)]).map(slowly)


@pytest.fixture
def seconds(tmp_path: Path) -> Path:
    path = tmp_path / "seconds"
    path.write_text(str(ROW_S))
    return path


def some_were_called(calls: Calls, run: Run) -> None:
    deadline = time.monotonic() + 60
    while len(calls) < 5:
        assert time.monotonic() < deadline
        assert not run.status().is_ended, run.status()
        time.sleep(0.01)


def is_whole(run: Run, calls: Calls) -> None:
    assert run.wait(120).state == "finished"
    frame = run.to_pandas()
    assert frame["i"].tolist() == list(range(N_ROWS))
    assert (frame["twice"] == 2 * frame["i"]).all()
    assert calls.counted() == Counter(range(N_ROWS))  # each once


def test_a_stop_waits_for_a_few_rows_and_a_resume_does_the_rest_once(
    home: Path, calls: Calls, seconds: Path
) -> None:
    run = slow_pipeline(calls, seconds).start()
    some_were_called(calls, run)
    n_before = len(calls)
    run.stop()
    status = run.wait(60)
    assert (status.state, status.reason) == ("stopped", "user")
    assert wait_until_gone(home) == []
    n_called = len(calls)
    assert n_called - n_before <= FEW
    assert status.step("map").done == n_called == len(run.rows("map"))
    seconds.write_text("0")
    is_whole(attach(run.id).resume(), calls)
    assert wait_until_gone(home) == []


def test_a_pause_in_a_batch_keeps_what_is_done_and_goes_on_with_the_rest(
    home: Path, calls: Calls, seconds: Path
) -> None:
    run = slow_pipeline(calls, seconds).start()
    some_were_called(calls, run)
    run.pause()
    wait_for(run, lambda run: any(isinstance(event, Paused) for event in run.events()))
    wait_for(run, lambda run: run.status().step("map").done == len(calls))
    n_called = len(calls)
    assert n_called < N_ROWS // 2
    run.wait(10 * ROW_S)
    assert len(calls) == n_called == len(run.rows("map"))
    assert run.status().state == "paused"
    seconds.write_text("0")
    run.resume()
    is_whole(run, calls)


def test_a_run_that_is_paused_in_a_batch_and_then_stopped_is_resumed_without_loss(
    home: Path, calls: Calls, seconds: Path
) -> None:
    run = slow_pipeline(calls, seconds).start()
    some_were_called(calls, run)
    run.pause()
    wait_for(run, lambda run: run.status().step("map").done == len(calls))
    run.stop()
    assert run.wait(60).state == "stopped"
    seconds.write_text("0")
    is_whole(attach(run.id).resume(), calls)


class SlowInThrees(Step):
    """Notes what it is called with, three rows at a time, and takes its time."""

    name: str = "threes"
    inputs = ["i"]
    outputs = ["twice"]
    input_batch_size: int = 3
    noted: str
    told: str

    def process(self, rows: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        with open(self.noted, "a") as file:
            file.write("".join(f"{row['i']}\n" for row in rows))
        with open(self.noted + ".sizes", "a") as file:
            file.write(f"{len(rows)}\n")
        time.sleep(float(Path(self.told).read_text()) * len(rows))
        yield [{**row, "twice": 2 * row["i"]} for row in rows]


def test_a_step_that_takes_rows_in_batches_is_left_between_two_of_its_batches(
    home: Path, calls: Calls, seconds: Path
) -> None:
    rows = [{"i": i} for i in range(N_ROWS)]
    step = SlowInThrees(noted=str(calls.path), told=str(seconds))
    run = Pipeline("threes").from_dicts(rows).then(step).start()
    some_were_called(calls, run)
    n_before = len(calls)
    run.stop()
    assert run.wait(60).state == "stopped"
    n_called = len(calls)
    assert n_called - n_before <= FEW
    assert run.status().step("threes").done == n_called
    seconds.write_text("0")
    is_whole(attach(run.id).resume(), calls)
    sizes = Counter(Path(f"{calls.path}.sizes").read_text().split())
    # Whole batches but for the ends of files and of what was left.
    assert sizes["3"] > 0.9 * N_ROWS / 3

"""Files between processes: a large outcome becomes several, and one value that cannot be stored costs its row."""

from __future__ import annotations

from pathlib import Path

from distilnb.engine.apply import Outcome
from distilnb.engine.rundir import RunDir
from distilnb.engine.wire import write_outcome
from distilnb.rows import Batch, Gone, read_batch


def outcome_of(n_rows: int) -> Outcome:
    outcome = Outcome()
    for n in range(n_rows):
        outcome.batch.add({"n": n}, f"id{n}", [n], ["b"] if n % 2 else ["c"])
    outcome.count("step", done=n_rows, made=n_rows)
    outcome.batch.gone = [Gone("lost", [n_rows], "filter", "left out")]
    return outcome


def read_all(tmp_path: Path, files: list[dict[str, object]]) -> list[Batch]:
    return [read_batch(tmp_path / str(file["path"])) for file in files]


def test_a_large_outcome_is_written_in_several_files(tmp_path: Path) -> None:
    message = write_outcome(RunDir(tmp_path), "step", outcome_of(5), {1: [0]}, batch_rows=3)
    assert [(file["n_rows"], file["n_gone"]) for file in message["files"]] == [(3, 0), (2, 1)]
    batches = read_all(tmp_path, message["files"])
    assert [row["n"] for batch in batches for row in batch.rows] == [*range(5)]
    assert [batch.routes for batch in batches] == [[["c"], ["b"], ["c"]], [["b"], ["c"]]]


def test_without_a_size_all_go_into_one_and_nothing_into_none(tmp_path: Path) -> None:
    assert len(write_outcome(RunDir(tmp_path), "step", outcome_of(5), {})["files"]) == 1
    assert write_outcome(RunDir(tmp_path), "step", Outcome(), {}, batch_rows=3)["files"] == []


def test_a_value_that_cannot_be_stored_costs_its_row_alone(tmp_path: Path) -> None:
    outcome = outcome_of(5)
    outcome.batch.rows[4]["live"] = object()  # in the second file
    message = write_outcome(RunDir(tmp_path), "step", outcome, {}, batch_rows=3)
    batches = read_all(tmp_path, message["files"])
    assert [row["n"] for batch in batches for row in batch.rows] == [0, 1, 2, 3]
    assert [route for batch in batches for route in batch.routes] == [["c"], ["b"], ["c"], ["b"]]
    assert [error["row_id"] for error in message["errors"]] == ["id4"]
    assert message["counts"] == {"step": {"done": 4, "made": 4, "failed": 1}}

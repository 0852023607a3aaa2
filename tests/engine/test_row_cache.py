"""Results of expensive steps, kept by row."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import distilnb as dn
from distilnb.engine.apply import Outcome, apply_step
from distilnb.engine.row_cache import RowCache
from distilnb.errors import SpecError, StoreError
from distilnb.rows import Batch, Row
from distilnb.spec.step import DropRow, GlobalStep, Step


class Costly(Step):
    """Notes what it was asked for, changes lists in place, leaves out 3, fails at 5, and expands where told."""

    name: str = "costly"
    inputs = ["x"]
    outputs = ["y"]
    factor: int = 10

    def process(self, rows: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        asked.extend(row["x"] for row in rows)
        for row in rows:
            if row["x"] == 3:
                raise DropRow("it is three")
            if row["x"] == 5:
                raise ValueError("no five")
            row.pop("old", None)
            row["seen"].append(row["x"])
            row["y"] = row["x"] * self.factor
        yield rows


class Pairs(Step):
    """Two rows of each."""

    name: str = "pairs"
    inputs = ["x"]
    outputs = ["n"]

    by_row = True

    def process(self, rows: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        asked.extend(row["x"] for row in rows)
        yield [{**row, "n": n} for row in rows for n in range(2)]


class Unnamed(Step):
    """Names no column that it reads."""

    name: str = "unnamed"

    def process(self, rows: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        asked.extend(row["x"] for row in rows)
        yield rows


class Asked:
    """The values that steps were asked for, in a file: a list would be part of the digest of the code."""

    def extend(self, values: Iterable[Any]) -> None:
        with Path(os.environ["ASKED_LOG"]).open("a") as file:
            file.writelines(f"{value}\n" for value in values)

    def clear(self) -> None:
        Path(os.environ["ASKED_LOG"]).write_text("")

    def __eq__(self, other: object) -> bool:
        return self.values() == other

    def __hash__(self) -> int:
        raise TypeError("it changes")

    def values(self) -> list[int | str]:
        lines = Path(os.environ["ASKED_LOG"]).read_text().splitlines()
        return [int(line) if line.isdigit() else line for line in lines]


asked = Asked()


@pytest.fixture(autouse=True)
def nothing_asked(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASKED_LOG", str(tmp_path / "asked"))
    asked.clear()


def batch_of(*values: Any, tag: str = "a") -> Batch:
    batch = Batch()
    for index, value in enumerate(values):
        batch.add({"x": value, "old": 1, "seen": [], "tag": tag}, f"s:{value}:{index}", [index])
    return batch


def run(step: Step, batch: Batch, **options: Any) -> Outcome:
    cache = RowCache(**options)
    try:
        return cache.apply(step, batch, apply_step)
    finally:
        cache.close()


def by_id(outcome: Outcome) -> dict[str, tuple[Row, list[int]]]:
    batch = outcome.batch
    return {i: (row, order) for i, row, order in zip(batch.ids, batch.rows, batch.orders, strict=True)}


@pytest.mark.parametrize("step", [Costly(), Pairs()], ids=["one of one", "two of one"])
def test_a_second_time_asks_nothing_and_gives_the_same(step: Step) -> None:
    plain = apply_step(step, batch_of(1, 2, 3, 4))
    first = run(step, batch_of(1, 2, 3, 4))
    asked.clear()
    second = run(step, batch_of(1, 2, 3, 4))
    assert asked == []
    assert by_id(first) == by_id(second) == by_id(plain)
    assert first.drop_reasons == second.drop_reasons == plain.drop_reasons
    assert sorted(second.batch.gone) == sorted(plain.batch.gone)
    assert first.counts == plain.counts
    assert second.counts[step.name] == {**plain.counts[step.name], "cached": 4}


def test_an_appended_row_asks_for_one_and_other_columns_do_not_matter() -> None:
    run(Costly(), batch_of(1, 2))
    asked.clear()
    outcome = run(Costly(), batch_of(1, 2, 7, tag="b"))
    assert asked == [7]
    assert sorted((row["y"], row["tag"]) for row in outcome.batch.rows) == [(10, "b"), (20, "b"), (70, "b")]


def test_an_edited_step_asks_for_all_and_one_of_other_batch_size_for_none() -> None:
    run(Costly(), batch_of(1, 2))
    asked.clear()
    assert [row["y"] for row in run(Costly(factor=3), batch_of(1, 2)).batch.rows] == [3, 6]
    assert asked == [1, 2]
    asked.clear()
    run(Costly(input_batch_size=1), batch_of(1, 2))
    assert asked == []


def test_a_step_that_names_no_column_is_kept_by_the_whole_row() -> None:
    run(Unnamed(), batch_of(1))
    asked.clear()
    run(Unnamed(), batch_of(1))
    assert asked == []
    run(Unnamed(), batch_of(1, tag="b"))
    assert asked == [1]


def test_a_row_that_failed_is_asked_for_again() -> None:
    first = run(Costly(), batch_of(1, 5))
    assert [failure.reason for failure in first.failures] == ["no five"]
    asked.clear()
    second = run(Costly(), batch_of(1, 5))
    assert set(asked.values()) == {5}
    assert [failure.reason for failure in second.failures] == ["no five"]


def test_what_is_finished_is_kept_when_the_step_is_killed_later() -> None:
    class Killed(BaseException):
        pass

    def apply(step: Step, batch: Batch) -> Outcome:
        if batch.rows[0]["x"] == 3:
            raise Killed
        return apply_step(step, batch)

    cache = RowCache()
    with pytest.raises(Killed):
        cache.apply(Pairs(input_batch_size=2), batch_of(1, 2, 3, 4), apply)
    cache.close()
    asked.clear()
    run(Pairs(input_batch_size=2), batch_of(1, 2, 3, 4))
    assert asked == [3, 4]


def test_off_keeps_and_finds_nothing_and_refresh_replaces() -> None:
    run(Costly(), batch_of(1), mode="off")
    run(Costly(), batch_of(1))
    assert asked == [1, 1]
    run(Costly(), batch_of(1), mode="refresh")
    assert asked == [1, 1, 1]
    run(Costly(), batch_of(1))
    assert asked == [1, 1, 1]


def test_a_value_that_cannot_be_stored_is_not_kept() -> None:
    cache = RowCache()
    for _ in range(2):
        outcome = cache.apply(Pairs(), batch_of(object()), apply_step)
        assert len(outcome.batch) == 2
    cache.close()
    assert len(asked.values()) == 2


def test_a_cache_that_cannot_be_opened_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    path.write_text("no database at all, " * 100)
    with pytest.raises(StoreError, match="DISTILNB_HOME") as told:
        RowCache(path)
    assert isinstance(told.value.__cause__, sqlite3.Error)


# --- in a pipeline ----------------------------------------------------------------


def pipeline(rows: list[Row], log: Path, *, factor: int = 2) -> dn.Pipeline:
    def costly(x: int) -> dict[str, int]:
        with log.open("a") as file:
            file.write(f"{x}\n")
        return {"y": factor * x}

    return dn.Pipeline("costly").from_dicts(rows).map(costly, cache=True).filter("y > 2")


def test_preview_run_and_later_runs_share_the_results(tmp_path: Path) -> None:
    log = tmp_path / "log"
    rows = [{"x": x} for x in range(20)]
    pipeline(rows, log).preview(5)
    assert len(log.read_text().split()) == 5
    run = pipeline(rows, log).start()
    assert run.wait(60).step("map").cached == 5
    assert sorted(map(int, log.read_text().split())) == list(range(20))
    later = pipeline([*rows, {"x": 20}], log).start()
    assert later.wait(60).step("map").cached == 20
    assert log.read_text().split()[20:] == ["20"]
    assert later.to_pandas()["y"].tolist() == [2 * x for x in range(2, 21)]
    edited = pipeline(rows, log, factor=3).start()
    assert edited.wait(60).step("map").cached == 0
    again = pipeline(rows, log).start(new=True, cache="off")
    assert again.wait(60).step("map").cached == 0


class All(GlobalStep):
    """Every row, as it is."""

    def process(self, rows: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        yield rows


def test_a_step_whose_rows_are_not_made_of_one_row_each_is_refused() -> None:
    with pytest.raises(SpecError, match=r"Step 'all' has cache=True"):
        dn.Pipeline("all").from_dicts([{"x": 1}]).then(All(name="all", cache=True)).start()

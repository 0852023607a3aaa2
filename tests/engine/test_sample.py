"""The Sample: one pinned list, of which every preview sees the first rows."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilnb.engine.sample import draw_rows, find_row, pinned_sample
from distilnb.errors import InputError, NoRowsError
from distilnb.rows import Batch, Row
from distilnb.steps import LoadDataFromDicts

ROWS: list[Row] = [{"n": n} for n in range(30)]
_serial = itertools.count()


def sample(n_rows: int, rows: list[Row] = ROWS, *, pipeline: str = "p", name: str = "load") -> Batch:
    return pinned_sample(pipeline, LoadDataFromDicts(name=name, data=rows), n_rows)


def without(*gone: Row) -> list[Row]:
    return [row for row in ROWS if row not in gone]


@given(st.lists(st.integers(1, 40), min_size=2, max_size=6))
def test_whatever_is_asked_for_is_the_start_of_one_list(sizes: list[int]) -> None:
    pipeline = f"p{next(_serial)}"
    seen = [sample(size, pipeline=pipeline) for size in sizes]
    whole = sample(40, pipeline=pipeline)
    assert [len(batch) for batch in seen] == [min(size, 30) for size in sizes]
    assert all(batch == whole.select(range(len(batch))) for batch in seen)
    assert sorted(row["n"] for row in whole.rows) == list(range(30))


def test_fewer_rows_of_a_source_that_grew_are_the_first_of_those_before() -> None:
    """And those that were not asked for this time are not lost."""
    five = sample(5).rows
    grown = [*ROWS, *({"n": n} for n in range(100, 200))]
    assert sample(2, grown).rows == five[:2]
    assert sample(5, grown).rows == five
    assert sample(8, grown).rows[:5] == five


def test_rows_that_move_stay_in_the_sample_and_know_where_they_are() -> None:
    five = sample(5)
    turned = [{"n": -1}, *reversed(ROWS)]
    again = sample(5, turned)
    assert (again.rows, again.ids) == (five.rows, five.ids)
    assert [turned[order[0]] for order in again.orders] == five.rows


def test_a_row_that_is_gone_is_replaced_in_its_place() -> None:
    five = sample(5).rows
    left = without(five[1], five[3])
    again = sample(5, left).rows
    assert [again[0], again[2], again[4]] == [five[0], five[2], five[4]]
    assert again[1] in left
    assert again[3] in left
    assert len({row["n"] for row in again}) == 5
    assert sample(5, left).rows == again


def test_a_row_that_is_gone_beyond_what_is_asked_for_is_replaced_too() -> None:
    five = sample(5).rows
    left = without(five[4])
    assert sample(2, left).rows == five[:2]
    again = sample(5, left).rows
    assert again[:4] == five[:4]
    assert again[4] in left


def test_a_source_that_shrank_gives_what_it_has() -> None:
    five = sample(5).rows
    assert sample(5, [five[3], five[1]]).rows == [five[1], five[3]]


def test_another_source_under_the_same_name_gives_its_own_rows() -> None:
    sample(5)
    others: list[Row] = [{"other": n} for n in range(9)]
    assert all(row in others for row in sample(5, others).rows)


def test_equal_rows_are_each_pinned_once() -> None:
    equal = sample(3, [{"n": 1}] * 3)
    assert len(set(equal.ids)) == 3
    assert sample(3, [{"n": 1}] * 9).ids == equal.ids


def test_a_sample_that_is_stored_costs_no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    five = sample(5)
    monkeypatch.setattr(LoadDataFromDicts, "process", lambda *_, **__: pytest.fail("the source was read"))
    assert sample(5) == five
    assert sample(2) == five.select([0, 1])


@pytest.mark.parametrize("first, second", [("a b", "a/b"), ("中", "文"), ("..", "."), ("n" * 90, "n" * 91)])
def test_pipelines_and_sources_of_other_names_have_other_samples(home: Path, first: str, second: str) -> None:
    sample(2, pipeline=first)
    sample(2, pipeline=second)
    sample(2, pipeline=first, name=second)
    files = [path for path in home.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert {path.parent.parent for path in files} == {home / "pipelines"}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format":1}', '{"format":1,"rows":{"$distilnb":"date"}}', "\udcff"],
)
def test_a_damaged_file_is_drawn_anew(home: Path, text: str) -> None:
    five = sample(5)
    (file,) = (home / "pipelines" / "p").iterdir()
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    assert sample(5) == five


@pytest.mark.parametrize("value", ["\ud800", b"\xff", {"$distilnb": "absent"}, None])
def test_any_value_is_pinned(value: object) -> None:
    assert sample(1, [{"a": value}]).rows == sample(1, [{"a": value}]).rows == [{"a": value}]


def test_a_source_without_rows_is_told() -> None:
    with pytest.raises(NoRowsError, match="empty"):
        sample(1, [])


def test_a_row_is_found_by_its_place_or_its_id() -> None:
    source = LoadDataFromDicts(name="load", data=ROWS)
    by_place = find_row(source, 7)
    assert by_place.rows == [{"n": 7}]
    assert find_row(source, by_place.ids[0]) == by_place
    with pytest.raises(InputError, match="Source 'load' has no row 30"):
        find_row(source, 30)


# --- the rows of a run ------------------------------------------------------------------------------------------


def test_the_rows_of_a_run_are_all_up_to_its_limit() -> None:
    source = LoadDataFromDicts(name="load", data=[{"i": i % 7} for i in range(30)], batch_size=4)
    for limit, n_rows in ((None, 30), (10, 10), (8, 8), (1, 1), (99, 30)):
        batch, n_found = draw_rows(source, limit)
        assert n_found == len(batch) == n_rows
        assert [row["i"] for row in batch.rows] == [i % 7 for i in range(n_rows)]
        assert len(set(batch.ids)) == n_rows


def test_of_very_many_rows_so_many_are_drawn_each_as_likely_as_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("distilnb.engine.sample.SCANNED_ROWS", 200)
    source = LoadDataFromDicts(name="load", data=[{"i": i} for i in range(2000)])
    batch, n_rows = draw_rows(source, None)
    drawn = [row["i"] for row in batch.rows]
    assert (n_rows, len(drawn)) == (2000, 200)
    assert drawn == sorted(set(drawn)) == [order[0] for order in batch.orders]
    assert 60 < sum(i < 1000 for i in drawn) < 140
    assert draw_rows(source, None)[0].ids == batch.ids

"""Rows, ids and batch files: everything comes back as it went."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import math
import threading
import uuid
from array import array
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distilnb import ids
from distilnb.engine import digest_pages
from distilnb.engine.digest_pages import DigestPages
from distilnb.engine.digests import DigestLog
from distilnb.errors import InputError, StoreError
from distilnb.ids import row_digests
from distilnb.rows import (
    Batch,
    Gone,
    IdMaker,
    dump_json,
    load_json,
    read_batch,
    row_digest,
    write_batch,
    write_text,
)
from distilnb.values import is_plain, tagged, untagged


@dataclass
class Point:
    x: int
    y: int


KEYS = st.text(max_size=5) | st.sampled_from(["$distilnb", "value"])  # those of a tagged value
WORDS = st.sampled_from(
    ["$distilnb", '"$distilnb":', "absent", "bytes", "date", "datetime", "dict", "unknown"]
)

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text()
    | WORDS
    | st.dates()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=6)


@given(ROWS)
def test_a_batch_file_restores_every_row(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    path = tmp_path_factory.mktemp("batch") / "batch.json"
    batch = Batch(rows, [f"id{i}" for i in range(len(rows))], [[i] for i in range(len(rows))])
    batch.gone.append(Gone("lost", [9, 1], "filter", "left out"))
    write_batch(path, batch)
    assert read_batch(path) == batch


ODD = st.sampled_from(
    [math.inf, -math.inf, 2**64, -(2**63) - 1, 2**63, "\ud800", -0.0, 1e300, 1.0, 1, True, (1, "x"), "é"]
)
MIXED = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3) | ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.just("\udfff"), inner, max_size=3),
    max_leaves=6,
)


def as_lists(value: Any) -> Any:
    """Return a value as JSON gives it back: with lists in place of tuples."""
    if isinstance(value, (list, tuple)):
        return [as_lists(item) for item in value]
    return {key: as_lists(item) for key, item in value.items()} if isinstance(value, dict) else value


@given(st.lists(MIXED, min_size=1, max_size=5), st.text(max_size=3) | st.just("\ud800"))
def test_what_json_writers_refuse_or_change_comes_back(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], name: str
) -> None:
    """As `repr` tells it: 1, 1.0 and True are equal, and -0.0 is 0.0."""
    path = tmp_path_factory.mktemp("batch") / "batch.json"
    batch = Batch([{name: value} for value in values], [f"\ud800{i}" for i in range(len(values))])
    batch.orders = [[i] for i in range(len(values))]
    write_batch(path, batch)
    assert repr(read_batch(path).rows) == repr([{name: as_lists(value)} for value in values])
    assert read_batch(path).ids == batch.ids
    json.loads(path.read_bytes(), parse_constant=pytest.fail)


@given(VALUES | MIXED)
def test_the_fast_and_the_careful_writer_agree(value: Any) -> None:
    if is_plain([value]):
        assert repr(untagged(tagged(value))) == repr(value)
        assert row_digest({"a": value}) == row_digests([{"a": value}]).hex()
    turned = dict(reversed([*value.items()])) if isinstance(value, dict) else value
    assert row_digest({"a": value, "b": 1}) == row_digest({"b": 1, "a": turned})
    assert row_digests([{"a": value}, {"b": math.nan}])[:8].hex() == row_digest({"a": value})


def test_values_that_python_calls_equal_have_digests_of_their_own() -> None:
    values = [1, 1.0, True, "1", None, math.nan, "nan", [1], {"1": 1}, 2**64, float(2**64), math.inf, b"1"]
    assert len({row_digest({"a": value}) for value in values}) == len(values)


@pytest.mark.parametrize(
    "value", [uuid.UUID(int=1), enum.Enum("Colour", "red")(1), Point(1, 2)], ids=["uuid", "enum", "dataclass"]
)
def test_a_type_that_a_json_writer_would_take_for_another_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="which cannot be stored"):
        dump_json([value])


def test_a_value_of_a_type_derived_from_a_plain_one_is_stored_as_that() -> None:
    row = {"f": np.float64(0.5), "s": np.str_("a"), "b": np.bool_(True), "n": np.int64(3), "t": (1, 2)}
    assert load_json(dump_json(row)) == {"f": 0.5, "s": "a", "b": True, "n": 3, "t": [1, 2]}


@pytest.mark.parametrize("depth", [15, 17, 201, 300])
def test_deep_values_come_back(tmp_path: Path, depth: int) -> None:
    value: Any = "bottom"
    for _ in range(depth):
        value = [value]
    write_batch(tmp_path / "batch.json", Batch([{"a": value}], ["x"], [[0]]))
    assert read_batch(tmp_path / "batch.json").rows == [{"a": value}]


def test_a_value_that_holds_itself_is_refused() -> None:
    circle: list[Any] = []
    circle += [circle, circle]
    with pytest.raises(InputError, match="nested too deep, or holds itself"):
        dump_json({"a": circle})


def test_a_batch_gives_columns_of_rows_and_rows_of_columns(tmp_path: Path) -> None:
    batch = Batch([{"a": 1, "b": [2]}, {"b": [3], "a": 4}], ["x", "y"], [0, 1])
    assert batch.columns() == {"a": [1, 4], "b": [[2], [3]]}
    write_batch(tmp_path / "batch.json", batch)
    again = read_batch(tmp_path / "batch.json")
    again.copies()[0]["a"] = 9
    assert again == batch
    assert (again.orders, again.select([1]).ids) == ([[0], [1]], ["y"])
    again.add({"c": 5}, "z", [2, 0])
    assert (len(again), again.columns(), again.rows[2]) == (3, None, {"c": 5})


def test_rows_without_columns_keep_their_number(tmp_path: Path) -> None:
    write_batch(tmp_path / "batch.json", Batch([{}, {}], ["x", "y"], [0, 1]))
    assert read_batch(tmp_path / "batch.json").rows == [{}, {}]


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(0, 40), st.booleans(), st.booleans())
def test_ids_are_the_same_however_often_the_digests_go_to_disk(
    tmp_path_factory: pytest.TempPathFactory, values: list[int], died_at: int, is_shelved: bool, is_lost: bool
) -> None:
    """And whichever worker made them: a second one takes over after `died_at` rows, perhaps without the file."""
    path = tmp_path_factory.mktemp("ids") / "digests" / "load"
    rows = [{"a": value} for value in values]
    expected = IdMaker("load").make_all(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ids, "KEPT_DIGESTS", 2 if is_shelved else 1000)
        patch.setattr(ids, "_COUNTED_AT_ONCE", 3)
        maker, made = IdMaker("load", counter=DigestLog(path, 0)), list[str]()
        seen: list[tuple[Path, int]] = []
        for start in range(0, len(rows), 4):
            if start >= died_at:
                IdMaker("load", counter=DigestLog(path, start)).make_all(
                    rows[start:]
                )  # named, and not journaled
                if is_lost:
                    path.unlink()
                maker = IdMaker("load", counter=DigestLog(path, start, seen))
            made += maker.make_all(rows[start : start + 4])
            seen.append((path.with_name(f"{start}.json"), len(made) - start))
            write_batch(seen[-1][0], Batch(rows[start : start + 4], made[start:], [*range(start, len(made))]))
    assert made == expected


def test_digests_that_cannot_be_kept_are_told_by_their_file(tmp_path: Path) -> None:
    log = DigestLog(tmp_path / "load", 0)
    (tmp_path / "load").unlink()
    (tmp_path / "load").mkdir()
    for call in (lambda: log.count(bytes(8)), lambda: DigestLog(tmp_path / "load", 1)):
        with pytest.raises(StoreError, match=r"The digests in .*load' cannot be") as told:
            call()
        assert "resume" in told.value.fix


@given(
    # Spread over all 64 bits, as digests are.
    rounds=st.lists(
        st.dictionaries(
            st.integers(0, 500).map(lambda n: n * 0x9E3779B97F4A7C15 % 2**64 - 2**63),
            st.integers(1, 5),
            max_size=60,
        ),
        max_size=6,
    )
)
@example(rounds=[{0: 1, -1: 2, 2**63 - 1: 3, -(2**63): 4}, {256: 1, 1: 256}, {256: 9}])
def test_pages_have_what_was_put_on_them(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[dict[int, int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digest_pages, "_FIRST_PAGE_BITS", 1)
        patch.setattr(digest_pages, "_ENTRIES_PER_PAGE", 8)
        patch.setattr(digest_pages, "_PAGE_ENTRIES", 12)
        patch.setattr(digest_pages, "_PAGE_BYTES", 12 * 16)
        pages, expected = DigestPages(tmp_path_factory.mktemp("pages")), dict[int, int]()
        for seen in rounds:
            found = pages.find(array("q", [*seen, 17]))
            assert found == {digest: expected[digest] for digest in {*seen, 17} & expected.keys()}
            new = {digest: n_seen + found.get(digest, 0) for digest, n_seen in seen.items()}
            pages.put(array("q", new), {digest: count for digest, count in new.items() if count > 1})
            expected |= new
        assert pages.find(array("q", expected)) == expected


def test_many_digests_are_told_apart() -> None:
    rows = [{"a": i % 7_000} for i in range(10_000)]
    named = IdMaker("load").make_all(rows)
    assert len(set(named)) == 10_000
    assert [row_id.rsplit(":", 1)[1] for row_id in named] == ["0"] * 7_000 + ["1"] * 3_000


TAGGED = [
    {"$distilnb": "datetime", "value": "x"},
    {"$distilnb": "bytes", "value": "eA=="},
    {"$distilnb": "dict", "value": [{}, 1, {}]},
    {"$distilnb": "absent"},
    {"$distilnb": "unknown"},
    {"$distilnb": []},
    {"$distilnb": None},
    {"a": 1, "$distilnb": {"$distilnb": {"$distilnb": "absent"}}, "b": b"x", "value": 2},
    [{"deep": [{"$distilnb": "date", "value": dt.date(2026, 1, 2)}]}],
]


@given(VALUES)
def test_any_value_comes_back_with_its_keys_in_order(value: Any) -> None:
    assert repr(load_json(dump_json(value))) == repr(value)


@pytest.mark.parametrize("value", TAGGED, ids=str)
def test_a_users_dict_that_looks_tagged_comes_back(tmp_path: Path, value: Any) -> None:
    """As a cell beside absent cells, and as a row whose column has the tag's name."""
    rows = [{"a": value}, {"b": 1}, value if isinstance(value, dict) else {}, {"$distilnb": value}]
    batch = Batch(rows, ["w", "x", "y", "z"], [[0], [1], [2], [3]])
    write_batch(tmp_path / "batch.json", batch)
    assert read_batch(tmp_path / "batch.json") == batch


def test_a_users_dict_inside_an_array_comes_back() -> None:
    inner = {"$distilnb": "absent"}
    array = np.array([inner, None], dtype=object)
    assert load_json(dump_json({"a": array, "b": np.array(inner), "c": b"x"})) == {
        "a": [inner, None],
        "b": inner,
        "c": b"x",
    }


@pytest.mark.parametrize(
    "text",
    ['{"$distilnb":"date","value":"x"}', '{"$distilnb":"date"}', '{"$distilnb":"dict","value":[1]}'],
)
def test_a_tagged_value_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="A stored value is tagged as 'd"):
        load_json(text)
    file = f'{{"ids":["x"],"orders":[0],"names":["a"],"columns":[[{text}]],"tagged":[0],"gone":[]}}'
    (tmp_path / "batch.json").write_text(file, encoding="utf-8")
    with pytest.raises(StoreError, match="cannot be read: A stored value is tagged as 'd"):
        read_batch(tmp_path / "batch.json")


@pytest.mark.parametrize(
    "value",
    [
        dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.timezone.utc),
        dt.date(2026, 1, 2),
        dt.time(3, 4),
        dt.timedelta(seconds=90),
        decimal.Decimal("1.50"),
        b"\x00\xff",
        "\ud800 a lone surrogate",
        "中文 and 🎉",
    ],
)
def test_values_that_json_lacks_come_back(value: Any) -> None:
    assert load_json(dump_json({"value": value})) == {"value": value}


def test_nan_comes_back_as_nan() -> None:
    assert math.isnan(load_json(dump_json({"value": math.nan}))["value"])


def test_a_live_object_is_refused_by_its_type() -> None:
    with pytest.raises(InputError, match="type 'object', which cannot be stored"):
        dump_json({"value": object()})


def test_ids_count_equal_rows_whatever_the_order_of_their_keys() -> None:
    ids = IdMaker("load")
    first, second = ids.make({"a": 1, "b": 2}), ids.make({"b": 2, "a": 1})
    digest = row_digest({"a": 1, "b": 2})
    assert [first, second] == [f"load:{digest}:0", f"load:{digest}:1"]


@pytest.mark.parametrize(
    "row, digest",
    [
        ({"b": [1, {"c": None}], "a": "中"}, "11dab199db433fbe"),
        ({"at": dt.date(2026, 1, 2), "raw": b"x"}, "f3291355821c4125"),
        ({"text": '"$distilnb":'}, "926289114a2815c5"),
    ],
)
def test_the_digest_of_a_row_is_for_ever(row: dict[str, Any], digest: str) -> None:
    """Ids in journals, caches and reviews hold it."""
    assert row_digest(row) == digest


def test_a_users_dict_that_looks_tagged_has_a_digest_of_its_own() -> None:
    looks_so = {"a": {"$distilnb": "bytes", "value": "eA=="}, "z": 1}
    turned = {"z": 1, "a": {"value": "eA==", "$distilnb": "bytes"}}
    assert row_digest(looks_so) == row_digest(turned) != row_digest({"a": b"x", "z": 1})


def test_ids_go_on_after_those_seen() -> None:
    first = IdMaker("load").make({"a": 1})
    assert IdMaker("load", [first]).make({"a": 1}) == first[:-1] + "1"


def test_selecting_tells_rows_from_lost_rows() -> None:
    batch = Batch([{"a": 1}, {"a": 2}], ["x", "y"], [[0], [1]], [Gone("z", [2], "s", "r")])
    chosen = batch.select([1, 2])
    assert (chosen.ids, chosen.gone) == (["y"], [Gone("z", [2], "s", "r")])


def test_order_compares_child_indices_as_numbers() -> None:
    batch = Batch([{}, {}, {}], ["b", "c", "a"], [[0, 10], [1], [0, 9]])
    assert batch.in_order().ids == ["a", "b", "c"]


def test_rows_with_the_same_order_key_come_in_the_order_of_their_ids() -> None:
    batch = Batch([{}, {}, {}], ["c", "b", "a"], [[0], [0], [0]])
    assert batch.in_order().ids == ["a", "b", "c"]
    assert batch.select([2, 1, 0]).in_order().ids == ["a", "b", "c"]


def test_a_folder_that_is_missing_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written: No such file or directory"):
        write_text(tmp_path / "absent" / "file", "text")
    assert list(tmp_path.iterdir()) == []


def test_threads_that_write_one_file_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has written its temporary file before any of them gives it its name."""
    path, n_threads = tmp_path / "file", 4
    barrier, replace = threading.Barrier(n_threads, timeout=10), Path.replace

    def replace_together(self: Path, target: Path) -> Path:
        barrier.wait()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_together)
    texts = [str(i) * 1000 for i in range(n_threads)]
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(write_text, [path] * n_threads, texts))
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_with_the_longest_name_is_written(tmp_path: Path) -> None:
    write_text(tmp_path / ("n" * 255), "text")
    assert (tmp_path / ("n" * 255)).read_text() == "text"


def test_a_damaged_batch_file_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "batch.json").write_text('{"ids": [', encoding="utf-8")
    with pytest.raises(StoreError, match="cannot be read"):
        read_batch(tmp_path / "batch.json")


def routed() -> Batch:
    """Return three rows: one goes to `b`, one to `b` and `c`, one to `c`; and one that was lost before."""
    batch = Batch(gone=[Gone("w", [3], "s", "r")])
    for number, (row_id, route) in enumerate([("x", ["b"]), ("y", ["b", "c"]), ("z", ["c"])]):
        batch.add({"n": number}, row_id, [number], route)
    return batch


def test_a_step_behind_a_route_takes_its_rows_and_tells_of_the_others() -> None:
    taken = routed().taken_by("b")
    assert (taken.ids, taken.routes) == (["x", "y"], [])
    assert taken.gone == [Gone("w", [3], "s", "r"), Gone("z", [2], "", "", is_skip=True)]


def test_routes_follow_their_rows_through_a_file_and_a_choice(tmp_path: Path) -> None:
    write_batch(tmp_path / "batch.json", routed())
    batch = read_batch(tmp_path / "batch.json")
    assert batch == routed()
    chosen = batch.select([2, 0, 3])
    assert (chosen.ids, chosen.routes) == (["z", "x"], [["c"], ["b"]])
    assert [chosen.goes_to("b", index) for index in (0, 1)] == [False, True]
    assert [chosen.gone_at(index).id for index in (0, 2)] == ["z", "w"]


def test_without_a_route_every_step_takes_every_row() -> None:
    batch = Batch([{"n": 1}], ["x"], [[0]])
    assert batch.taken_by("any") is batch

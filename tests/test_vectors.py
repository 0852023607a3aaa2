"""Vectors as text: exact, short, and never in place of what they would change."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from distilnb.export.table import SHORTEST_VECTOR, make_table, to_frame
from distilnb.rows import Batch, read_batch, write_batch
from distilnb.vectors import pack_column, pack_vector, unpack_column, unpack_vector


def vector(seed: int, size: int = 100) -> list[float]:
    draw = random.Random(seed)
    return unpack_vector(pack_vector(draw.gauss(0, 1) for _ in range(size)))


FLAT = [0.5] * 20
OTHERS: dict[str, list[Any]] = {
    "empty": [],
    "nothing but None": [None, None],
    "text": ["a"],
    "short lists": [[0.5, 0.5]],
    "of several lengths": [FLAT, FLAT[1:]],
    "with whole numbers": [FLAT, [1, *FLAT[1:]]],
    "with truth values": [FLAT, [True, *FLAT[1:]]],
    "with None inside": [FLAT, [None, *FLAT[1:]]],
    "beside text": [FLAT, "a"],
    "what 32 bits round": [[0.1] * 20],
    "NaN": [[math.nan, *FLAT[1:]]],
    "too large": [[1e300, *FLAT[1:]]],
    "tuples": [tuple(FLAT)],
}


def test_a_vector_comes_back_as_it_was() -> None:
    numbers = [0.0, -0.0, 1.5, -3.25, 2.0**-149, float("inf")]
    assert list(map(repr, unpack_vector(pack_vector(numbers)))) == list(map(repr, numbers))
    assert pack_vector([1.0]) == "AACAPw=="  # the lowest byte first, on every machine


@pytest.mark.parametrize("text", ["", "AAAA", "not base64!", "AACAPw"])
def test_text_that_is_no_vector_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        unpack_vector(text)


def test_a_column_of_vectors_comes_back_as_it_was() -> None:
    column = [vector(1), None, vector(2)]
    packed = pack_column(column)
    assert packed is not None
    assert unpack_column(packed) == column


@pytest.mark.parametrize("column", OTHERS.values(), ids=OTHERS)
def test_another_column_is_left_alone(column: list[Any]) -> None:
    assert pack_column(column) is None


@pytest.mark.parametrize("column", [[vector(1), None, vector(2)], *OTHERS.values()], ids=["vectors", *OTHERS])
def test_a_batch_file_gives_back_what_it_was_given(column: list[Any], tmp_path: Path) -> None:
    # A lone surrogate beside it makes the file tag everything.
    for text in ("plain", "\ud800"):
        rows = [{"n": n, "text": text, "v": value} for n, value in enumerate(column)]
        ids = [f"load:x:{n}" for n in range(len(rows))]
        batch = Batch([dict(row) for row in rows], ids, list(range(len(rows))))
        write_batch(tmp_path / "batch", batch)
        found = [dict(row) for row in read_batch(tmp_path / "batch").rows]
        wanted = [{**row, "v": list(row["v"]) if isinstance(row["v"], tuple) else row["v"]} for row in rows]
        assert list(map(repr, found)) == list(map(repr, wanted))


def test_a_file_of_vectors_is_as_short_as_they_are(tmp_path: Path) -> None:
    rows = [{"v": vector(seed, 1000)} for seed in range(20)]
    write_batch(tmp_path / "batch", Batch(rows, [str(n) for n in range(20)], list(range(20))))
    assert (tmp_path / "batch").stat().st_size < 20 * 1000 * 4 * 1.5


def test_a_table_keeps_vectors_as_arrow_does() -> None:
    import pyarrow as pa

    rows = [{"v": vector(seed, SHORTEST_VECTOR)} for seed in range(3)]
    table = make_table(rows)
    assert table.arrow.schema.field("v").type == pa.list_(pa.float32(), SHORTEST_VECTOR)
    assert list(table.rows()) == rows
    assert to_frame(table.arrow, table.json_columns)["v"][2] == rows[2]["v"]


@pytest.mark.parametrize(
    "column",
    [[vector(1, SHORTEST_VECTOR - 1)], [vector(1), None], [[0.1] * 100], [vector(1), vector(2, 99)]],
    ids=["short", "one is missing", "what 32 bits round", "of several lengths"],
)
def test_a_table_of_other_lists_has_lists_of_64_bits(column: list[Any]) -> None:
    import pyarrow as pa

    table = make_table([{"v": value} for value in column])
    assert table.arrow.schema.field("v").type == pa.list_(pa.float64())
    assert [row["v"] for row in table.rows()] == column

"""Rows of local files, in every format, with every way to be wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilnb.errors import InputError, SourceNotFoundError
from distilnb.rows import Row
from distilnb.steps.files import DataFile, columns_of, count_rows, find_files, read_file, read_files

ROWS: list[Row] = [{"id": 1, "text": "Grüße, 世界"}, {"id": 2, "text": 'a "b"\nc'}, {"id": 3, "text": None}]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(path: Path, skip: int = 0, **options: Any) -> list[Row]:
    [file] = find_files([path], **options)
    return list(read_file(file, skip))


def jsonl(rows: list[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def as_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=2)


def as_arrow(path: Path) -> None:
    import pyarrow as pa

    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def as_stream(path: Path) -> None:
    import pyarrow as pa

    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


MAKERS = {
    "rows.jsonl": lambda path: write(path, jsonl(ROWS)),
    "bom.jsonl": lambda path: write(path, b"\xef\xbb\xbf" + jsonl(ROWS).encode()),
    "crlf.ndjson": lambda path: write(path, "\n" + jsonl(ROWS).replace("\n", "\r\n\r\n")),
    "packed.jsonl.gz": lambda path: write(path, gzip.compress(jsonl(ROWS).encode())),
    "list.json": lambda path: write(path, json.dumps(ROWS, indent=2)),
    "lines.json": lambda path: write(path, jsonl(ROWS)),
    "rows.csv": lambda path: write(path, 'id,text\n1,"Grüße, 世界"\n2,"a ""b""\nc"\n3,\n'),
    "rows.tsv": lambda path: write(path, 'id\ttext\n1\tGrüße, 世界\n2\t"a ""b""\nc"\n\n3\t\n'),
    "rows.parquet": as_parquet,
    "rows.arrow": as_arrow,
    "stream.arrow": as_stream,
}


@pytest.mark.parametrize("name", MAKERS)
def test_each_format_gives_the_same_rows_from_any_place(tmp_path: Path, name: str) -> None:
    MAKERS[name](tmp_path / name)
    for skip in range(5):
        assert read(tmp_path / name, skip) == ROWS[skip:]
    [file] = find_files([tmp_path / name])
    assert count_rows(file) == 3
    assert columns_of([file]) == (("id", "text"), True)


def test_text_files_give_a_row_for_each_line_that_is_not_blank(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.txt", "one\r\n\n  \ntwo ")) == [{"text": "one"}, {"text": "two "}]


def test_several_files_are_read_in_order_and_skipped_by_counting(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write(tmp_path / f"{name}.jsonl", jsonl([{"n": f"{name}{i}"} for i in range(2)]))
    files = find_files([str(tmp_path / "*.jsonl")])
    names = ["a0", "a1", "b0", "b1", "c0", "c1"]
    for skip in range(8):
        assert [row["n"] for row in read_files(files, skip)] == names[skip:]
    assert find_files([tmp_path]) == files


def test_a_name_with_brackets_is_a_name(tmp_path: Path) -> None:
    assert read(write(tmp_path / "rows[1].jsonl", '{"a": 1}')) == [{"a": 1}]


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": \n', r"a\.jsonl', line 3: no JSON: Expecting value at column 6"),
        ("a.jsonl", '{"a": 1}\n[1]\n', r"line 2: list, not an object"),
        ("a.json", '[{"a": 1},\n {"a" 2}]', r"a\.json', line 2: Expecting ':'"),
        ("a.json", "[1]", r"entry 0 is int"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", r"a\.csv', line 3: 3 cells under 2 columns"),
        ("a.csv", "a,a\n1,2\n", r"two columns named 'a'"),
        ("a.csv", b"a\n\xe4\n", r"not UTF-8: byte 0xe4"),
        ("a.parquet", "no parquet", r"is no Parquet file"),
        ("a.arrow", "no arrow at all", r"is no Arrow file"),
    ],
)
def test_what_cannot_be_read_is_told_with_file_and_line(
    tmp_path: Path, name: str, text: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read(write(tmp_path / name, text))


def test_a_missing_file_is_told_with_what_is_there_and_the_near_match(tmp_path: Path) -> None:
    write(tmp_path / "instructions.jsonl", "{}")
    with pytest.raises(SourceNotFoundError, match=r"holds \['instructions.jsonl'\]") as caught:
        find_files([tmp_path / "instruction.jsonl"])
    assert "Did you mean" in caught.value.fix
    with pytest.raises(SourceNotFoundError, match="No file matches"):
        find_files([str(tmp_path / "*.csv")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceNotFoundError, match="holds nothing"):
        find_files([tmp_path / "empty"])
    with pytest.raises(SourceNotFoundError, match="is an address"):
        find_files(["hf://datasets/x/y.jsonl"])


def test_an_unknown_suffix_needs_a_file_type(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.data", '{"a": 1}')
    with pytest.raises(InputError, match="cannot be told from its name"):
        read(path)
    assert read(path, filetype="json") == [{"a": 1}]
    with pytest.raises(InputError, match="'jsn' is not known"):
        read(path, filetype="jsn")


def test_a_pretty_printed_object_is_one_row(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.json", '{\n "a": [1]\n}')) == [{"a": [1]}]


def test_nan_is_none_wherever_it_comes_from(tmp_path: Path) -> None:
    import pandas as pd

    assert read(write(tmp_path / "a.jsonl", '{"a": NaN}')) == [{"a": None}]
    pd.DataFrame({"a": [1.5, None]}).to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [{"a": 1.5}, {"a": None}]


def test_columns_are_known_only_as_far_as_the_rows_agree(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n{"b": 1}\n')
    assert columns_of(find_files([path])) == (("a", "b"), False)


def test_a_changed_file_is_looked_at_anew(tmp_path: Path) -> None:
    file = DataFile(str(write(tmp_path / "a.jsonl", '{"a": 1}\n')), "jsonl")
    assert (columns_of([file])[0], count_rows(file)) == (("a",), 1)
    write(tmp_path / "a.jsonl", '{"b": 1}\n{"b": 2}\n')
    assert (columns_of([file])[0], count_rows(file)) == (("b",), 2)


def test_a_megabyte_in_one_cell_is_read(tmp_path: Path) -> None:
    text = "ü" * 1_000_000
    assert read(write(tmp_path / "a.csv", f"t,n\n{text},1\n")) == [{"t": text, "n": 1}]


# --- types of CSV ---


@pytest.mark.parametrize(
    "cells, values",
    [
        (["1", "", "-20"], [1, None, -20]),
        (["1", "2.5", "NaN"], [1.0, 2.5, None]),
        (["true", "False"], [True, False]),
        (["007", "8"], ["007", "8"]),
        (["1", "x"], ["1", "x"]),
        (["NA", "none"], ["NA", "none"]),
        (["", ""], [None, None]),
        (["1" * 30], ["1" * 30]),
        (["1e3", "2"], [1000.0, 2.0]),
    ],
)
def test_a_column_has_one_type(tmp_path: Path, cells: list[str], values: list[Any]) -> None:
    text = "x,y\n" + "".join(f"{cell},-\n" for cell in cells)
    assert [row["x"] for row in read(write(tmp_path / "a.csv", text))] == values


def test_a_late_value_of_another_type_is_told_and_can_be_read_as_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "zip\n" + "12345\n" * 1000 + "D-1\n")
    with pytest.raises(InputError, match=r"line 1002, column 'zip': 'D-1' is no number"):
        read(path)
    assert read(path, text_columns=["zip"])[-1] == {"zip": "D-1"}


def test_the_index_of_a_data_frame_gets_the_name_that_pandas_gives_it(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.csv", ",a\n0,x\n")) == [{"Unnamed: 0": 0, "a": "x"}]


@given(
    st.lists(
        st.dictionaries(st.text(max_size=3), st.text(max_size=8) | st.integers() | st.none(), max_size=3)
    )
)
def test_any_rows_come_back_from_json_lines(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row]
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
    assert read(write(path, "".join(json.dumps(row) + "\n" for row in rows))) == rows


LINES = st.sampled_from(
    [
        b'{"a": 1}',
        b' {"a": [1.5, {"b": null}]} ',
        b'{"a": 123456789012345678901234567890}',
        b'{"a": [-99999999999999999999]}',
        b'{"a": 1e300}',
        b'{"a": NaN, "b": [Infinity]}',
        b'{"a": "\\ud800"}',
        b'{"a": 1}\xc2\xa0',
        b'{"a":\r1}',
        b"",
        b" \t",
        b"\xc2\xa0",
        b"[1]",
        b"{oops}",
    ]
)


@given(
    st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=8),
    st.integers(0, 4),
    st.booleans(),
)
def test_json_lines_mean_the_same_by_the_block_as_line_by_line(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[bytes, bytes]], skip: int, has_mark: bool
) -> None:
    """Rows, and the line that is told of, whatever ends a line and whatever stands in it."""
    text = (b"\xef\xbb\xbf" if has_mark else b"") + b"".join(line + end for line, end in lines)
    path = write(tmp_path_factory.mktemp("lines") / "rows.jsonl", text)

    def outcome() -> tuple[list[Row], str]:
        rows: list[Row] = []
        try:
            for row in read_file(DataFile(str(path), "jsonl"), skip):
                rows.append(row)
        except InputError as error:
            return rows, str(error)
        return rows, ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distilnb.steps.files._FIRST_BLOCK_BYTES", 20)
        patch.setattr("distilnb.steps.files._BLOCK_BYTES", 40)
        by_block = outcome()
        patch.setattr("distilnb.steps.files._parse_quickly", lambda _: None)
        assert repr(by_block) == repr(outcome())

"""Files cut into parts: whoever reads the parts, in whatever order, has the rows of the files."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distilnb.errors import InputError
from distilnb.rows import Row
from distilnb.steps import cutting
from distilnb.steps.cutting import Part, PartReader, can_be_cut
from distilnb.steps.files import DataFile, read_file

LINES = st.sampled_from(
    [
        '{"a": 1}',
        '{"a": "ü\\n", "b": [1.5, null]}',
        "",
        "  ",
        '{"a": NaN}',
        '{"a": 123456789012345678901}',
        "[1]",
        "{",
    ]
)
ENDS = st.sampled_from(["\n", "\n", "\r\n", "\r"])


def jsonl(path: Path) -> DataFile:
    return DataFile(str(path), "jsonl")


def parts_of(reader: PartReader) -> list[Part]:
    parts: list[Part] = []
    while (part := reader.read(len(parts))) is not None:
        parts.append(part)
    return parts


@given(
    lines=st.lists(st.tuples(LINES, ENDS), max_size=12),
    last=LINES,
    size=st.integers(1, 40),
    bom=st.booleans(),
)
@example(lines=[('{"a": 1}', "\n")], last="{", size=1, bom=True)
def test_the_parts_of_a_file_are_its_rows(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, str]], last: str, size: int, bom: bool
) -> None:
    path = tmp_path_factory.mktemp("cut") / "rows.jsonl"
    text = "".join(line + end for line, end in lines) + last
    path.write_bytes(b"\xef\xbb\xbf" * bom + text.encode())

    def whole() -> tuple[list[Row], str]:
        rows: list[Row] = []
        try:
            rows.extend(read_file(jsonl(path)))
        except InputError as error:
            return rows, str(error)
        return rows, ""

    def cut() -> tuple[list[Row], str]:
        rows: list[Row] = []
        for part in parts_of(PartReader([jsonl(path)], size)):
            try:
                rows.extend(part.rows())
            except InputError as error:
                return rows, str(error)
        return rows, ""

    (rows, error), (cut_rows, cut_error) = whole(), cut()
    assert repr(cut_rows) == repr(rows)  # NaN is not equal to itself
    assert bool(cut_error) == bool(error)
    if "\r" not in text.replace("\r\n", ""):  # a lone return is a line's end only to the careful reader
        assert cut_error == error


def test_parts_are_the_same_in_any_order_and_count_the_lines_before_them(tmp_path: Path) -> None:
    files = []
    for number, n_rows in enumerate((40, 1, 25)):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(
            "\n".join(f'{{"file": {number}, "n": {n}}}' for n in range(n_rows)) + "\n" * (number == 1)
        )
        files.append(jsonl(path))
    parts = parts_of(PartReader(files, 100))
    assert [row for part in parts for row in part.rows()] == [
        row for file in files for row in read_file(file)
    ]
    assert [part.n_before_in_all for part in parts] == [
        sum(len([*other.rows()]) for other in parts[:index]) for index in range(len(parts))
    ]
    numbers = [*range(len(parts))] * 2
    random.Random(3).shuffle(numbers)
    reader = PartReader(files, 100)
    assert [reader.read(number) for number in numbers] == [parts[number] for number in numbers]


def test_only_large_files_of_plain_json_lines_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small, packed = tmp_path / "large.jsonl", tmp_path / "small.jsonl", tmp_path / "packed.jsonl.gz"
    large.write_text('{"a": 1}\n' * 20)
    small.write_text('{"a": 1}\n')
    packed.write_bytes(gzip.compress(large.read_bytes()))
    monkeypatch.setattr(cutting, "MANY_BYTES", 100)
    assert can_be_cut([jsonl(small), jsonl(large)])
    assert not can_be_cut([jsonl(small)])
    assert not can_be_cut([jsonl(large), jsonl(packed)])
    assert not can_be_cut([DataFile(str(large), "txt")])
    assert not can_be_cut([jsonl(large), jsonl(tmp_path / "gone.jsonl")])


def test_a_file_that_is_gone_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jsonl"):
        PartReader([jsonl(tmp_path / "gone.jsonl")]).read(0)

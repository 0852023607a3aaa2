"""Rows of CSV text: numbers and truth values become such where a whole column looks like them."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import IO, Any

from distilnb.errors import InputError
from distilnb.rows import Row

_LOOKED_AT = 1000  # rows that decide the type of a column
_CELL_BYTES = 2**31 - 1  # the csv module's own limit is 131,072 characters, less than one long document
_DELIMITERS = {"csv": ",", "tsv": "\t"}
_NO_NUMBER = frozenset({"nan", "na", "n/a", "null", "none", "<na>", "#n/a"})
_INT = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})")  # 007 and longer numbers are names, not amounts
_FLOAT = re.compile(r"[+-]?(?![0-9]{19})((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


def read_csv(stream: IO[str], path: str, form: str, skip: int, text_columns: frozenset[str]) -> Iterator[Row]:
    """Yield the rows of a CSV file with a header, after the first `skip`. An empty cell is None.

    The first 1,000 rows decide the type of each column. Raises InputError naming file, line and column.
    """
    reader = _reader(stream, form)
    try:
        header = _header(next((cells for cells in reader if cells), []), path)
        first = [(reader.line_num, cells) for cells in islice((c for c in reader if c), _LOOKED_AT)]
        types = {name: _type_of(first, i, name in text_columns) for i, name in enumerate(header)}
        later = ((reader.line_num, cells) for cells in reader if cells)
        for line, cells in islice(chain(first, later), skip, None):
            yield _row(header, cells, types, path, line)
    except csv.Error as error:
        raise InputError(f"{path!r}, line {reader.line_num}: no CSV: {error}.") from error


def count_csv(stream: IO[str], form: str) -> int:
    """Return the number of rows under the header."""
    return max(0, sum(1 for cells in _reader(stream, form) if cells) - 1)


def _reader(stream: IO[str], form: str) -> Any:
    csv.field_size_limit(_CELL_BYTES)
    return csv.reader(stream, delimiter=_DELIMITERS[form])


def _header(cells: list[str], path: str) -> list[str]:
    # A DataFrame saved with its index has no name over the first column.
    names = [cell.strip() or f"Unnamed: {index}" for index, cell in enumerate(cells)]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"{path!r} has two columns named {name!r}.", "Give each column a name of its own."
            )
    return names


def _row(
    header: list[str], cells: list[str], types: dict[str, Callable[[str], Any]], path: str, line: int
) -> Row:
    if len(cells) > len(header):
        raise InputError(
            f"{path!r}, line {line}: {len(cells)} cells under {len(header)} columns.",
            "Put cells that hold a comma, a quote or a line break in double quotes.",
        )
    row: Row = dict.fromkeys(header)
    for name, cell in zip(header, cells, strict=False):
        if cell:
            try:
                row[name] = types[name](cell)
            except ValueError as error:
                raise InputError(
                    f"{path!r}, line {line}, column {name!r}: {cell[:60]!r} is {error}, unlike rows before.",
                    f"Correct it, or read the column as text: text_columns=[{name!r}].",
                ) from error
    return row


def _type_of(rows: list[tuple[int, list[str]]], index: int, as_text: bool) -> Callable[[str], Any]:
    cells = [cells[index] for _, cells in rows if index < len(cells) and cells[index]]
    told = [cell for cell in cells if cell.lower() not in _NO_NUMBER]
    if as_text or not told:
        return str
    if all(_INT.fullmatch(cell) for cell in told):
        return _int
    if all(_FLOAT.fullmatch(cell) for cell in told):
        return _float
    return _bool if all(cell.lower() in {"true", "false"} for cell in cells) else str


def _int(cell: str) -> int | float | None:
    return int(cell) if _INT.fullmatch(cell) else _float(cell)


def _float(cell: str) -> float | None:
    if cell.lower() in _NO_NUMBER:
        return None
    if not _FLOAT.fullmatch(cell):
        raise ValueError("no number")
    return float(cell)


def _bool(cell: str) -> bool:
    if cell.lower() not in {"true", "false"}:
        raise ValueError("neither true nor false")
    return cell.lower() == "true"

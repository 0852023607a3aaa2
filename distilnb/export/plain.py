"""Rows that a table would give back as they are: told from their values alone, without Arrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from distilnb.rows import Row, to_columns, to_rows

_SCALARS = {bool: "bool", int: "int", float: "float", str: "text"}
_OTHER = "other"  # what a table changes, or may
_LIST = "list"
_PIECE_ROWS = 1000


def plain_rows(rows: Sequence[Row], columns: Iterable[str] = ()) -> Iterator[Row] | None:
    """Return what `make_table(rows, columns).rows()` yields, or None where only the table can tell.

    Rows that have the same columns, each of one kind of scalars, or of lists of one kind, need no table: to import
    Arrow and to make one takes longer than to read the rows of a run.
    """
    kinds: dict[str, set[str]] = {name: set() for name in (rows[0] if rows else ())}
    for piece in _pieces(rows):
        there = to_columns(piece)
        if not there or there.keys() != kinds.keys():
            return None
        for name, values in there.items():
            kinds[name] |= _kinds(values)
    if not all(map(_is_plain, kinds.values())):
        return None
    lists = [name for name, found in kinds.items() if _LIST in found]
    return _copies(rows, [*dict.fromkeys([*kinds, *columns])], lists)


def _kinds(values: list[Any]) -> set[str]:
    """Return the kinds of values; of lists, those of their members too."""
    if set(map(type, values)) - {type(None)} != {list}:
        return _scalar_kinds(values)
    members = list(chain.from_iterable(value for value in values if value is not None))
    return {_LIST, *(f"{_LIST} of {kind}" for kind in _scalar_kinds(members))}


def _scalar_kinds(values: list[Any]) -> set[str]:
    found = set(map(type, values)) - {type(None)}
    if found == {str} and not _are_utf8(values):
        return {_OTHER}
    return {_SCALARS.get(kind, _OTHER) for kind in found}


def _is_plain(kinds: set[str]) -> bool:
    """Whether all values of a column are of one kind."""
    n_kinds = len(kinds - {_LIST})
    is_list = all(kind.startswith(_LIST) for kind in kinds)
    return (
        n_kinds <= 1 and (_LIST not in kinds or is_list) and not any(kind.endswith(_OTHER) for kind in kinds)
    )


def _are_utf8(texts: Iterable[str | None]) -> bool:
    """Whether no text holds half of a surrogate pair, which a table replaces."""
    try:
        for text in texts:
            if text is not None and not text.isascii():
                text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pieces(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    return (rows[start : start + _PIECE_ROWS] for start in range(0, len(rows), _PIECE_ROWS))


def _copies(rows: Sequence[Row], names: Sequence[str], lists: Sequence[str]) -> Iterator[Row]:
    """Yield rows that the caller may change."""
    for piece in _pieces(rows):
        columns: dict[str, list[Any]] = {name: [row.get(name) for row in piece] for name in names}
        for name in lists:
            columns[name] = [None if value is None else list(value) for value in columns[name]]
        yield from to_rows(columns, len(piece))

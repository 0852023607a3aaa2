"""Rows as an Arrow table: one type a column; values without one become JSON text and come back exactly."""

from __future__ import annotations

import datetime as dt
import decimal
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from distilnb.errors import InputError, SchemaConflictError
from distilnb.rows import Row, dump_json, load_json
from distilnb.vectors import join_vectors

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_KINDS: Mapping[type, str] = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "text",
    bytes: "bytes",
    bytearray: "bytes",
    dt.datetime: "datetime",
    dt.date: "date",
    dt.time: "time",
    dt.timedelta: "timedelta",
    decimal.Decimal: "decimal",
    list: "list",
    tuple: "list",
    set: "list",
    frozenset: "list",
    dict: "dict",
}
_NESTED = frozenset({"list", "dict"})
SHORTEST_VECTOR = 64  # a column of lists of equal length that is shorter may be anything


@dataclass(frozen=True)
class Table:
    """An Arrow table, and the names of its columns that hold JSON text of other values."""

    arrow: pa.Table
    json_columns: frozenset[str] = frozenset()

    def rows(self) -> Iterator[Row]:
        """Yield the rows, with the values of JSON columns restored."""
        return restored(self.arrow, self.json_columns)


def make_table(rows: Sequence[Row], columns: Iterable[str] = ()) -> Table:
    """Turn rows into a table, column by column.

    A key that a row lacks is None there; `columns` names those known beforehand, so that no rows still have
    columns. Nulls take any type and integers beside fractions become fractions. Raises SchemaConflictError
    naming the column and the first two rows whose values have no common type.
    """
    import pyarrow as pa

    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    names.update(dict.fromkeys(columns))  # after those of the rows, whose order it is
    arrays, json_columns = [], set()
    for name in names:
        array, is_json = _make_array(name, [row.get(name) for row in rows])
        arrays.append(array)
        if is_json:
            json_columns.add(name)
    return Table(pa.table(arrays, names=list(names)), frozenset(json_columns))


def restored(arrow: pa.Table, json_columns: Iterable[str]) -> Iterator[Row]:
    """Yield the rows of a table, a block at a time, with the values of JSON columns restored."""
    decoded = [name for name in json_columns if name in arrow.column_names]
    for batch in arrow.to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            for name in decoded:
                row[name] = decode(row[name])
            yield row


def decode(text: str | None) -> Any:
    """Return the value that a JSON column holds as text."""
    return None if text is None else load_json(text)


def to_frame(arrow: pa.Table, json_columns: Iterable[str]) -> pd.DataFrame:
    """Return a table as a DataFrame: lists stay lists, whole numbers stay whole beside missing ones."""
    import pandas as pd

    decoded = set(json_columns)
    columns = {}
    for name in arrow.column_names:
        column = arrow.column(name)
        if name in decoded:
            values = [decode(text) for text in column.to_pylist()]
            columns[name] = pd.Series(values, dtype="object")
        else:
            columns[name] = _series(column)
    return pd.DataFrame(columns, columns=arrow.column_names)


def _series(column: pa.ChunkedArray) -> pd.Series[Any]:
    import pandas as pd
    import pyarrow as pa

    kind = column.type
    if pa.types.is_integer(kind) and column.null_count:
        return pd.Series(column.to_pylist(), dtype="Int64")
    if pa.types.is_boolean(kind) and column.null_count:
        return pd.Series(column.to_pylist(), dtype="boolean")
    if pa.types.is_nested(kind) or pa.types.is_null(kind):
        return pd.Series(column.to_pylist(), dtype="object")
    series: pd.Series[Any] = column.to_pandas()
    return series


# --- one column ---------------------------------------------------------------


class _MixedError(Exception):
    """Values have no common type; `kinds` are two that differ."""

    def __init__(self, *kinds: str) -> None:
        super().__init__(*kinds)
        self.kinds = kinds


def _make_array(name: str, values: list[Any]) -> tuple[pa.Array, bool]:
    import pyarrow as pa

    if any(_kind_of(kind) == "numpy" for kind in set(map(type, values)) if kind is not type(None)):
        values = [value.tolist() if hasattr(value, "tolist") else value for value in values]
    try:
        kind = _common_kind(values)
    except _MixedError as mixed:
        raise _conflict(name, values, mixed.kinds) from None
    if kind == "list" and (vectors := _vectors(values)) is not None:
        return vectors, False
    try:
        arrow_type = _arrow_type(values, kind)
        return pa.array(_plain(values, kind), arrow_type), False
    except UnicodeEncodeError:
        if kind == "text":
            return pa.array([_encodable(text) for text in values], pa.string()), False
    except (_MixedError, pa.ArrowException, OverflowError):
        pass  # members differ, or a number is too large for Arrow
    return pa.array([_as_json(value) for value in values], pa.string()), True


def _vectors(values: Sequence[Any]) -> pa.Array | None:
    """Return a column of embeddings as Arrow keeps vectors: each as long as the others, with 32 bits a number.

    None for any other column: what is shorter than most embeddings, or would lose something.
    """
    import pyarrow as pa

    first = values[0]
    if not isinstance(first, list) or len(first) < SHORTEST_VECTOR:
        return None
    data = join_vectors(values)
    if data is None:
        return None
    numbers = pa.Array.from_buffers(pa.float32(), len(values) * len(first), [None, pa.py_buffer(data)])
    return pa.FixedSizeListArray.from_arrays(numbers, len(first))


def _common_kind(values: Iterable[Any]) -> str:
    """Return the one kind of all values ("null" when there are none), or raise _MixedError."""
    kinds = sorted({_kind_of(kind) for kind in set(map(type, values)) if kind is not type(None)})
    if not kinds:
        return "null"
    if kinds == ["float", "int"]:
        return "float"
    if len(kinds) == 1 or _NESTED.issuperset(kinds):
        return kinds[0] if len(kinds) == 1 else "json"
    raise _MixedError(*kinds[:2])


def _kind_of(kind: type) -> str:
    if kind in _KINDS:
        return _KINDS[kind]
    for base, name in _KINDS.items():
        if issubclass(kind, base):
            return name
    if callable(getattr(kind, "tolist", None)):  # a NumPy scalar or array, without importing NumPy
        return "numpy"
    raise InputError(
        f"A row holds a value of type {kind.__name__!r}, which cannot be stored.",
        "Use str, int, float, bool, None, list, dict, bytes, datetime or Decimal.",
    )


def _arrow_type(values: Sequence[Any], kind: str) -> pa.DataType | None:
    """Return the Arrow type of values of one kind, None where Arrow infers it. Raises _MixedError."""
    import pyarrow as pa

    if kind == "list":
        return pa.list_(
            _member_type(list(chain.from_iterable(value for value in values if value is not None)))
        )
    if kind == "dict":
        return _struct_type([value for value in values if value is not None])
    if kind in ("json", "numpy"):
        raise _MixedError(kind)
    if kind == "datetime" and len({value.tzinfo is None for value in values if value is not None}) > 1:
        raise _MixedError(kind)  # with and without a zone: Arrow would give the latter one
    known: dict[str, Callable[[], Any]] = {
        "null": pa.null,
        "bool": pa.bool_,
        "int": pa.int64,
        "float": pa.float64,
        "text": pa.string,
        "bytes": pa.binary,
    }
    return known[kind]() if kind in known else pa.array(values).type


def _member_type(values: list[Any]) -> pa.DataType:
    return _arrow_type(values, _common_kind(values))


def _struct_type(values: list[dict[Any, Any]]) -> pa.DataType:
    import pyarrow as pa

    keys = values[0].keys()
    if (
        not keys
        or any(value.keys() != keys for value in values)
        or not all(isinstance(key, str) for key in keys)
    ):
        raise _MixedError("dict")
    return pa.struct([(key, _member_type([value[key] for value in values])) for key in keys])


def _plain(values: list[Any], kind: str) -> list[Any]:
    """Return values in a form that Arrow takes; sets become lists."""
    if kind == "list" and any(isinstance(value, (set, frozenset)) for value in values):
        return [sorted(value, key=str) if isinstance(value, (set, frozenset)) else value for value in values]
    return values


def _as_json(value: Any) -> str | None:
    if value is None:
        return None
    text = dump_json(value)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can escape it, UTF-8 cannot hold it
        return json.dumps(json.loads(text))
    return text


def _encodable(text: str | None) -> str | None:
    """Return text that UTF-8 can hold: halves of surrogate pairs are joined, or replaced where alone."""
    return None if text is None else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _conflict(name: str, values: Sequence[Any], kinds: Sequence[str]) -> SchemaConflictError:
    first = {
        kind: i
        for i, kind in reversed([(i, _kind_of(type(v))) for i, v in enumerate(values) if v is not None])
    }
    (row_a, kind_a), (row_b, kind_b) = sorted((first[kind], kind) for kind in kinds)
    return SchemaConflictError(
        f"Column {name!r} holds {kind_a} in row {row_a} ({values[row_a]!r:.60}) "
        f"and {kind_b} in row {row_b} ({values[row_b]!r:.60}).",
        "Give the column one type, for instance with a step that converts it.",
    )

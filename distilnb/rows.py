"""Rows, their ids and their batches: what flows between steps, and the file that carries it.

A row is a plain dict at the user's side. Inside the engine a row also has an id, which names it for ever, and an
order key, which sorts it among the rows of its leaf. Between processes rows travel as files of JSON by column.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import decimal
import hashlib
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from distilnb.errors import InputError, StoreError

Row: TypeAlias = dict[str, Any]  # a value is JSON, bytes, a date or a decimal; `encode` says which exactly
RowId: TypeAlias = str
Order: TypeAlias = list[int]  # the source's index, then child indices; compares as a list

_TAG = "$distilnb"
_TAG_KEY = f'"{_TAG}":'  # as a key stands in JSON text
_ABSENT = object()  # marks a key that a row of the batch does not have, as against None
_ABSENT_TEXT = f'{{{_TAG_KEY}"absent"}}'

_serial = itertools.count()  # of the files that this process writes


class Gone(NamedTuple):
    """A row that will never arrive: it failed or was filtered. Joins downstream wait for it no longer."""

    id: RowId
    order: Order
    step: str
    reason: str


@dataclass(slots=True)
class Batch:
    """Rows on their way between two stages; `ids` and `orders` run beside `rows`."""

    rows: list[Row] = field(default_factory=list)
    ids: list[RowId] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    gone: list[Gone] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: Row, row_id: RowId, order: Order) -> None:
        """Append one row."""
        self.rows.append(row)
        self.ids.append(row_id)
        self.orders.append(order)

    def select(self, indices: Iterable[int]) -> Batch:
        """Return the rows at `indices`; index n + i stands for the i-th row that is gone."""
        n_rows = len(self.rows)
        chosen = Batch()
        for index in indices:
            if index < n_rows:
                chosen.add(self.rows[index], self.ids[index], self.orders[index])
            else:
                chosen.gone.append(self.gone[index - n_rows])
        return chosen

    def in_order(self) -> Batch:
        """Return the same rows sorted by their order key."""
        by_order = sorted(range(len(self.rows)), key=self.orders.__getitem__)
        chosen = self.select(by_order)
        chosen.gone = list(self.gone)
        return chosen


def row_digest(row: Row) -> str:
    """Return 16 hexadecimal digits that name the content of a row; the order of keys does not matter."""
    text = _to_text(row, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def root_id(row_id: RowId) -> RowId:
    """Return the id of the source's row that a row stems from.

    >>> root_id("load:9f30e13409770f5e:0.2.1")
    'load:9f30e13409770f5e:0'
    """
    head, colon, tail = row_id.rpartition(":")
    return head + colon + tail.partition(".")[0]


class IdMaker:
    """Name the rows of one source: `<source>:<digest of content>:<k>`, k = how many equal rows came before."""

    def __init__(self, source: str, seen: Iterable[RowId] = ()) -> None:
        self._source = source
        self._count: dict[str, int] = {}
        for row_id in seen:
            digest = row_id.rsplit(":", 2)[1]
            self._count[digest] = self._count.get(digest, 0) + 1

    def make(self, row: Row) -> RowId:
        """Return the id of the next row."""
        digest = row_digest(row)
        k = self._count.get(digest, 0)
        self._count[digest] = k + 1
        return f"{self._source}:{digest}:{k}"


# --- the file -----------------------------------------------------------------


def write_batch(path: Path, batch: Batch) -> None:
    """Write a batch as JSON by column; the file appears whole or not at all.

    Raises StoreError when the disk refuses and InputError when a value has no JSON form.
    """
    document = {
        "ids": batch.ids,
        "orders": batch.orders,
        "columns": _to_columns(batch.rows),
        "gone": batch.gone,
    }
    write_text(path, dump_json(document))


def read_batch(path: Path) -> Batch:
    """Read a batch that `write_batch` wrote."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogatepass")
        document = load_json(text)
    except (OSError, ValueError, InputError) as error:
        raise StoreError(f"The batch file {str(path)!r} cannot be read: {error}.") from error
    rows = _to_rows(document["columns"], len(document["ids"]))
    if _ABSENT_TEXT in text:
        rows = [{name: value for name, value in row.items() if value is not _ABSENT} for row in rows]
    return Batch(rows, document["ids"], document["orders"], [Gone(*gone) for gone in document["gone"]])


def write_text(path: Path, text: str) -> None:
    """Write a file through a temporary name, so that no half-written file is ever seen."""
    # One name per call: threads write the same file at once. Without the file's own name, which may be long.
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident():x}-{next(_serial)}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", errors="surrogatepass")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)  # half a file would keep a full disk full
        raise StoreError(
            f"The file {str(path)!r} cannot be written: {error.strerror or error}.",
            "Free some disk space, or set DISTILNB_HOME to a folder that can be written; then resume.",
        ) from error


def dump_json(value: Any) -> str:
    """Return JSON text of rows or of anything made of them; bytes, dates and decimals are tagged.

    A dict that itself holds the tag's key is tagged too, so that it comes back as it is. Raises InputError naming
    the type of a value that has no such form.
    """
    return _to_text(value)


def load_json(text: str) -> Any:
    """Read what `dump_json` wrote; raises InputError when a tagged value is not what its tag says."""
    if f'"{_TAG}"' not in text:  # the hook costs a call per object, and tagged values are rare
        return json.loads(text)
    return json.loads(text, object_hook=_decode_value)


def _to_columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    if not rows:
        return {}
    names = dict.fromkeys(rows[0])
    if all(row.keys() == names.keys() for row in rows):
        return {name: [row[name] for row in rows] for name in names}
    for row in rows:
        names.update(dict.fromkeys(row))
    return {name: [row.get(name, _ABSENT) for row in rows] for name in names}


def _to_rows(columns: dict[str, list[Any]], n_rows: int) -> list[Row]:
    if not columns:
        return [{} for _ in range(n_rows)]
    names = tuple(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _to_text(value: Any, *, sort_keys: bool = False) -> str:
    n_tagged = 0

    def encode(value: Any) -> Any:
        nonlocal n_tagged
        tagged = _tag(value)
        if tagged is None:
            return _to_plain(value)
        n_tagged += 1
        return tagged

    text = _dump(value, encode, sort_keys)
    # More tags than were set: a dict of the user holds the tag's key. To look into each dict would cost every row.
    if _TAG_KEY in text and text.count(_TAG_KEY) > n_tagged:
        escaped = _escape(value, sort_keys)
        return _dump(escaped, lambda v: _tag(v) or _escape(_to_plain(v), sort_keys), sort_keys)
    return text


def _dump(value: Any, encode: Callable[[Any], Any], sort_keys: bool) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys, default=encode)


def _escape(value: Any, sort_keys: bool) -> Any:
    """Return the value with each dict that holds the tag's key told apart from a tagged value.

    It becomes {tag: "dict", "value": [what stands before the key, its value, what stands after it]}, which holds
    no such key itself: a reader that decodes from the inside out cannot mistake its parts.
    """
    if isinstance(value, (list, tuple)):
        return [_escape(item, sort_keys) for item in value]
    if not isinstance(value, dict):
        return value
    items = [(key, _escape(item, sort_keys)) for key, item in value.items()]
    if _TAG not in value:
        return dict(items)
    if sort_keys:
        items.sort(key=lambda item: item[0])
    at = [key for key, _ in items].index(_TAG)
    return {_TAG: "dict", "value": [dict(items[:at]), items[at][1], dict(items[at + 1 :])]}


def _tag(value: Any) -> dict[str, Any] | None:
    """Return the tagged form of a value that JSON lacks, or None when it has none."""
    if value is _ABSENT:
        return {_TAG: "absent"}
    if isinstance(value, (bytes, bytearray)):
        return {_TAG: "bytes", "value": base64.b64encode(value).decode()}
    if isinstance(value, dt.datetime):
        return {_TAG: "datetime", "value": value.isoformat()}
    if isinstance(value, dt.date):
        return {_TAG: "date", "value": value.isoformat()}
    if isinstance(value, dt.time):
        return {_TAG: "time", "value": value.isoformat()}
    if isinstance(value, dt.timedelta):
        return {_TAG: "timedelta", "value": value.total_seconds()}
    if isinstance(value, decimal.Decimal):
        return {_TAG: "decimal", "value": str(value)}
    return None


def _to_plain(value: Any) -> Any:
    """Return what stands in JSON for a value that does not come back as it was; raises InputError when nothing."""
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    # NumPy scalars and arrays, without importing NumPy: both know how to become plain Python.
    plain = getattr(value, "tolist", None)
    if callable(plain):
        return plain()
    raise InputError(
        f"A row holds a value of type {type(value).__name__!r}, which cannot be stored.",
        "Use str, int, float, bool, None, list, dict, bytes, datetime or Decimal; make live objects in `load`.",
    )


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "absent": lambda _: _ABSENT,
    "dict": lambda parts: {**parts[0], _TAG: parts[1], **parts[2]},
    "bytes": base64.b64decode,
    "datetime": dt.datetime.fromisoformat,
    "date": dt.date.fromisoformat,
    "time": dt.time.fromisoformat,
    "timedelta": lambda seconds: dt.timedelta(seconds=seconds),
    "decimal": decimal.Decimal,
}


def _decode_value(value: dict[str, Any]) -> Any:
    tag = value.get(_TAG)
    decode = _DECODERS.get(tag) if isinstance(tag, str) else None
    if decode is None:
        return value
    try:
        return decode(value.get("value"))
    except (TypeError, LookupError, ValueError, ArithmeticError) as error:
        raise InputError(
            f"A stored value is tagged as {tag!r}, but is {value.get('value')!r}.", "Correct the file."
        ) from error

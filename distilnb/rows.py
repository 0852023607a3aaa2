"""Rows and their batches: what flows between steps, and the file that carries it.

A row is a plain dict at the user's side. Inside the engine a row also has an id, which names it for ever, and an
order key, which sorts it among the rows of its leaf. Between processes rows travel as files of JSON by column, and
a batch holds them by column too, until a step wants dicts.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from distilnb.errors import InputError, StoreError
from distilnb.ids import IdMaker, RowId, name_first, root_id, row_digest, row_digests
from distilnb.values import (
    ABSENT,
    are_plain_columns,
    dump_columns,
    dump_json,
    key_text,
    load,
    load_json,
    tagged,
    untagged,
)
from distilnb.vectors import pack_column, unpack_column

__all__ = [
    "Batch",
    "ColumnLists",
    "Gone",
    "IdMaker",
    "Order",
    "Row",
    "RowId",
    "dump_json",
    "load_json",
    "read_batch",
    "root_id",
    "row_digest",
    "to_columns",
    "to_rows",
    "write_batch",
    "write_text",
]

Row: TypeAlias = dict[str, Any]  # a value is JSON, bytes, a date or a decimal; `values` says which exactly
ColumnLists: TypeAlias = dict[
    str, list[Any]
]  # rows by column: lists of one length; every row has every column
Order: TypeAlias = list[int]  # the source's index, then child indices; compares as a list

_serial = itertools.count()  # of the files that this process writes


class Gone(NamedTuple):
    """A row that will never arrive: it failed, was filtered, or was routed to other branches (`is_skip`).

    Joins downstream wait for it no longer.
    """

    id: RowId
    order: Order
    step: str
    reason: str
    is_skip: bool = False


class Batch:
    """Rows on their way between two stages; `ids` and `orders` run beside `rows`, and `routes` behind a route.

    A batch that was read from a file, or came from a step on columns, holds columns; `rows` turns them into dicts
    when it is first asked for. A step on columns must not change the lists that it is given: batches share them.
    """

    __slots__ = ("_are_plain", "_columns", "_orders", "_rows", "gone", "ids", "routes")

    def __init__(
        self,
        rows: list[Row] | None = None,
        ids: list[RowId] | None = None,
        orders: list[Order] | list[int] | None = None,
        gone: list[Gone] | None = None,
        *,
        columns: ColumnLists | None = None,
        routes: list[list[str]] | None = None,
    ) -> None:
        self._rows = [] if rows is None else rows
        self._columns = columns  # while it is set, `_rows` is empty
        self._are_plain = False  # known of the columns: nothing in them needs a tag
        self.ids = [] if ids is None else ids
        self._orders: list[Any] = [] if orders is None else orders
        self.gone = [] if gone is None else gone
        self.routes = [] if routes is None else routes  # the steps that each row goes to; empty: to all

    @classmethod
    def of_source(cls, rows: list[Row], ids: IdMaker, first: int, *, digests: bytes | None = None) -> Batch:
        """Return rows of a source, named by `ids`; `first` is the index of the first in the source.

        `digests` are those of the rows where they are known (`row_digests`).
        """
        columns = to_columns(rows)
        are_plain = columns is not None and are_plain_columns(columns)
        named = ids.make_all(rows, are_plain=are_plain, digests=digests)
        return cls._of_rows(rows, columns, are_plain, named, first)

    @classmethod
    def of_part(
        cls, rows: list[Row], source: str, first: int, *, of_reader: bool = False
    ) -> NamedPart | None:
        """Return rows of a part of a source, named as if no equal row came before, and their digests.

        `of_reader` says that the fast JSON reader made the rows; None is returned where it may have changed a value.
        """
        columns = to_columns(rows)
        are_plain = columns is not None and are_plain_columns(columns, of_reader=of_reader)
        if of_reader and not are_plain:
            return None
        digests = row_digests(rows, are_plain=are_plain)
        return NamedPart(cls._of_rows(rows, columns, are_plain, name_first(source, digests), first), digests)

    @classmethod
    def _of_rows(
        cls, rows: list[Row], columns: ColumnLists | None, are_plain: bool, ids: list[RowId], first: int
    ) -> Batch:
        batch = cls(rows, ids, list(range(first, first + len(rows))))
        if columns is not None:
            batch._rows, batch._columns, batch._are_plain = [], columns, are_plain
        return batch

    def number_from(self, first: int) -> None:
        """Give rows of a source other numbers; `first` is that of the first."""
        self._orders = list(range(first, first + len(self.ids)))

    @property
    def is_as_stored(self) -> bool:
        """Whether it is known that its file gives back just this: nothing in it needs a tag."""
        return self._are_plain and self._columns is not None

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Batch):
            return NotImplemented
        mine, others = ((list(b.copies()), b.ids, b.list_orders(), b.gone, b.routes) for b in (self, other))
        return mine == others

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __repr__(self) -> str:
        return f"Batch({len(self)} rows, {len(self.gone)} gone)"

    @property
    def rows(self) -> list[Row]:
        """The rows as dicts; who changes one changes the batch."""
        if self._columns is not None:
            self._rows, self._columns = to_rows(self._columns, len(self.ids)), None
        return self._rows

    @rows.setter
    def rows(self, rows: list[Row]) -> None:
        self._rows, self._columns = rows, None

    @property
    def orders(self) -> list[Order]:
        """The order keys; they may be changed in place."""
        if self.is_flat:
            self._orders = [[order] for order in self._orders]
        return self._orders

    @orders.setter
    def orders(self, orders: list[Order]) -> None:
        self._orders = orders

    @property
    def is_flat(self) -> bool:
        """Whether all rows are those of a source: then `order_keys` are numbers."""
        return bool(self._orders) and type(self._orders[0]) is int

    @property
    def order_keys(self) -> list[Order] | list[int]:
        """The order keys as they are kept: numbers in place of lists of one, or lists."""
        return self._orders

    def list_orders(self) -> list[Order]:
        """Return the order keys as lists."""
        return [[order] for order in self._orders] if self.is_flat else list(self._orders)

    def columns(self) -> ColumnLists | None:
        """Return the rows by column, or None when not all of them have the same columns, or there is none."""
        return to_columns(self._rows) if self._columns is None else self._columns

    def copies(self) -> list[Row]:
        """Return the rows as dicts that the caller may change."""
        if self._columns is not None:
            return to_rows(self._columns, len(self.ids))
        return list(map(dict.copy, self._rows))

    def add(self, row: Row, row_id: RowId, order: Order, route: list[str] | None = None) -> None:
        """Append one row."""
        self.rows.append(row)
        self.ids.append(row_id)
        self.orders.append(order)
        if route is not None:
            self.routes.append(route)

    def extend(self, more: Batch) -> None:
        """Append the rows of another batch, not what is gone of it."""
        are_flat = more.is_flat and (self.is_flat or not self.ids)
        self.rows += more.rows
        self.ids += more.ids
        self.routes += more.routes
        if are_flat:
            self._orders += more._orders
        else:
            self.orders += more.list_orders()

    def select(self, indices: Iterable[int]) -> Batch:
        """Return the rows at `indices`; index n + i stands for the i-th row that is gone."""
        n_rows, wanted = len(self.ids), list(indices)
        kept = wanted if not self.gone else [index for index in wanted if index < n_rows]
        chosen = self._at(kept)
        if self.gone:
            chosen.gone = [self.gone[index - n_rows] for index in wanted if index >= n_rows]
        return chosen

    def in_order(self) -> Batch:
        """Return the same rows sorted by their order key, and by id where that is the same.

        An outer join behind a global step keeps old rows beside those that the step made: both are numbered from 0.
        """
        keys = self._orders
        if all(map(operator.lt, keys, itertools.islice(keys, 1, None))):
            kept = list(self._rows), self.ids, keys, list(self.gone)
            return Batch(*kept, columns=self._columns, routes=self.routes)
        places = sorted(range(len(keys)), key=keys.__getitem__)
        if any(keys[before] == keys[after] for before, after in itertools.pairwise(places)):
            places.sort(key=lambda place: (keys[place], self.ids[place]))
        chosen = self._at(places)
        chosen.gone = list(self.gone)
        return chosen

    def _at(self, places: Sequence[int]) -> Batch:
        def pick(values: list[Any]) -> list[Any]:
            return list(map(values.__getitem__, places))

        routes = pick(self.routes) if self.routes else []
        if self._columns is None:
            return Batch(pick(self._rows), pick(self.ids), pick(self._orders), routes=routes)
        columns = {name: pick(values) for name, values in self._columns.items()}
        return Batch(None, pick(self.ids), pick(self._orders), columns=columns, routes=routes)

    # --- behind a route ---

    def goes_to(self, step: str, index: int) -> bool:
        """Whether the row at `index` flows into a step that follows."""
        return not self.routes or step in self.routes[index]

    def gone_at(self, index: int) -> Gone:
        """Return the lost row at `index`, counted behind the rows; a row itself is one that was routed elsewhere."""
        if index >= len(self.ids):
            return self.gone[index - len(self.ids)]
        order = self._orders[index]
        return Gone(self.ids[index], [order] if self.is_flat else order, "", "", is_skip=True)

    def taken_by(self, step: str) -> Batch:
        """Return the rows that flow into a step that follows; the others are gone."""
        if not self.routes:
            return self
        taken = self._at([index for index, steps in enumerate(self.routes) if step in steps])
        taken.routes = []
        others = [index for index, steps in enumerate(self.routes) if step not in steps]
        taken.gone = [*self.gone, *map(self.gone_at, others)]
        return taken


class NamedPart(NamedTuple):
    """A part of a source, and the digests of its rows, eight bytes each."""

    batch: Batch
    digests: bytes


# --- rows and columns ---------------------------------------------------------


def to_columns(rows: Sequence[Row]) -> ColumnLists | None:
    """Return rows by column, or None when not all of them have the same columns, or there is none."""
    if not rows:
        return None
    if len(set(map(len, rows))) > 1:
        return None
    try:  # as many columns, and none of them absent: the same columns
        return {name: list(map(operator.itemgetter(name), rows)) for name in rows[0]}
    except KeyError:
        return None


def _to_ragged_columns(rows: Sequence[Row]) -> ColumnLists:
    names = dict.fromkeys(itertools.chain.from_iterable(rows))
    return {name: [row.get(name, ABSENT) for row in rows] for name in names}


def to_rows(columns: ColumnLists, n_rows: int) -> list[Row]:
    """Return columns as new dicts; `n_rows` tells how many where there is no column."""
    if not columns:
        return [{} for _ in range(n_rows)]
    return _row_maker(tuple(columns))(columns.values())


@lru_cache(maxsize=256)
def _row_maker(names: tuple[str, ...]) -> Callable[[Iterable[list[Any]]], list[Row]]:
    """Return a function that makes dicts of these columns.

    It is compiled, for every row of a run passes through: a dict display takes a third of the time of `dict(zip())`.
    """
    if not all(type(name) is str for name in names):
        return lambda columns: [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]
    cells = [f"c{i}" for i in range(len(names))]
    pairs = ", ".join(f"{name!r}: {cell}" for name, cell in zip(names, cells, strict=True))
    text = f"lambda columns: [{{{pairs}}} for {', '.join(cells)}, in zip(*columns, strict=True)]"
    maker: Callable[[Iterable[list[Any]]], list[Row]] = eval(text, {"__builtins__": {}, "zip": zip})
    return maker


def rows_before_error(rows: Iterator[Row], n_rows: int | None) -> tuple[list[Row], Exception | None]:
    """Return up to so many rows (None: all), and the error after them: what came before it is not lost."""
    taken: list[Row] = []
    try:
        taken.extend(itertools.islice(rows, n_rows))  # keeps what came before an error
    except Exception as error:  # noqa: BLE001 - a user's source may raise anything; it is raised once these are written
        return taken, error
    return taken, None


# --- the file -----------------------------------------------------------------


def write_batch(path: Path, batch: Batch) -> None:
    """Write a batch as JSON by column; the file appears whole or not at all.

    Raises StoreError when the disk refuses and InputError when a value has no JSON form.
    """
    columns = batch.columns()
    if columns is None:
        columns = _to_ragged_columns(batch.rows)
    write_bytes(path, _encode(batch, columns))


def _encode(batch: Batch, columns: ColumnLists) -> bytes:
    import orjson

    lists, tagged_at = list(columns.values()), list[int]()
    packed = {place: texts for place, values in enumerate(lists) if (texts := pack_column(values))}
    lists = [packed.get(place, values) for place, values in enumerate(lists)]
    if not (batch._are_plain and columns is batch._columns):
        lists, tagged_at = dump_columns(lists)
    document = {
        "ids": batch.ids,
        "orders": batch.order_keys,
        "names": [name if type(name) is str else key_text(name) for name in columns],
        "columns": lists,
        "tagged": tagged_at,
        "packed": list(packed),
        "gone": batch.gone,
        "routes": batch.routes,
    }
    try:
        return orjson.dumps(document)
    except TypeError:  # a lone surrogate or a long integer, in a value or in a name
        return orjson.dumps(_with_all_tags(document))


def _with_all_tags(document: dict[str, Any]) -> dict[str, Any]:
    lists, tagged_at = document["columns"], set(document["tagged"])
    return {
        "ids": tagged(document["ids"]),
        "orders": document["orders"],
        "names": tagged(document["names"]),
        "columns": [values if at in tagged_at else tagged(values) for at, values in enumerate(lists)],
        "tagged": list(range(len(lists))),
        "packed": document["packed"],
        "gone": tagged(document["gone"]),
        "routes": tagged(document["routes"]),
        "is_all_tagged": True,
    }


def read_batch(path: Path) -> Batch:
    """Read a batch that `write_batch` wrote; raises StoreError when it cannot be read."""
    try:
        document = load(path.read_bytes(), has_tags=False)
        if document.get("is_all_tagged"):
            document |= {name: untagged(document[name]) for name in ("ids", "names", "gone", "routes")}
        lists, tagged_at = document["columns"], document["tagged"]
        for place in tagged_at:
            lists[place] = untagged(lists[place])
        for place in document.get("packed", ()):
            lists[place] = unpack_column(lists[place])
        columns = dict(zip(document["names"], lists, strict=True))
        gone = [Gone(*entry) for entry in document["gone"]]
        routes = document["routes"]
        batch = Batch(None, document["ids"], document["orders"], gone, columns=columns, routes=routes)
    except (OSError, ValueError, TypeError, AttributeError, LookupError, InputError) as error:
        fix = "Start the pipeline again if the file is damaged or gone: what was asked is in the cache."
        raise StoreError(f"The batch file {str(path)!r} cannot be read: {error}.", fix) from error
    if any(ABSENT in lists[place] for place in tagged_at):
        batch.rows = [
            {name: value for name, value in row.items() if value is not ABSENT} for row in batch.rows
        ]
    return batch


def write_text(path: Path, text: str) -> None:
    """Write a file through a temporary name, so that no half-written file is ever seen."""
    write_bytes(path, text.encode("utf-8", "surrogatepass"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file as `write_text` does."""
    # One name per call: threads write the same file at once. Without the file's own name, which may be long.
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident():x}-{next(_serial)}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)  # half a file would keep a full disk full
        raise StoreError(
            f"The file {str(path)!r} cannot be written: {error.strerror or error}.",
            "Free some disk space, or set DISTILNB_HOME to a folder that can be written; then resume.",
        ) from error

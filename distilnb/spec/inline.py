"""Rows given in the program itself: held by reference, known by their digest, never validated one by one."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from distilnb.errors import InputError, NoRowsError
from distilnb.ids import DIGEST_BYTES, IdMaker, RowId, row_digests
from distilnb.rows import Row

_PIECE_ROWS = 1000  # digested at a time: who needs the interpreter waits no longer than that takes
MANY_ROWS = 5000  # from here on a start does not wait for the digest

_by_number: ContextVar[bool] = ContextVar("rows named by their number", default=False)


@contextmanager
def named_by_number() -> Iterator[None]:
    """Inside, many rows are named by how many they are, and nobody waits for their digest."""
    token = _by_number.set(True)
    try:
        yield
    finally:
        _by_number.reset(token)


class Inline:
    """A list of rows inside a pipeline, held by reference: do not change them once they are given.

    Each row is digested once, in the background from the moment the pipeline is built, or by whoever needs the digest
    earlier.
    """

    def __init__(self, rows: Sequence[Row], *, digest: str = "", n_rows: int | None = None) -> None:
        self.rows = rows
        self.n_rows = len(rows) if n_rows is None else n_rows
        self._digest = digest
        self._joined = bytearray()  # the digests of the first rows
        self._lock = threading.Lock()  # of the two above
        self._is_needed = threading.Event()  # the background gives way to who waits
        if not digest:
            threading.Thread(target=self._digest_ahead, name="distilnb-digest", daemon=True).start()

    @classmethod
    def of(cls, value: object) -> Inline:
        """Accept what a user gives as rows: a list of dicts, or what `dump` made of one.

        Raises InputError naming the first entry that is no dict with text keys.
        """
        if isinstance(value, Inline):
            return value
        if isinstance(value, dict):
            if "rows" in value:
                return cls(check_rows(value["rows"]))
            if "inline" in value:
                return cls((), digest=str(value["inline"]), n_rows=int(value["n_rows"]))
            raise InputError(
                f"Rows were given as one dict with the keys {sorted(map(str, value))}.",
                "Give a list of dicts, one per row.",
            )
        return cls(check_rows(value))

    @property
    def digest(self) -> str:
        """The digest of all rows in their order."""
        if _by_number.get() and self.is_long:
            return f"{self.n_rows} rows"
        if not self._digest:
            self.give_way()
            while not self._digest:
                self._digest_some()
        return self._digest

    @property
    def is_long(self) -> bool:
        """Whether there are so many rows that a start does not wait for their digest."""
        return self.is_here and self.n_rows > MANY_ROWS

    @property
    def is_pending(self) -> bool:
        """Whether a start would have to wait for the digest."""
        return self.is_long and not self._digest

    def row_digests(self, first: int, last: int) -> bytes:
        """Return the digests of some rows, eight bytes each; made now where they are not yet."""
        self.give_way()
        while len(self._joined) < DIGEST_BYTES * min(last, self.n_rows):
            self._digest_some()
        return bytes(self._joined[DIGEST_BYTES * first : DIGEST_BYTES * last])

    def give_way(self) -> None:
        """Digest no more in the background: somebody needs the interpreter, and will ask for what is missing."""
        self._is_needed.set()

    def _digest_some(self) -> None:
        """Digest the next rows, or, when all are, the whole."""
        with self._lock:
            n_done = len(self._joined) // DIGEST_BYTES
            if n_done < self.n_rows:
                self._joined += row_digests(self.rows[n_done : n_done + _PIECE_ROWS])
            elif not self._digest:
                self._digest = hashlib.blake2b(self._joined, digest_size=16).hexdigest()

    def _digest_ahead(self) -> None:
        try:
            while not self._digest and not self._is_needed.is_set():
                self._digest_some()
        except Exception:  # noqa: BLE001 - it is raised again in the thread that asks for the digest
            pass

    @property
    def is_here(self) -> bool:
        """Whether the rows themselves are in this process, as against only their digest."""
        return len(self.rows) == self.n_rows

    def dump(self) -> dict[str, Any]:
        """Return what stands for the rows in a digest or a plan."""
        return {"inline": self.digest, "n_rows": self.n_rows}

    def require(self) -> Sequence[Row]:
        """Return the rows, or raise NoRowsError when there is none, or they are not here."""
        if not self.is_here:
            raise NoRowsError(
                f"The file of this pipeline names {self.n_rows} rows but does not hold them.",
                "Give them again: p.with_rows([...]).",
            )
        if not self.rows:
            raise NoRowsError("The list of rows is empty.", "Give at least one row.")
        return self.rows

    def ids(self, source: str) -> list[RowId]:
        """Return the ids of all rows as rows of the source of that name."""
        return IdMaker(source).make_all(self.rows)

    def __reduce__(self) -> tuple[object, ...]:
        return partial(Inline, digest=self._digest, n_rows=self.n_rows), (self.rows,)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Inline) and self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Inline({self.n_rows} rows)"


def check_rows(value: object) -> list[Row]:
    """Return `value` as a list of rows, or raise InputError naming the first entry that is none."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise InputError(
            f"Rows were given as {type(value).__name__!r}.", "Give a list of dicts, one per row."
        )
    rows = list(value)
    if set(map(type, rows)) <= {dict} and set(map(type, set(itertools.chain.from_iterable(rows)))) <= {str}:
        return rows
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InputError(
                f"Row {index} is of type {type(row).__name__!r}.",
                "Each row is a dict of column names to values.",
            )
        for key in row:
            if not isinstance(key, str):
                raise InputError(
                    f"Row {index} has the column name {key!r}, which is no text.", "Use text keys."
                )
    return rows

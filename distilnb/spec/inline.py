"""Rows given in the program itself: held by reference, known by their digest, never validated one by one."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Any

from distilnb.errors import InputError, NoRowsError
from distilnb.ids import IdMaker, RowId, row_digests
from distilnb.rows import Row

_PIECE_ROWS = (
    1000  # digested at a time; the thread that needs the interpreter waits no longer than that takes
)


class Inline:
    """A list of rows inside a pipeline.

    Its digest is made once, in the background from the moment the pipeline is built, so that `start` rarely
    waits for it.
    """

    def __init__(self, rows: Sequence[Row], *, digest: str = "", n_rows: int | None = None) -> None:
        self.rows = rows
        self.n_rows = len(rows) if n_rows is None else n_rows
        self._digest = digest
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        if not digest:
            self._thread = threading.Thread(target=self._make_digest, name="distilnb-digest", daemon=True)
            self._thread.start()

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
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise self._error
        return self._digest

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
        maker = IdMaker(source)
        return maker.make_all(self.rows)

    def _make_digest(self) -> None:
        whole = hashlib.blake2b(digest_size=16)
        try:
            for start in range(0, self.n_rows, _PIECE_ROWS):
                whole.update(row_digests(self.rows[start : start + _PIECE_ROWS]))
            self._digest = whole.hexdigest()
        except Exception as error:  # noqa: BLE001 - raised again by `digest`, in the thread that asks
            self._error = error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Inline) and self.digest == other.digest

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

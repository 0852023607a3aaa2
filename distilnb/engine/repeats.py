"""Which of several equal requests of a step a row makes: the k-th in input order gets the k-th reply.

Without it a thousand rows of one prompt would share one cached reply. The numbers survive a restart, because a row
that is asked again must find its own reply and not that of its neighbour.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from urllib.parse import quote

from distilnb.engine.database import open_database, telling, transaction

_TABLE = """
CREATE TABLE IF NOT EXISTS repeats (
    step TEXT, request BLOB, row_id TEXT, k INTEGER, PRIMARY KEY (step, request, row_id)) WITHOUT ROWID
"""
_FIX = (
    "Free some disk space and resume the run; if the file is damaged, start the pipeline again: what was asked is in "
    "the cache."
)


class Repeats:
    """The numbers of one run, on disk; of a preview, in memory.

    Raises StoreError when they cannot be read or written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or ":memory:"
        with self._telling("opened"):
            self._db = open_database(self._path, _TABLE)

    def number(self, step: str, asked: Sequence[tuple[bytes, str]]) -> list[int]:
        """Return k for each (request digest, row id), in this order; new pairs get the next number."""
        known = self._known(step, sorted({digest for digest, _ in asked}))
        numbers: list[int] = []
        new: list[tuple[str, bytes, str, int]] = []
        for digest, row_id in asked:
            rows = known.setdefault(digest, {})
            if row_id not in rows:
                rows[row_id] = len(rows)
                new.append((step, digest, row_id, rows[row_id]))
            numbers.append(rows[row_id])
        with self._telling("written"), transaction(self._db):
            self._db.executemany("INSERT OR IGNORE INTO repeats VALUES (?, ?, ?, ?)", new)
        return numbers

    def _known(self, step: str, digests: Sequence[bytes]) -> dict[bytes, dict[str, int]]:
        known: dict[bytes, dict[str, int]] = {}
        for start in range(0, len(digests), 500):
            chunk = digests[start : start + 500]
            marks = ",".join("?" * len(chunk))
            query = f"SELECT request, row_id, k FROM repeats WHERE step = ? AND request IN ({marks})"
            with self._telling("read"):
                for digest, row_id, k in self._db.execute(query, (step, *chunk)):
                    known.setdefault(digest, {})[row_id] = k
        return known

    def _telling(self, done: str) -> AbstractContextManager[None]:
        return telling(f"The file of request numbers {str(self._path)!r} cannot be {done}", _FIX)

    def close(self) -> None:
        """Close the database."""
        self._db.close()


def number_of(path: Path, step: str, request: bytes, row_id: str) -> int:
    """Return k of a row as a run has numbered it, for a reader; 0 where it was never numbered. Raises StoreError."""
    if not path.is_file():
        return 0
    query = "SELECT k FROM repeats WHERE step = ? AND request = ? AND row_id = ?"
    address = f"file:{quote(str(path))}?mode=ro"
    with telling(f"The file of request numbers {str(path)!r} cannot be read", _FIX):  # connecting too
        db = sqlite3.connect(address, uri=True, timeout=10)
        with closing(db):
            found = db.execute(query, (step, request, row_id)).fetchone()
    return int(found[0]) if found else 0

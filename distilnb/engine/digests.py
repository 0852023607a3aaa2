"""Digests of a source's rows on disk, where a source has more rows than should stand in memory.

One table in a database of the run. With the digests it holds how many rows they are of, so that a worker that takes
over knows which batch files it need not read again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from distilnb.engine.database import open_database, telling, transaction

_TABLES = """
CREATE TABLE IF NOT EXISTS digests (digest INTEGER PRIMARY KEY, n_seen INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS rows_in (n_rows INTEGER NOT NULL);
"""
_FIX = "Free some disk space, or delete the file if it is damaged (it is made again); then resume the run."
_ASKED_AT_ONCE = 1000
_CACHE_KIB = 8_000


class DigestFile:
    """A shelf for the digests of one source; made on disk when the first are put there.

    Raises StoreError when it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        if path.is_file():
            self._open()

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            with self._telling("opened"):
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                db = open_database(self._path, _TABLES)
                db.execute("PRAGMA synchronous = OFF")  # safe against a kill; what is lost is read again
                db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            self._db = db
        return self._db

    @property
    def n_rows(self) -> int:
        """How many rows of the source are here: the first so many."""
        if self._db is None:
            return 0
        with self._telling("read"):
            found = self._db.execute("SELECT max(n_rows) FROM rows_in").fetchone()[0]
        return int(found or 0)

    def find(self, digests: Sequence[int]) -> Mapping[int, int]:
        """Return how often those of the digests that are here were seen."""
        if self._db is None:
            return {}
        found: dict[int, int] = {}
        wanted = sorted(digests)  # neighbours stand on one page
        with self._telling("read"):
            for first in range(0, len(wanted), _ASKED_AT_ONCE):
                listed = ",".join(map(str, wanted[first : first + _ASKED_AT_ONCE]))
                query = f"SELECT digest, n_seen FROM digests WHERE digest IN ({listed})"
                found.update(self._db.execute(query))
        return found

    def put(self, counted: Iterable[tuple[int, int]], n_rows: int) -> None:
        """Keep digests with their new counts, sorted; with them the first `n_rows` rows of the source are here."""
        db = self._open()
        with self._telling("written"), transaction(db):
            db.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?)", counted)
            db.execute("INSERT INTO rows_in VALUES (?)", (n_rows,))

    def _telling(self, done: str) -> AbstractContextManager[None]:
        return telling(f"The digests in {str(self._path)!r} cannot be {done}", _FIX)

"""The journal of a run: what is finished, written by the runner alone, read by everybody.

Every figure that a reader sees was committed together with the rows that it counts, so that it is true after a
crash. One transaction per turn of the runner's loop; synchronous=NORMAL: safe against the kill of any process.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from distilnb.engine.database import open_database, transaction
from distilnb.engine.events import Event, Record, read_event, write_event
from distilnb.engine.ranges import to_ranges
from distilnb.errors import StoreError

_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    id INTEGER PRIMARY KEY, stage TEXT NOT NULL, path TEXT NOT NULL, n_rows INTEGER NOT NULL, n_gone INTEGER NOT NULL,
    out INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS batches_by_stage ON batches (stage);
CREATE TABLE IF NOT EXISTS acks (
    batch INTEGER NOT NULL, stage TEXT NOT NULL, ranges TEXT NOT NULL, out INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS acks_by_batch ON acks (batch, stage);
CREATE TABLE IF NOT EXISTS errors (
    id INTEGER PRIMARY KEY, at REAL, row_id TEXT, step TEXT, kind TEXT, reason TEXT, prompt TEXT, reply TEXT,
    traceback TEXT, attempts INTEGER, is_partial INTEGER, "row" INTEGER, texts TEXT, out INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL DEFAULT 'open', version INTEGER NOT NULL DEFAULT 1, mended_by INTEGER);
CREATE TABLE IF NOT EXISTS counts (step TEXT, name TEXT, value REAL, PRIMARY KEY (step, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS orders (name TEXT PRIMARY KEY, n_rows INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS redo (
    stage TEXT NOT NULL, batch INTEGER NOT NULL, entry INTEGER NOT NULL, step TEXT NOT NULL, row_id TEXT NOT NULL,
    is_open INTEGER NOT NULL DEFAULT 1);
CREATE INDEX IF NOT EXISTS redo_by_batch ON redo (stage, batch);
CREATE TABLE IF NOT EXISTS attempts (
    step TEXT NOT NULL, row_id TEXT NOT NULL, attempt INTEGER NOT NULL, version INTEGER NOT NULL,
    PRIMARY KEY (step, row_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS withdrawn (
    batch INTEGER NOT NULL, entry INTEGER NOT NULL, row_id TEXT NOT NULL, PRIMARY KEY (batch, entry)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, at REAL, kind TEXT, step TEXT, data TEXT);
"""
_INDEXES = """
CREATE INDEX IF NOT EXISTS acks_by_out ON acks (out);
CREATE INDEX IF NOT EXISTS batches_by_out ON batches (out);
CREATE INDEX IF NOT EXISTS errors_by_out ON errors (out);
CREATE INDEX IF NOT EXISTS errors_by_row ON errors (row_id);
"""
_LATER_COLUMNS = {  # of tables that a run of an earlier version has without them
    "batches": {"out": "INTEGER NOT NULL DEFAULT 0"},
    "acks": {"out": "INTEGER NOT NULL DEFAULT 0"},
    "errors": {
        "row": "INTEGER",
        "texts": "TEXT",
        "out": "INTEGER NOT NULL DEFAULT 0",
        "state": "TEXT NOT NULL DEFAULT 'open'",
        "version": "INTEGER NOT NULL DEFAULT 1",
        "mended_by": "INTEGER",
    },
}


# What any journal has, from the first version on: they are made in one commit.
_NEEDED = frozenset({"facts", "batches", "acks", "errors", "counts", "events"})

START_AGAIN = "Start the pipeline again: what was asked is in the cache and costs nothing."


class BatchRef(NamedTuple):
    """A finished batch: where it is, and how many rows (and lost rows) it holds."""

    id: int
    stage: str
    path: str  # relative to the run directory
    n_rows: int
    n_gone: int

    @property
    def n_entries(self) -> int:
        """Rows and lost rows: what a consumer must acknowledge."""
        return self.n_rows + self.n_gone


class Journal:
    """The runner's side: the only writer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = open_database(path, _TABLES)
            _add_columns(self._db)
            self._db.executescript(_INDEXES)
            self._out: int = max(
                self._db.execute(f"SELECT coalesce(max(out), 0) FROM {table}").fetchone()[0]
                for table in ("acks", "batches", "errors")
            )
            path.chmod(0o600)
            self._file = path.stat().st_ino
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"The journal {str(path)!r} cannot be opened: {error}.",
                "Free some disk space and resume the run; or, where the file is damaged, start the pipeline again: "
                "what was asked is in the cache.",
            ) from error

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Group all that is written inside into one commit."""
        try:
            with transaction(self._db):
                yield
        except sqlite3.Error as error:
            raise StoreError(
                f"The journal cannot be written: {error}.", "Free some disk space; then resume the run."
            ) from error

    def begin_out(self) -> int:
        """Begin what one message of a worker brings: its batches, acknowledgements and errors share this number."""
        self._out += 1
        return self._out

    def add_batch(self, stage: str, path: str, n_rows: int, n_gone: int) -> BatchRef:
        """Name a finished batch file."""
        cursor = self._db.execute(
            "INSERT INTO batches (stage, path, n_rows, n_gone, out) VALUES (?, ?, ?, ?, ?)",
            (stage, path, n_rows, n_gone, self._out),
        )
        return BatchRef(int(cursor.lastrowid or 0), stage, path, n_rows, n_gone)

    def acknowledge(self, batch: int, stage: str, indices: Sequence[int]) -> None:
        """Note which entries of a batch a stage is through with."""
        ranges = json.dumps(to_ranges(indices))
        self._db.execute(
            "INSERT INTO acks (batch, stage, ranges, out) VALUES (?, ?, ?, ?)",
            (batch, stage, ranges, self._out),
        )

    def add_errors(self, errors: Iterable[Mapping[str, Any]]) -> None:
        """Put rows in quarantine (or note what was partial about them)."""
        self._db.executemany(
            "INSERT INTO errors (at, row_id, step, kind, reason, prompt, reply, traceback, attempts, is_partial,"
            ' "row", texts, out, version)'
            " VALUES (:at, :row_id, :step, :kind, :reason, :prompt, :reply, :traceback, :attempts, :is_partial,"
            " :row, :texts, :out, coalesce("
            "(SELECT version FROM attempts WHERE step = :step AND row_id = :row_id), 1))",
            [
                {"at": time.time(), "row": None, "texts": None, **error, "out": self._out}
                for error in map(dict, errors)
            ],
        )

    def count(self, step: str, amounts: Mapping[str, float]) -> None:
        """Add to the figures of a step."""
        self._db.executemany(
            "INSERT INTO counts VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value",
            [(step, name, amount) for name, amount in amounts.items() if amount],
        )

    def add_event(self, event: Event) -> None:
        """Append an event; its number and its time are set here."""
        self._db.execute(
            "INSERT INTO events (at, kind, step, data) VALUES (?, ?, ?, ?)",
            (time.time(), *write_event(event)),
        )

    def set_fact(self, name: str, value: Any) -> None:
        """Set a single value: the state, a finished global step."""
        self._db.execute(
            "INSERT INTO facts VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
            (name, json.dumps(value, ensure_ascii=False)),
        )

    def is_there(self) -> bool:
        """Whether the file is still the one that was opened: SQLite writes on into a deleted one."""
        try:
            return self._path.stat().st_ino == self._file
        except OSError:
            return False

    @property
    def connection(self) -> sqlite3.Connection:
        """The runner's connection, for the tables that tell how rows came about (engine/lineage.py)."""
        return self._db

    def reader(self) -> JournalReader:
        """Return a reader over the same connection."""
        return JournalReader(self._db)

    def close(self) -> None:
        """Close the database and fold its write-ahead log in."""
        self._db.close()


class JournalReader:
    """Everybody's side: read-only."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    @classmethod
    def open(cls, path: Path) -> JournalReader | None:
        """Open a journal for reading; None when the runner has not made it yet.

        Raises StoreError when the file is damaged: it is no database, or some of its tables are gone.
        """
        if not path.is_file():
            return None
        db = cls._connect(path, "mode=ro")
        if db is None and not os.access(path.parent, os.W_OK):
            # SQLite wants to lay a file beside the journal, which a read-only disk refuses; then nobody writes either.
            db = cls._connect(path, "immutable=1")
        if db is None:
            return None
        reader = cls(db)
        weakref.finalize(reader, db.close)  # a handle that is dropped must not keep the file open
        return reader

    @staticmethod
    def _connect(path: Path, how: str) -> sqlite3.Connection | None:
        """Connect for reading; None when it was made a moment ago and its tables are not there yet."""
        address = f"file:{quote(str(path))}?{how}"
        db = sqlite3.connect(address, uri=True, timeout=10, check_same_thread=False)
        try:
            there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        except sqlite3.Error as error:
            db.close()
            if isinstance(
                error, sqlite3.OperationalError
            ):  # it is being made, or went, or may not be opened so
                return None
            raise _damaged(path, f"{error}") from error
        if there >= _NEEDED:
            return db
        db.close()
        if there:
            raise _damaged(path, f"it has no table {sorted(_NEEDED - there)}")
        return None

    def facts(self) -> dict[str, Any]:
        """Return all single values."""
        return {name: json.loads(value) for name, value in self._db.execute("SELECT name, value FROM facts")}

    def batches(self, stage: str | None = None) -> list[BatchRef]:
        """Return the finished batches, of one stage or of all, in the order of their making."""
        where, values = ("WHERE stage = ?", (stage,)) if stage is not None else ("", ())
        rows = self._db.execute(
            f"SELECT id, stage, path, n_rows, n_gone FROM batches {where} ORDER BY id", values
        )
        return [BatchRef(*row) for row in rows]

    def acknowledged(self) -> dict[tuple[int, str], list[list[int]]]:
        """Return the acknowledged ranges by (batch, stage)."""
        found: dict[tuple[int, str], list[list[int]]] = {}
        for batch, stage, ranges in self._db.execute("SELECT batch, stage, ranges FROM acks"):
            found.setdefault((batch, stage), []).extend(json.loads(ranges))
        return found

    def counts(self) -> dict[str, dict[str, float]]:
        """Return the figures of each step."""
        found: dict[str, dict[str, float]] = {}
        for step, name, value in self._db.execute("SELECT step, name, value FROM counts"):
            found.setdefault(step, {})[name] = value
        return found

    def errors(self) -> list[dict[str, Any]]:
        """Return the quarantined and partial rows in the order of their coming."""
        cursor = self._db.execute("SELECT * FROM errors ORDER BY id")
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def events(self, after: int = 0) -> list[Event]:
        """Return the events with a number above `after`."""
        rows = self._db.execute(
            "SELECT id, at, kind, step, data FROM events WHERE id > ? ORDER BY id", (after,)
        )
        return [read_event(id_, at, Record(kind, step, data)) for id_, at, kind, step, data in rows]

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, for what is known of retries (engine/lineage.py)."""
        return self._db

    def close(self) -> None:
        """Close the connection."""
        self._db.close()


def _damaged(path: Path, why: str) -> StoreError:
    return StoreError(
        f"The journal {str(path)!r} is damaged: {why}.",
        f"{START_AGAIN} The files of the run stay where they are.",
    )


def _add_columns(db: sqlite3.Connection) -> None:
    """Add what a journal of an earlier version lacks."""
    for table, columns in _LATER_COLUMNS.items():
        there = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
        for column, kind in columns.items():
            if column not in there:
                db.execute(f'ALTER TABLE {table} ADD COLUMN "{column}" {kind}')

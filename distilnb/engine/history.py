"""The history of a pipeline: the versions of its prompts, numbered as they were first seen, and who has seen them.

One SQLite file under `DISTILNB_HOME/pipelines/<name>/`. Numbers never change: an old text that comes again has its old
number.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from distilnb.engine.database import open_database, telling, transaction
from distilnb.home import folder_name, home, private_folder
from distilnb.spec.registry import TASKS
from distilnb.tasks.wording import Wording, plain_wording

_TABLES = """
CREATE TABLE IF NOT EXISTS versions (
    step TEXT, number INTEGER, digest TEXT, kind TEXT, fields TEXT, at REAL,
    PRIMARY KEY (step, number), UNIQUE (step, digest)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seen (
    step TEXT, number INTEGER, run TEXT, n INTEGER, at REAL, PRIMARY KEY (step, number, run)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS timings (step TEXT, number INTEGER, model TEXT, seconds REAL, at REAL);
CREATE INDEX IF NOT EXISTS timings_of_version ON timings (step, number, model);
CREATE TABLE IF NOT EXISTS votes (
    comparison TEXT, row_id TEXT, one TEXT, other TEXT, winner TEXT, voter TEXT, at REAL,
    PRIMARY KEY (comparison, row_id, one, other, voter)) WITHOUT ROWID;
"""
_FIX = "Set DISTILNB_HOME to a folder that can be written, or free some disk space."
_FILE = "history.sqlite"
_PREVIEW = ""  # in the place of a run's id: the previews, which have none
_KEYS = ("number", "at", "kind", "fields")
_MAX_ADOPTED = 1_000  # versions of a step in a file
_MAX_NUMBER = 1_000_000_000  # that a file may bring: the next one must be a number of SQLite's too
_MAX_AT = 32_503_680_000  # the year 3000: a time that any platform can show
_MAX_TIMINGS = 200  # kept of a version and a model


class Version(NamedTuple):
    """A version of a step's prompt: its number, its wording, and when (seconds since the epoch) it was first seen."""

    number: int
    wording: Wording
    at: float


class Seen(NamedTuple):
    """How many previews and runs have used a version, and when the last one did; 0 for never."""

    previews: int = 0
    runs: int = 0
    last_at: float = 0.0


class Vote(NamedTuple):
    """Which of two candidates won a row; `winner` is "" for a tie. `voter` is "" for a person, else the judge."""

    row_id: str
    one: str
    other: str
    winner: str
    voter: str


class History:
    """The history of one pipeline. Its methods may be called from any thread; they raise StoreError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with self._opened("opened"):
            path.chmod(0o600)

    # --- versions ---

    def numbers(self, wordings: Mapping[str, Wording]) -> dict[str, int]:
        """Return the number of each step's wording; one that was never seen gets the next."""
        found: dict[str, int] = {}
        with self._opened("written") as db:
            for step, wording in wordings.items():
                number = self._number(db, step, wording.digest)
                if number is None:
                    with transaction(db):
                        number = self._number(db, step, wording.digest) or self._add(
                            db, step, wording, time.time()
                        )
                found[step] = number
        return found

    def _number(self, db: sqlite3.Connection, step: str, digest: str) -> int | None:
        query = "SELECT number FROM versions WHERE step = ? AND digest = ?"
        found = db.execute(query, (step, digest)).fetchone()
        return found and int(found[0])

    def _add(
        self, db: sqlite3.Connection, step: str, wording: Wording, at: float, number: int | None = None
    ) -> int:
        if number is None:
            query = "SELECT COALESCE(MAX(number), 0) + 1 FROM versions WHERE step = ?"
            number = int(db.execute(query, (step,)).fetchone()[0])
        fields = json.dumps(wording.fields, ensure_ascii=True)  # half of a surrogate pair is text too
        values = (step, number, wording.digest, wording.kind, fields, at)
        db.execute("INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?)", values)
        return number

    def versions(self, step: str) -> list[Version]:
        """Return the versions of a step's prompt in their order."""
        query = "SELECT number, digest, kind, fields, at FROM versions WHERE step = ? ORDER BY number"
        with self._opened("read") as db:
            rows = db.execute(query, (step,)).fetchall()
        return [
            Version(number, Wording(digest, kind, json.loads(fields)), at)
            for number, digest, kind, fields, at in rows
        ]

    def adopt(self, step: str, versions: Iterable[Version]) -> None:
        """Take over versions that a file brings, with their numbers as far as these are free."""
        with self._opened("written") as db, transaction(db):
            query = "SELECT number FROM versions WHERE step = ?"
            known = {number for (number,) in db.execute(query, (step,))}
            late = []
            for version in versions:
                if self._number(db, step, version.wording.digest) is not None:
                    continue
                if version.number > 0 and version.number not in known:
                    known.add(self._add(db, step, version.wording, version.at, version.number))
                else:
                    late.append(version)
            for version in late:
                if self._number(db, step, version.wording.digest) is None:
                    self._add(db, step, version.wording, version.at)

    # --- who saw them ---

    def note_preview(self, numbers: Mapping[str, int]) -> None:
        """Count one more preview of these versions (step → number)."""
        with self._opened("written") as db, transaction(db):
            for step, number in numbers.items():
                db.execute(
                    "INSERT INTO seen VALUES (?, ?, ?, 1, ?) ON CONFLICT DO UPDATE SET n = n + 1, at = excluded.at",
                    (step, number, _PREVIEW, time.time()),
                )

    def note_run(self, numbers: Mapping[str, int], run_id: str) -> None:
        """Note that a run uses these versions."""
        rows = [(step, number, run_id, time.time()) for step, number in numbers.items()]
        with self._opened("written") as db, transaction(db):
            db.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?, ?, 1, ?)", rows)

    def seen(self, step: str) -> dict[int, Seen]:
        """Return who saw the versions of a step, by number."""
        found: dict[int, Seen] = {}
        query = "SELECT number, run, n, at FROM seen WHERE step = ?"
        with self._opened("read") as db:
            rows = db.execute(query, (step,)).fetchall()
        for number, run, n, at in rows:
            old = found.get(number, Seen())
            is_run = run != _PREVIEW
            found[number] = Seen(old.previews + (0 if is_run else n), old.runs + is_run, max(old.last_at, at))
        return found

    def note_seconds(self, step: str, number: int, model: str, seconds: Sequence[float]) -> None:
        """Keep how long requests of a version took, each in seconds; of many the newest."""
        rows = [(step, number, model, one, time.time()) for one in seconds]
        keep = (
            "DELETE FROM timings WHERE step = ? AND number = ? AND model = ? AND rowid NOT IN (SELECT rowid FROM "
            "timings WHERE step = ? AND number = ? AND model = ? ORDER BY rowid DESC LIMIT ?)"
        )
        with self._opened("written") as db, transaction(db):
            db.executemany("INSERT INTO timings VALUES (?, ?, ?, ?, ?)", rows)
            db.execute(keep, (*(step, number, model) * 2, _MAX_TIMINGS))

    def seconds(self, step: str, number: int, models: Iterable[str]) -> list[float]:
        """Return how long requests of a version to these models took."""
        query = "SELECT seconds FROM timings WHERE step = ? AND number = ? AND model = ?"
        with self._opened("read") as db:
            return [float(one) for model in models for (one,) in db.execute(query, (step, number, model))]

    # --- votes ---

    def vote(self, comparison: str, votes: Iterable[Vote]) -> None:
        """Keep votes; a voter's earlier vote on the same row and pair is replaced."""
        rows = [(comparison, *vote, time.time()) for vote in votes]
        with self._opened("written") as db, transaction(db):
            db.executemany("INSERT OR REPLACE INTO votes VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def votes(self, comparison: str) -> list[Vote]:
        """Return the votes of a comparison, the oldest first."""
        query = "SELECT row_id, one, other, winner, voter FROM votes WHERE comparison = ? ORDER BY at"
        with self._opened("read") as db:
            return [Vote(*row) for row in db.execute(query, (comparison,))]

    def unvote(self, comparison: str, row_id: str, voter: str) -> None:
        """Take back what a voter said of a row."""
        query = "DELETE FROM votes WHERE comparison = ? AND row_id = ? AND voter = ?"
        with self._opened("written") as db, transaction(db):
            db.execute(query, (comparison, row_id, voter))

    @contextmanager
    def _opened(self, done: str) -> Iterator[sqlite3.Connection]:
        """Give the database for one operation: a file that a kernel kept open would keep its disk busy."""
        with self._lock, telling(f"The history {str(self.path)!r} cannot be {done}", _FIX):
            db = open_database(self.path, _TABLES)
            try:
                yield db
            finally:
                db.close()


def history_of(pipeline: str) -> History:
    """Return the history of the pipeline of that name; it is begun where there is none."""
    return _open(str(private_folder("pipelines", folder_name(pipeline)) / _FILE))


def has_history(pipeline: str) -> bool:
    """Whether anything was noted of the pipeline of that name."""
    return (home() / "pipelines" / folder_name(pipeline) / _FILE).is_file()


@lru_cache(maxsize=8)
def _open(path: str) -> History:  # by path: DISTILNB_HOME may change in a process
    return History(Path(path))


def as_data(versions: Iterable[Version]) -> list[dict[str, Any]]:
    """Return versions as a pipeline's file holds them; those of a user's own task are left out."""
    return [
        {"number": number, "at": at, "kind": wording.kind, "fields": dict(wording.fields)}
        for number, wording, at in versions
        if wording.kind in TASKS
    ]


def from_data(data: object) -> list[Version]:
    """Return the versions that a pipeline's file holds; what is no version is passed over.

    Who wrote the file may be anybody: a version is text to be shown and sent, and its digest is made anew.
    """
    found = []
    for entry in data[:_MAX_ADOPTED] if isinstance(data, list) else ():
        if not isinstance(entry, dict):
            continue
        number, at, kind, fields = (entry.get(name) for name in _KEYS)
        if not (isinstance(number, int) and number <= _MAX_NUMBER):
            continue
        if not (isinstance(at, (int, float)) and 0 <= at <= _MAX_AT):
            continue
        if kind in TASKS and isinstance(fields, dict) and _is_wording(fields):
            found.append(Version(number, plain_wording(str(kind), fields), float(at)))
    return found


def _is_wording(fields: Mapping[Any, Any]) -> bool:
    """Whether fields are named, and their messages, if there are any, are pairs of role and template."""
    messages = fields.get("messages", [])
    pairs = messages if isinstance(messages, list) else [None]
    return all(isinstance(name, str) for name in fields) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
        for pair in pairs
    )

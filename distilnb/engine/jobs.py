"""The offline jobs of all runs, beside the reply cache: what each holds, how far it is, who keeps it.

A job is written down, with the keys that it holds in the cache and a file of its requests, before anything is sent,
and that it is being sent before it is sent. So a kill at any moment leaves a job that somebody else takes up:

    made ──► sending ──► sent ──► collected        ("sending": perhaps it is at the provider; its marker tells)
       └─────────┴─────────► dropped (refused: its keys may be asked anew)

The process that holds a job's lock is its keeper: it alone speaks with the provider. Others that want one of its keys
look here, and take the lock when it is free.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from distilnb import errors
from distilnb.engine.cache import Key
from distilnb.engine.database import open_database, telling, transaction
from distilnb.errors import ModelError
from distilnb.llms.batches import Job

_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    marker TEXT PRIMARY KEY, state TEXT NOT NULL, id TEXT NOT NULL, prepared TEXT NOT NULL, model TEXT NOT NULL,
    endpoint TEXT NOT NULL, run TEXT NOT NULL, replaces INTEGER NOT NULL, n_total INTEGER NOT NULL,
    n_done INTEGER NOT NULL, n_failed INTEGER NOT NULL, made_at REAL NOT NULL, sending_at REAL, sent_at REAL,
    expires_at REAL, ended_at REAL, is_cancelling INTEGER NOT NULL, note TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, marker TEXT NOT NULL, number INTEGER NOT NULL,
    place INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entries_by_job ON entries (marker);
CREATE TABLE IF NOT EXISTS failures (marker TEXT, key BLOB, error TEXT NOT NULL, PRIMARY KEY (marker, key));
CREATE TABLE IF NOT EXISTS waits (marker TEXT, run TEXT, PRIMARY KEY (marker, run));
"""
_FIX = "Free some disk space, or set DISTILNB_HOME to a folder that can be written; then resume."
_CHUNK = 500
KEPT_S = 30 * 86_400.0  # how long an ended job is remembered: as long as providers keep its results

GOING = ("made", "sending", "sent")


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job as it is written down. Times are seconds since the epoch."""

    marker: str
    state: str
    id: str  # the provider's; "" before it is sent
    prepared: str  # what was uploaded for it, by the provider's name
    model: str
    endpoint: str
    run: str  # that made it
    replaces: bool  # its replies take the place of those that are in the cache
    n_total: int
    n_done: int
    n_failed: int
    made_at: float
    sending_at: float | None
    sent_at: float | None
    expires_at: float | None
    ended_at: float | None
    is_cancelling: bool  # its user has asked for its end
    note: str  # what keeps it from going on


class JobStore:
    """The jobs as one process sees them. Raises StoreError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "jobs"
        self._path = folder / "jobs.sqlite"
        with self._telling("opened"):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = open_database(self._path, _TABLES)
            # A job that is forgotten is paid for and lost, so this is safe against a power cut too; commits are few.
            self._db.execute("PRAGMA synchronous=FULL")

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    # --- files and locks ---

    def file(self, marker: str) -> Path:
        """Return the file of a job's requests."""
        return self.folder / f"{marker}.jsonl"

    def results(self, marker: str) -> Path:
        """Return the file for a job's results."""
        return self.folder / f"{marker}.results"

    def lock(self, marker: str) -> int | None:
        """Take a job's lock and return its descriptor; None when somebody has it."""
        with self._telling("locked"):
            descriptor = os.open(self.folder / f"{marker}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor

    @staticmethod
    def unlock(descriptor: int) -> None:
        """Give a lock back; once only."""
        with contextlib.suppress(OSError):
            os.close(descriptor)

    def sweep(self, has_all: Callable[[Sequence[Key]], bool] = lambda keys: False) -> None:
        """Remove what killed processes left unfinished, and jobs that ended long ago.

        `has_all` tells whether the cache has all these replies: where it has those of a job, its keeper was killed
        before it could note that, and nobody will ask for them any more.
        """
        with self._telling("written"), transaction(self._db):
            old = (*GOING, time.time() - KEPT_S)
            self._db.execute("DELETE FROM jobs WHERE state NOT IN (?, ?, ?) AND ended_at < ?", old)
            for table in ("failures", "waits"):
                self._db.execute(f"DELETE FROM {table} WHERE marker NOT IN (SELECT marker FROM jobs)")
        named = {path.name.partition(".")[0] for path in self.folder.iterdir()}
        for marker in named | {job.marker for job in self.going()}:
            lock = self.lock(marker)
            if lock is None:
                continue
            with contextlib.suppress(OSError):
                record = self.job(marker)  # only now: whoever had the lock may just have written it down
                if record is not None and record.state in GOING and record.made_at < time.time() - KEPT_S:
                    self.dropped(marker, None)  # its results are gone, whatever it is called
                elif record is not None and record.state == "sent" and not record.replaces:
                    if has_all([key for keys in self.entries(marker).values() for key in keys]):
                        self.collected(marker, record.n_total, {})
                elif record is None or record.state not in GOING:
                    for path in (self.file(marker), self.results(marker), self.folder / f"{marker}.lock"):
                        path.unlink(missing_ok=True)
            os.close(lock)

    # --- what is there ---

    def job(self, marker: str) -> JobRecord | None:
        """Return a job by its marker."""
        return next(self._jobs("WHERE marker = ?", marker), None)

    def going(self) -> list[JobRecord]:
        """Return the jobs that hold keys, the oldest first."""
        return list(self._jobs("WHERE state IN (?, ?, ?) ORDER BY made_at", *GOING))

    def all(self) -> list[JobRecord]:
        """Return all jobs that are remembered, the newest first."""
        return list(self._jobs("ORDER BY made_at DESC"))

    def of_run(self, run: str) -> list[JobRecord]:
        """Return the jobs at the provider that a run waits for."""
        where = (
            "WHERE state IN (?, ?, ?) AND marker IN (SELECT marker FROM waits WHERE run = ?) ORDER BY made_at"
        )
        return list(self._jobs(where, *GOING, run))

    def waiting(self, marker: str) -> list[str]:
        """Return the runs that have waited for a job."""
        with self._telling("read"):
            found = self._db.execute("SELECT run FROM waits WHERE marker = ?", (marker,))
            return sorted(run for (run,) in found)

    def holders(self, keys: Sequence[Key]) -> dict[Key, str]:
        """Return the markers of the jobs that hold some of these keys."""
        found: dict[Key, str] = {}
        with self._telling("read"):
            for start in range(0, len(keys), _CHUNK):
                chunk = keys[start : start + _CHUNK]
                marks = ",".join("?" * len(chunk))
                found.update(
                    self._db.execute(f"SELECT key, marker FROM entries WHERE key IN ({marks})", chunk)
                )
        return found

    def entries(self, marker: str) -> dict[int, list[Key]]:
        """Return the keys of each request of a job, by the request's number."""
        found: dict[int, list[Key]] = {}
        query = "SELECT number, key FROM entries WHERE marker = ? ORDER BY number, place"
        with self._telling("read"):
            for number, key in self._db.execute(query, (marker,)):
                found.setdefault(number, []).append(key)
        return found

    def failure(self, marker: str, keys: Collection[Key]) -> ModelError | None:
        """Return why a job has brought nothing for some of these keys; None when it does not say."""
        with self._telling("read"):
            for key in keys:
                query = "SELECT error FROM failures WHERE marker = ? AND key = ?"
                found = self._db.execute(query, (marker, key)).fetchone()
                if found is not None:
                    return read_error(found[0])
        return None

    # --- what happens to a job ---

    def make(
        self,
        marker: str,
        requests: Mapping[int, Sequence[Key]],
        *,
        model: str,
        endpoint: str,
        run: str,
        replaces: bool,
    ) -> set[int]:
        """Write a job down, with those of its requests of which no other job holds a key; return their numbers.

        Without any there is no job.
        """
        taken: set[int] = set()
        with self._telling("written"), transaction(self._db):
            held = self.holders([key for keys in requests.values() for key in keys])
            taken = {number for number, keys in requests.items() if held.keys().isdisjoint(keys)}
            if taken:
                self._db.executemany(
                    "INSERT INTO entries VALUES (?, ?, ?, ?)",
                    [
                        (key, marker, number, place)
                        for number in sorted(taken)
                        for place, key in enumerate(requests[number])
                    ],
                )
                record = (
                    marker,
                    "made",
                    "",
                    "",
                    model,
                    endpoint,
                    run,
                    replaces,
                    len(taken),
                    0,
                    0,
                    time.time(),
                )
                self._db.execute(
                    f"INSERT INTO jobs VALUES ({','.join('?' * 12)}, NULL, NULL, NULL, NULL, 0, '')", record
                )
                self._db.execute("INSERT OR IGNORE INTO waits VALUES (?, ?)", (marker, run))
        return taken

    def let_go(self, marker: str, numbers: Collection[int]) -> None:
        """Take requests out of a job that was not sent; without any it is dropped."""
        with self._telling("written"), transaction(self._db):
            gone = [(marker, number) for number in numbers]
            self._db.executemany("DELETE FROM entries WHERE marker = ? AND number = ?", gone)
            self._db.execute("UPDATE jobs SET n_total = n_total - ? WHERE marker = ?", (len(numbers), marker))
            self._db.execute(
                "UPDATE jobs SET state = 'dropped', ended_at = ? WHERE marker = ? AND n_total = 0",
                (time.time(), marker),
            )

    def wait(self, marker: str, run: str) -> None:
        """Note that a run waits for a job."""
        self._write("INSERT OR IGNORE INTO waits VALUES (?, ?)", marker, run)

    def prepared(self, marker: str, name: str) -> None:
        """Note what was uploaded for a job."""
        self._write("UPDATE jobs SET prepared = ? WHERE marker = ?", name, marker)

    def sending(self, marker: str) -> None:
        """Note that a job is about to be sent."""
        self._write("UPDATE jobs SET state = 'sending', sending_at = ? WHERE marker = ?", time.time(), marker)

    def not_sent(self, marker: str) -> None:
        """Note that a job is certainly not at the provider."""
        self._write("UPDATE jobs SET state = 'made' WHERE marker = ?", marker)

    def sent(self, marker: str, job: Job) -> None:
        """Note that a job is at the provider, and how it stands there."""
        self._write(
            "UPDATE jobs SET state = 'sent', id = ?, sent_at = coalesce(sent_at, ?), n_done = ?, n_failed = ?, "
            "expires_at = ?, note = '' WHERE marker = ?",
            *(job.id, job.created_at or time.time(), job.n_done, job.n_failed, job.expires_at, marker),
        )

    def cancelling(self, marker: str) -> None:
        """Note that a user has asked for a job's end."""
        self._write("UPDATE jobs SET is_cancelling = 1 WHERE marker = ?", marker)

    def note(self, marker: str, words: str) -> None:
        """Note what keeps a job from going on; "" for nothing."""
        self._write("UPDATE jobs SET note = ? WHERE marker = ?", words, marker)

    def collected(self, marker: str, n_done: int, failures: Mapping[Key, ModelError]) -> None:
        """Note that all replies of a job are in the cache, and why others are not; it holds no key any more."""
        told = [(marker, key, write_error(error)) for key, error in failures.items()]
        with self._telling("written"), transaction(self._db):
            self._db.executemany("INSERT OR REPLACE INTO failures VALUES (?, ?, ?)", told)
            self._end(marker, "collected")
            self._db.execute("UPDATE jobs SET n_done = ?, note = '' WHERE marker = ?", (n_done, marker))
        self._remove_files(marker)

    def dropped(self, marker: str, failure: ModelError | None) -> None:
        """Note that there is no such job, and why; its keys may be asked anew."""
        with self._telling("written"), transaction(self._db):
            if failure is not None:
                self._db.execute(
                    "INSERT OR REPLACE INTO failures SELECT marker, key, ? FROM entries WHERE marker = ?",
                    (write_error(failure), marker),
                )
            self._end(marker, "dropped")
        self._remove_files(marker)

    def _end(self, marker: str, state: str) -> None:
        self._db.execute("DELETE FROM entries WHERE marker = ?", (marker,))
        self._db.execute(
            "UPDATE jobs SET state = ?, ended_at = ? WHERE marker = ?", (state, time.time(), marker)
        )

    def _remove_files(self, marker: str) -> None:
        for path in (self.file(marker), self.results(marker), self.folder / f"{marker}.lock"):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    # --- the database ---

    def _jobs(self, where: str, *values: object) -> Iterator[JobRecord]:
        columns = ", ".join(one.name for one in fields(JobRecord))
        with self._telling("read"):
            for row in self._db.execute(f"SELECT {columns} FROM jobs {where}", values).fetchall():
                yield JobRecord(*row)

    def _write(self, statement: str, *values: object) -> None:
        with self._telling("written"), transaction(self._db):
            self._db.execute(statement, values)

    def _telling(self, done: str) -> contextlib.AbstractContextManager[None]:
        return telling(f"The file of offline jobs {str(self._path)!r} cannot be {done}", _FIX)


def new_marker() -> str:
    """Return a name for a job that no other has, of letters and digits."""
    return os.urandom(8).hex()


def write_error(error: ModelError) -> str:
    """Return an error as text that `read_error` reads."""
    told = {name: getattr(error, name) for name in ("what", "fix", "provider", "request_id", "status")}
    return json.dumps({"kind": type(error).__name__, **told})


def read_error(text: str) -> ModelError:
    """Return the error that `write_error` wrote."""
    data: dict[str, Any] = json.loads(text)
    kind = getattr(errors, data.pop("kind"), ModelError)
    error: ModelError = kind(data.pop("what"), data.pop("fix"), **data)
    return error

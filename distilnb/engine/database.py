"""The one door to SQLite: every database that distilnb writes is opened here, and written in transactions."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from distilnb.errors import StoreError

_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.1


def open_database(path: Path | str, tables: str, *, timeout_s: float = 30.0) -> sqlite3.Connection:
    """Open a database for writing, in WAL mode, with its tables made, all or none; raises sqlite3.Error.

    WAL with synchronous=NORMAL is safe against the kill of any process, and against a power cut up to the last
    checkpoint. `timeout_s` is how long to wait for another process, here and in every later statement.
    """
    db = sqlite3.connect(path, isolation_level=None, timeout=timeout_s, check_same_thread=False)
    try:
        _set_up(db, tables, time.monotonic() + timeout_s)
    except BaseException:
        db.close()
        raise
    return db


def _set_up(db: sqlite3.Connection, tables: str, deadline: float) -> None:
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            # SQLite's own timeout does not cover this: of two processes that make one database, one is refused at once.
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.executescript(f"BEGIN; {tables}; COMMIT")  # where all are there, it only reads
            return
        except sqlite3.OperationalError as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            if "locked" not in str(error) or time.monotonic() + pause_s > deadline:
                raise
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Make one commit of all that is written inside; whatever is raised, there or by the commit, undoes all of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(
            sqlite3.Error
        ):  # a full disk may have ended it; the first error is the one to tell
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def telling(what: str, fix: str) -> Iterator[None]:
    """Raise what SQLite or the disk raises inside as a StoreError: `what` could not be done, why, and the `fix`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{what}: {error}.", fix) from error

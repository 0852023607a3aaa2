"""How large the caches may grow, of replies and of results of steps: what is oldest goes first, a little at a time."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Sequence

from distilnb.errors import InputError

DEFAULT_LIMIT = "10 GB"
UNREADABLE_FIX = "Try again; if the file is damaged, delete it: what it held is asked, or done, once more."
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_PORTION = 1_000  # entries deleted in one transaction
_LOOK_EVERY = 2_000  # new entries between two looks at the size
_LEAVE = 0.9  # of the limit, so that not every look finds it exceeded


def size_limit() -> int | None:
    """Return the limit of each cache in bytes, from DISTILNB_CACHE_LIMIT ("10 GB" unless set; "none": no limit).

    Raises InputError when it is no size.
    """
    return parse_size(os.environ.get("DISTILNB_CACHE_LIMIT", DEFAULT_LIMIT))


def parse_size(text: str) -> int | None:
    """Return a size in bytes; None for "none".

    >>> parse_size("1.5 GB"), parse_size("none")
    (1500000000, None)
    """
    if text.strip().lower() == "none":
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B?)\s*", text, re.IGNORECASE)
    unit = match[2].upper() if match else ""
    if match is None:
        raise InputError(
            f"DISTILNB_CACHE_LIMIT is {text!r}, which is no size.", "Write it like 500 MB, 10 GB or none."
        )
    return int(float(match[1]) * _UNITS[unit if unit in _UNITS else f"{unit}B"])


class CacheLimit:
    """Keeps a cache within its limit, as one process writes it; asked after each commit.

    The cache is a `table` with a `key`, and the time of its writing in `at`.
    """

    def __init__(self, db: sqlite3.Connection, table: str, limit_bytes: int | None) -> None:
        self._db = db
        self._table = table
        self._limit_bytes = limit_bytes
        self._n_new = _LOOK_EVERY  # the first commit looks
        self._is_shrinking = False

    def after_commit(self, n_new: int) -> None:
        """Delete one portion of the oldest entries when the cache is too large.

        The file does not shrink; new entries take the place of those that went. Raises sqlite3.Error.
        """
        if self._limit_bytes is None:
            return
        self._n_new += n_new
        if not self._is_shrinking and self._n_new < _LOOK_EVERY:
            return
        self._n_new = 0
        aim = self._limit_bytes * (_LEAVE if self._is_shrinking else 1.0)
        self._is_shrinking = used_bytes(self._db) > aim
        if self._is_shrinking:
            self._is_shrinking = delete_some(self._db, self._table, "ORDER BY at", ()) > 0


def used_bytes(db: sqlite3.Connection) -> int:
    """Return the size of what a database holds, without the free pages of its file."""
    page_size, n_pages, n_free = (
        int(db.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_size", "page_count", "freelist_count")
    )
    return page_size * (n_pages - n_free)


def delete_some(db: sqlite3.Connection, table: str, which: str, values: Sequence[object]) -> int:
    """Delete one portion of the entries that a WHERE or ORDER BY chooses; returns how many went."""
    statement = f"DELETE FROM {table} WHERE key IN (SELECT key FROM {table} {which} LIMIT {_PORTION})"
    return db.execute(statement, tuple(values)).rowcount

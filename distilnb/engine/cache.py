"""The reply cache: every reply that was ever paid for, by all that made it what it is.

One SQLite file for preview, runs and later pipelines. A reply is committed before the slot of its request is
freed, at the end of the event loop's turn, so that a kill repeats at most what was in flight.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import time
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path

from distilnb.errors import StoreError
from distilnb.home import private_folder
from distilnb.llms.base import LLM
from distilnb.llms.request import Reply, Request

_TABLE = """
CREATE TABLE IF NOT EXISTS replies (
    key BLOB PRIMARY KEY, text TEXT, finish_reason TEXT, model TEXT,
    input_tokens INTEGER, output_tokens INTEGER, at REAL) WITHOUT ROWID
"""
_COLUMNS = "key, text, finish_reason, model, input_tokens, output_tokens"
_CHUNK = 500  # keys in one SELECT; SQLite's default limit on variables is 999 in old builds

Key = bytes


def request_digest(llm: LLM, request: Request) -> bytes:
    """Return the digest of model, endpoint, sampling parameters, messages and schema."""
    whole = {"llm": llm.identity(), "messages": request.messages, "schema": request.schema}
    text = json.dumps(whole, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def reply_key(digest: bytes, *, index: int, repeat: int, attempt: int) -> Key:
    """Return the key of one reply: the index-th of its row, of the repeat-th equal request, at that attempt."""
    return hashlib.blake2b(digest + f"{index}:{repeat}:{attempt}".encode(), digest_size=16).digest()


class ReplyCache:
    """The cache as one process uses it, from one event loop."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or self.default_path()
        try:
            self._db = sqlite3.connect(self.path, isolation_level=None, timeout=30, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(_TABLE)
            self.path.chmod(0o600)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"The reply cache {str(self.path)!r} cannot be opened: {error}.",
                "Set DISTILNB_HOME to a folder that can be written.",
            ) from error
        weakref.finalize(self, self._db.close)  # DISTILNB_HOME may change, and with it the cache of a process
        self._pending: list[tuple[Sequence[tuple[Key, Reply]], bool, asyncio.Future[None]]] = []

    @staticmethod
    def default_path() -> Path:
        """Return where the cache of all pipelines is."""
        return private_folder("cache") / "replies.sqlite"

    def find(self, keys: Sequence[Key]) -> dict[Key, Reply]:
        """Return the replies that are known among these keys."""
        found: dict[Key, Reply] = {}
        try:
            for start in range(0, len(keys), _CHUNK):
                chunk = keys[start : start + _CHUNK]
                marks = ",".join("?" * len(chunk))
                for key, text, finish_reason, model, n_in, n_out in self._db.execute(
                    f"SELECT {_COLUMNS} FROM replies WHERE key IN ({marks})",
                    chunk,
                ):
                    found[key] = Reply(text, finish_reason, model, n_in, n_out, is_cached=True)
        except sqlite3.Error as error:
            raise StoreError(f"The reply cache cannot be read: {error}.") from error
        return found

    async def keep(self, replies: Sequence[tuple[Key, Reply]], *, replace: bool = False) -> None:
        """Return once the replies are committed; all that arrive in one turn of the loop share a commit.

        What is stored already stays, unless `replace`.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if not self._pending:
            loop.call_soon(self._commit)
        self._pending.append((replies, replace, done))
        await done

    def _commit(self) -> None:
        pending, self._pending = self._pending, []
        error: StoreError | None = None
        try:
            self._insert(pending)
        except StoreError as raised:
            error = raised
        for _, _, done in pending:
            if done.done():  # its request was cancelled meanwhile
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

    def _insert(self, pending: Iterable[tuple[Sequence[tuple[Key, Reply]], bool, object]]) -> None:
        now = time.time()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for replies, replace, _ in pending:
                    self._db.executemany(
                        f"INSERT OR {'REPLACE' if replace else 'IGNORE'} INTO replies VALUES (?, ?, ?, ?, ?, ?, ?)",
                        [
                            (key, r.text, r.finish_reason, r.model, r.input_tokens, r.output_tokens, now)
                            for key, r in replies
                        ],
                    )
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreError(
                f"The reply cache {str(self.path)!r} cannot be written: {error}.",
                "Free some disk space, or set DISTILNB_HOME to a folder that can be written; then resume.",
            ) from error

    def close(self) -> None:
        """Close the database."""
        self._db.close()

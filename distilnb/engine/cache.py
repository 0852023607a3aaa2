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
from collections.abc import Awaitable, Callable, Sequence
from json.encoder import encode_basestring
from pathlib import Path

from distilnb.engine.cache_limit import UNREADABLE_FIX, CacheLimit, size_limit
from distilnb.engine.database import open_database, telling, transaction
from distilnb.errors import StoreError
from distilnb.home import private_folder
from distilnb.llms.base import LLM
from distilnb.llms.request import Message, Reply, Request
from distilnb.llms.shape import ReplyShape

# With a rowid: new replies share the last pages. Kept in the order of their keys, which are random, each would dirty a
# page of its own, in every commit and again in every checkpoint. A cache that was made so is used on as it is.
_TABLE = """
CREATE TABLE IF NOT EXISTS replies (
    key BLOB NOT NULL PRIMARY KEY, text TEXT, finish_reason TEXT, model TEXT,
    input_tokens INTEGER, output_tokens INTEGER, at REAL, run TEXT);
CREATE INDEX IF NOT EXISTS replies_by_age ON replies (at);
"""
_VALUES = "INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_COLUMNS = "key, text, finish_reason, model, input_tokens, output_tokens, run"
_CHUNK = 500  # keys in one SELECT; SQLite's default limit on variables is 999 in old builds

_UTF8 = ("utf-8", "surrogatepass")  # half of a surrogate pair is text too

Key = bytes


_TEXT_MESSAGE = {"role", "content"}
_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)


def request_digester(llm: LLM) -> Callable[[Request], bytes]:
    """Return what makes digests of requests: model, endpoint, sampling parameters, messages and schema.

    What the model brings to all of them is written and hashed once.
    """
    shared = hashlib.blake2b(
        f'{{"llm":{_JSON.encode(llm.identity())},"messages":'.encode(*_UTF8), digest_size=16
    )

    def digest_of(request: Request) -> bytes:
        digest = shared.copy()
        text = f'{_messages_text(request.messages)},"schema":{_shape_text(request.shape)}}}'
        digest.update(text.encode(*_UTF8))
        return digest.digest()

    return digest_of


def request_digests(llm: LLM, requests: Sequence[Request]) -> list[bytes]:
    """Return the digest of each request."""
    digest_of = request_digester(llm)
    return [digest_of(request) for request in requests]


def _messages_text(messages: Sequence[Message]) -> str:
    """Return what `_JSON` makes of messages, in less than half the time where they are plain text."""
    if all(
        message.keys() == _TEXT_MESSAGE and {*map(type, message.values())} == {str} for message in messages
    ):
        texts = [
            f'{{"content":{encode_basestring(message["content"])},"role":{encode_basestring(message["role"])}}}'
            for message in messages
        ]
        return f"[{','.join(texts)}]"
    return _JSON.encode(messages)


def _shape_text(shape: ReplyShape | None) -> str:
    """Return the part of a key that tells the shape: how it is forced on the model is no part of it."""
    if shape is None:
        return "null"
    if shape.kind == "json" and shape.schema is not None:
        return _JSON.encode(shape.schema)
    return f'null,"shape":{shape.key}'


def reply_key(digest: bytes, *, index: int, repeat: int, attempt: int) -> Key:
    """Return the key of one reply: the index-th of its row, of the repeat-th equal request, at that attempt."""
    return hashlib.blake2b(digest + f"{index}:{repeat}:{attempt}".encode(), digest_size=16).digest()


def open_replies(path: Path) -> sqlite3.Connection:
    """Open the database of replies; raises StoreError."""
    try:
        db = open_database(path, _TABLE)
        _add_missing_columns(db)
        path.chmod(0o600)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(
            f"The reply cache {str(path)!r} cannot be opened: {error}.",
            "Set DISTILNB_HOME to a folder that can be written.",
        ) from error
    return db


def _add_missing_columns(db: sqlite3.Connection) -> None:
    """Bring the cache of an earlier version, which did not note the run, up to date: its replies were paid for."""
    if "run" in {column[1] for column in db.execute("PRAGMA table_info(replies)")}:
        return
    try:
        db.execute("ALTER TABLE replies ADD COLUMN run TEXT")
    except sqlite3.OperationalError as error:
        if "duplicate column" not in str(error):  # another process was faster
            raise


class ReplyCache:
    """The cache as one process uses it, from one event loop.

    `run_id` marks the replies that a run pays for.
    """

    def __init__(self, path: Path | None = None, *, run_id: str = "") -> None:
        self._run_id = run_id
        self.path = path or self.default_path()
        self._db = open_replies(self.path)
        self._limit = CacheLimit(self._db, "replies", size_limit())
        weakref.finalize(self, self._db.close)  # DISTILNB_HOME may change, and with it the cache of a process
        self._pending: list[tuple[Sequence[tuple[Key, Reply]], bool, asyncio.Future[bool]]] = []

    @staticmethod
    def default_path() -> Path:
        """Return where the cache of all pipelines is."""
        return private_folder("cache") / "replies.sqlite"

    def find(self, keys: Sequence[Key], *, again: bool = False) -> dict[Key, Reply]:
        """Return the replies that are known among these keys.

        `again` says that the rows were with a worker that was killed: what this run paid for them was not
        reported yet, so it does not count as cached.
        """
        found: dict[Key, Reply] = {}
        with telling(f"The reply cache {str(self.path)!r} cannot be read", UNREADABLE_FIX):
            for start in range(0, len(keys), _CHUNK):
                chunk = keys[start : start + _CHUNK]
                marks = ",".join("?" * len(chunk))
                for key, text, finish_reason, model, n_in, n_out, run_id in self._db.execute(
                    f"SELECT {_COLUMNS} FROM replies WHERE key IN ({marks})",
                    chunk,
                ):
                    is_unpaid = again and run_id == self._run_id
                    found[key] = Reply(text, finish_reason, model, n_in, n_out, is_cached=not is_unpaid)
        return found

    def keep(self, replies: Sequence[tuple[Key, Reply]], *, replace: bool = False) -> Awaitable[bool]:
        """Keep replies: what is returned ends once they are committed; all of one turn of the loop share a commit.

        What is stored already stays, unless `replace`; then the outcome is False.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bool] = loop.create_future()
        if not self._pending:
            loop.call_soon(self._commit)
        self._pending.append((replies, replace, done))
        return done

    def _commit(self) -> None:
        pending, self._pending = self._pending, []
        stored: list[bool] = []
        error: StoreError | None = None
        try:
            stored = self._insert(pending)
        except StoreError as raised:
            error = raised
        for index, (_, _, done) in enumerate(pending):
            if done.done():  # its request was cancelled meanwhile
                continue
            if error is None:
                done.set_result(stored[index])
            else:
                done.set_exception(error)

    def _insert(self, pending: Sequence[tuple[Sequence[tuple[Key, Reply]], bool, object]]) -> list[bool]:
        """Write what waits in one commit; tells of each group whether what is stored now is certainly its own."""
        now = time.time()
        fix = "Free some disk space, or set DISTILNB_HOME to a folder that can be written; then resume."
        with telling(f"The reply cache {str(self.path)!r} cannot be written", fix):
            with transaction(self._db):
                # One statement for all that is only to be added. When some of it was there already, all of it is
                # called so: those who keep it read what is stored, which for the others is what they brought.
                records = [
                    self._record(*pair, now) for pairs, replace, _ in pending if not replace for pair in pairs
                ]
                cursor = self._db.executemany(f"INSERT OR IGNORE {_VALUES}", records)
                is_new = not records or cursor.rowcount == len(records)
                replacing = [
                    self._record(*pair, now) for pairs, replace, _ in pending if replace for pair in pairs
                ]
                if replacing:
                    self._db.executemany(f"INSERT OR REPLACE {_VALUES}", replacing)
            self._limit.after_commit(len(pending))
        return [replace or is_new for _, replace, _ in pending]

    def _record(self, key: Key, reply: Reply, now: float) -> tuple[object, ...]:
        tokens = (reply.input_tokens, reply.output_tokens)
        return (key, reply.text, reply.finish_reason, reply.model, *tokens, now, self._run_id)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

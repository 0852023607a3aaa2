"""What expensive steps made of each row, kept between runs: steps that say `cache=True`.

A result is found again by the digest of the step and the content of the columns that it reads, so that an appended
row costs one row, and an edited step costs all of them. It is kept as the difference to the row that came in.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from distilnb.engine.apply import Outcome, merge
from distilnb.engine.cache_limit import UNREADABLE_FIX, CacheLimit, size_limit
from distilnb.engine.database import open_database, telling, transaction
from distilnb.errors import InputError
from distilnb.home import private_folder
from distilnb.rows import Batch, Row, dump_json, load_json
from distilnb.spec.step import Step

_TABLE = """
CREATE TABLE IF NOT EXISTS results (key BLOB PRIMARY KEY, made TEXT, at REAL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS results_by_age ON results (at);
"""
_CHUNK = 500  # keys in one SELECT

Apply = Callable[[Step, Batch], Outcome]


def open_results(path: Path) -> sqlite3.Connection:
    """Open the database of results; raises StoreError."""
    what = f"The cache of step results {str(path)!r} cannot be opened"
    with telling(what, "Set DISTILNB_HOME to a folder that can be written."):
        db = open_database(path, _TABLE)
        path.chmod(0o600)
    return db


class RowCache:
    """The results of expensive steps, as one process uses them. Writers insert or ignore, so runs may share it.

    Beyond the limit of the caches the oldest results go.
    """

    def __init__(self, path: Path | None = None, *, mode: Literal["on", "off", "refresh"] = "on") -> None:
        self.path = path or self.default_path()
        self._mode = mode
        self._db = open_results(self.path)
        self._limit = CacheLimit(self._db, "results", size_limit())
        weakref.finalize(self, self._db.close)

    @staticmethod
    def default_path() -> Path:
        """Return where the results of all pipelines are."""
        return private_folder("cache") / "rows.sqlite"

    def apply(self, step: Step, batch: Batch, apply: Apply) -> Outcome:
        """Run a step on a batch by `apply`, but for the rows whose result is known.

        What is new is committed after each `input_batch_size` rows: a kill costs no more than that. Rows that failed
        are not kept. Raises StoreError.
        """
        key_of = _keys_of(step)
        keys = [key_of(row) for row in batch.rows]
        known = self._find([key for key in keys if key is not None]) if self._mode == "on" else {}
        total = Outcome()
        total.batch.gone = list(batch.gone)
        new = [index for index, key in enumerate(keys) if key not in known]
        for index, key in enumerate(keys):
            if key in known:
                _restore(step, batch, index, known[key], total)
        size = max(1, step.input_batch_size)
        for start in range(0, len(new), size):
            piece = new[start : start + size]
            before = {batch.ids[index]: _texts(batch.rows[index]) for index in piece}
            outcome = apply(step, Batch(*_columns_of(batch, piece)))
            if self._mode != "off":
                self._keep(_results(dict(zip(batch.ids, keys, strict=True)), before, outcome))
            merge(total, outcome)
            for row, row_id, order in zip(
                outcome.batch.rows, outcome.batch.ids, outcome.batch.orders, strict=True
            ):
                total.batch.add(row, row_id, order)
            total.batch.gone += outcome.batch.gone
        return total

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def _find(self, keys: Sequence[bytes]) -> dict[bytes | None, Any]:
        found: dict[bytes | None, Any] = {}
        with telling(f"The cache of step results {str(self.path)!r} cannot be read", UNREADABLE_FIX):
            for start in range(0, len(keys), _CHUNK):
                chunk = keys[start : start + _CHUNK]
                marks = ",".join("?" * len(chunk))
                query = f"SELECT key, made FROM results WHERE key IN ({marks})"
                found.update((key, load_json(made)) for key, made in self._db.execute(query, chunk))
        return found

    def _keep(self, results: Mapping[bytes, str]) -> None:
        now = time.time()
        how = "REPLACE" if self._mode == "refresh" else "IGNORE"
        what = f"The cache of step results {str(self.path)!r} cannot be written"
        with telling(what, "Free some disk space; then resume the run."):
            with transaction(self._db):
                self._db.executemany(
                    f"INSERT OR {how} INTO results VALUES (?, ?, ?)",
                    [(key, made, now) for key, made in results.items()],
                )
            self._limit.after_commit(len(results))


def _keys_of(step: Step) -> Callable[[Row], bytes | None]:
    """Return what makes the key of a step's result for a row: None when the row holds what cannot be stored.

    The digest is found out once: that of a user's class takes milliseconds.
    """
    digest, read = step.digest, [step.input_mappings.get(name, name) for name in step.inputs]

    def key_of(row: Row) -> bytes | None:
        content = {name: row[name] for name in read if name in row} if read else row
        try:
            text = dump_json([digest, sorted(content.items())])
        except InputError:
            return None
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    return key_of


def _columns_of(batch: Batch, indices: Sequence[int]) -> tuple[list[Row], list[str], list[list[int]]]:
    return (
        [batch.rows[index] for index in indices],
        [batch.ids[index] for index in indices],
        [batch.orders[index] for index in indices],
    )


# --- the form that is kept --------------------------------------------------------


def _results(
    keys: Mapping[str, bytes | None], before: Mapping[str, dict[str, str] | None], outcome: Outcome
) -> dict[bytes, str]:
    """Return what is to be kept of an outcome, by key: the children of each row, or why it was left out.

    `before` has the columns of the rows as they were, by id: a step may change what it was given.
    """
    made: dict[str, Any] = {}
    unstorable = {failure.row_id for failure in outcome.failures}
    for row, row_id, order in zip(outcome.batch.rows, outcome.batch.ids, outcome.batch.orders, strict=True):
        is_child = row_id not in keys
        parent = row_id.rpartition(".")[0] if is_child else row_id
        texts = before[parent]
        try:
            if texts is not None:
                child = [order[-1] if is_child else None, *_difference(texts, row)]
                made.setdefault(parent, {"rows": []})["rows"].append(child)
        except InputError:  # the engine will tell of it when it writes the row
            unstorable.add(parent)
    made.update((gone.id, {"reason": gone.reason}) for gone in outcome.batch.gone)
    return {
        key: dump_json(value)
        for row_id, value in made.items()
        if row_id not in unstorable and (key := keys.get(row_id)) is not None
    }


def _texts(row: Row) -> dict[str, str] | None:
    """Return the columns of a row as text; None when one cannot be stored."""
    try:
        return {name: dump_json(value) for name, value in row.items()}
    except InputError:
        return None


def _difference(before: Mapping[str, str], after: Row) -> tuple[Row, list[str]]:
    """Return the columns that are new or other, and the names of those that went."""
    changed = {
        name: value for name, value in after.items() if name not in before or dump_json(value) != before[name]
    }
    return changed, [name for name in before if name not in after]


def _restore(step: Step, batch: Batch, index: int, made: Any, outcome: Outcome) -> None:
    """Add what a row became to an outcome, as if the step had run."""
    row, row_id, order = batch.rows[index], batch.ids[index], batch.orders[index]
    outcome.count(step.name, cached=1)
    if "reason" in made:
        outcome.drop(row_id, order, step.name, made["reason"])
        return
    for number, changed, removed in made["rows"]:
        child = {name: value for name, value in row.items() if name not in removed}
        child.update(changed)
        if number is None:
            outcome.batch.add(child, row_id, order)
        else:
            outcome.batch.add(child, f"{row_id}.{number}", [*order, number])
    outcome.count(step.name, done=1, made=len(made["rows"]))

"""How rows came about, as the journal knows it: what was made of what, what is to be done again, what was taken back.

Every message of a worker has a number in the journal (`out`), which its acknowledgements, batches and errors share.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from distilnb.engine.ranges import from_ranges

if TYPE_CHECKING:
    from distilnb.engine.journal import BatchRef

MONEY = (
    "asked",
    "cached",
    "retries",
    "reasked",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "unpriced",
    "guessed",
)
_CHUNK = 500  # values in one statement


class StoredError(NamedTuple):
    """A row in quarantine, as far as a retry must know it."""

    id: int
    step: str
    row_id: str
    out: int


class Attempt(NamedTuple):
    """How often a row was asked anew at a step, and which version of the step does it."""

    attempt: int = 0
    version: int = 1


class Lineage:
    """The tables of retries over one connection: the runner's, or a reader's."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def is_kept(self) -> bool:
        """Whether the journal has these tables; one of an earlier version has not, until its run goes on."""
        query = "SELECT 1 FROM sqlite_master WHERE name = 'orders'"
        return self._db.execute(query).fetchone() is not None

    # --- what was made of what ---

    def taken(self, stage: str, out: int) -> dict[int, set[int]]:
        """Return the entries that a stage took for one message, by batch."""
        found: dict[int, set[int]] = {}
        query = "SELECT batch, ranges FROM acks WHERE stage = ? AND out = ?"
        for batch, ranges in self._db.execute(query, (stage, out)):
            found.setdefault(batch, set()).update(from_ranges(json.loads(ranges)))
        return found

    def out_that_took(self, stage: str, batch: int, entry: int) -> int | None:
        """Return the last message for which a stage took an entry, None when it did not yet."""
        query = "SELECT out, ranges FROM acks WHERE batch = ? AND stage = ? ORDER BY out DESC"
        for out, ranges in self._db.execute(query, (batch, stage)):
            if any(first <= entry <= last for first, last in json.loads(ranges)):
                return int(out)
        return None

    def made(self, stage: str, out: int) -> list[BatchRef]:
        """Return the batches that a stage made in one message."""
        return self._batches("stage = ? AND out = ?", (stage, out))

    def batch(self, batch: int) -> BatchRef | None:
        """Return a batch by its number."""
        return next(iter(self._batches("id = ?", (batch,))), None)

    def _batches(self, where: str, values: Sequence[object]) -> list[BatchRef]:
        query = f"SELECT id, stage, path, n_rows, n_gone FROM batches WHERE {where} ORDER BY id"
        from distilnb.engine.journal import BatchRef  # which workers would load with all events, for nothing

        return [BatchRef(*row) for row in self._db.execute(query, values)]

    # --- errors ---

    def open_errors(self, ids: Sequence[int]) -> list[StoredError]:
        """Return those of these errors that no retry has taken up, and that cost their row."""
        found: list[StoredError] = []
        for chunk in _chunks(ids):
            marks = ",".join("?" * len(chunk))
            query = (
                "SELECT id, step, row_id, out FROM errors"
                f" WHERE id IN ({marks}) AND state = 'open' AND NOT is_partial ORDER BY id"
            )
            found += [StoredError(*row) for row in self._db.execute(query, chunk)]
        return found

    def open_errors_of(self, steps: Sequence[str], out: int) -> list[StoredError]:
        """Return the errors of one message that no retry has taken up."""
        marks = ",".join("?" * len(steps))
        query = (
            "SELECT id, step, row_id, out FROM errors"
            f" WHERE out = ? AND step IN ({marks}) AND state = 'open' AND NOT is_partial ORDER BY id"
        )
        return [StoredError(*row) for row in self._db.execute(query, (out, *steps))]

    def take_up(self, error: StoredError) -> None:
        """Note that a row in quarantine is done again."""
        self._db.execute("UPDATE errors SET state = 'retried' WHERE id = ?", (error.id,))

    def mend(self, step: str, row_id: str) -> None:
        """Note that what failed at a step has passed it now."""
        self._db.execute(
            "UPDATE errors SET state = 'mended', mended_by = ?"
            " WHERE step = ? AND row_id = ? AND state = 'retried'",
            (self.attempt(step, row_id).version, step, row_id),
        )

    # --- what is to be done again ---

    def redo(self, stage: str, batch: int, entry: int, step: str, row_id: str) -> None:
        """Note that a stage has to do an entry again, for the row that failed at a step."""
        self._db.execute(
            "INSERT INTO redo (stage, batch, entry, step, row_id) VALUES (?, ?, ?, ?, ?)",
            (stage, batch, entry, step, row_id),
        )

    def redone(self, stage: str, batch: int, entry: int) -> list[tuple[str, str]]:
        """Note that an entry was done again; returns for which (step, row id)."""
        values = (stage, batch, entry)
        where = "stage = ? AND batch = ? AND entry = ? AND is_open"
        pairs = self._db.execute(f"SELECT step, row_id FROM redo WHERE {where}", values).fetchall()
        self._db.execute(f"UPDATE redo SET is_open = 0 WHERE {where}", values)
        return [(step, row_id) for step, row_id in pairs]

    def open_entries(self) -> Iterator[tuple[str, int, int]]:
        """Yield (stage, batch, entry) of all that is to be done again."""
        yield from self._db.execute("SELECT DISTINCT stage, batch, entry FROM redo WHERE is_open")

    def open_redo(self, stage: str, batch: int) -> dict[int, list[tuple[str, str]]]:
        """Return for each entry of a batch that a stage is to do again, for which (step, row id)."""
        found: dict[int, list[tuple[str, str]]] = {}
        query = "SELECT entry, step, row_id FROM redo WHERE stage = ? AND batch = ? AND is_open"
        for entry, step, row_id in self._db.execute(query, (stage, batch)):
            found.setdefault(entry, []).append((step, row_id))
        return found

    def open_rows(self) -> set[tuple[str, str]]:
        """Return (step, row id) of all that is to be done again."""
        return set(self._db.execute("SELECT step, row_id FROM redo WHERE is_open"))

    def attempt(self, step: str, row_id: str) -> Attempt:
        """Return how a row is to be done at a step."""
        query = "SELECT attempt, version FROM attempts WHERE step = ? AND row_id = ?"
        row = self._db.execute(query, (step, row_id)).fetchone()
        return Attempt(*row) if row else Attempt()

    def set_attempt(self, step: str, row_id: str, attempt: Attempt) -> None:
        """Say how a row is to be done at a step from now on."""
        self._db.execute("INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?)", (step, row_id, *attempt))

    def attempts(self, step: str, row_ids: Sequence[str] | None = None) -> dict[str, Attempt]:
        """Return how rows are to be done at a step: of these rows, or all, those that were retried."""
        query = "SELECT row_id, attempt, version FROM attempts WHERE step = ?"
        if row_ids is None:
            rows = self._db.execute(query, (step,)).fetchall()
        else:
            rows = []
            for chunk in _chunks(row_ids):
                marks = ",".join("?" * len(chunk))
                rows += self._db.execute(f"{query} AND row_id IN ({marks})", (step, *chunk)).fetchall()
        return {row_id: Attempt(attempt, version) for row_id, attempt, version in rows}

    def retried_steps(self) -> set[str]:
        """Return the steps of which some row was retried."""
        return {step for (step,) in self._db.execute("SELECT DISTINCT step FROM attempts")}

    # --- what was taken back ---

    def withdraw(self, batch: int, entry: int, row_id: str) -> None:
        """Take back that a row is lost: the entry that said so counts no more."""
        self._db.execute("INSERT OR IGNORE INTO withdrawn VALUES (?, ?, ?)", (batch, entry, row_id))

    def withdrawn(self) -> dict[int, dict[int, str]]:
        """Return the entries that were taken back, with their row ids, by batch."""
        found: dict[int, dict[int, str]] = {}
        for batch, entry, row_id in self._db.execute("SELECT batch, entry, row_id FROM withdrawn"):
            found.setdefault(batch, {})[entry] = row_id
        return found

    def drop(self, stages: Iterable[str], steps: Iterable[str]) -> None:
        """Forget all that these stages have made; what it has cost stays, and how rows are to be done."""
        for stage in stages:
            self._db.execute(
                "DELETE FROM withdrawn WHERE batch IN (SELECT id FROM batches WHERE stage = ?)", (stage,)
            )
            for table in ("batches", "acks", "redo"):
                self._db.execute(f"DELETE FROM {table} WHERE stage = ?", (stage,))
        marks = ",".join("?" * len(MONEY))
        for step in steps:
            self._db.execute("DELETE FROM errors WHERE step = ?", (step,))
            self._db.execute(f"DELETE FROM counts WHERE step = ? AND name NOT IN ({marks})", (step, *MONEY))

    # --- orders ---

    def orders(self) -> dict[str, int]:
        """Return the orders that were carried out, with the number of rows that each opened."""
        return dict(self._db.execute("SELECT name, n_rows FROM orders"))

    def carry_out(self, name: str, n_rows: int) -> None:
        """Note that an order was carried out."""
        self._db.execute("INSERT INTO orders VALUES (?, ?)", (name, n_rows))


def _chunks(values: Sequence[object]) -> Iterator[Sequence[object]]:
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]

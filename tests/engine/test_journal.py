"""The journal: what was committed is read back, and nothing else."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilnb.engine.database import open_database
from distilnb.engine.events import Started
from distilnb.engine.journal import Journal, JournalReader
from distilnb.engine.lineage import Lineage
from distilnb.engine.ranges import from_ranges, to_ranges
from distilnb.errors import StoreError


@given(st.sets(st.integers(0, 200)))
def test_ranges_restore_every_set(indices: set[int]) -> None:
    assert from_ranges(to_ranges(sorted(indices))) == indices


def test_a_turn_is_read_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    with journal.turn():
        first = journal.add_batch("load", "batches/load/1.json", 3, 1)
        journal.acknowledge(first.id, "ask", [0, 2])
        journal.count("load", {"done": 3, "failed": 0})
        journal.count("load", {"done": 2})
        journal.add_event(Started(pid=7))
        journal.set_fact("state", "running")
    reader = JournalReader.open(tmp_path / "journal.sqlite")
    assert reader is not None
    assert reader.batches() == [first]
    assert reader.acknowledged() == {(first.id, "ask"): [[0, 0], [2, 2]]}
    assert reader.counts() == {"load": {"done": 5}}
    (event,) = reader.events()
    assert event == Started(pid=7, id=1, at=event.at)
    assert reader.events(after=1) == []
    assert reader.facts() == {"state": "running"}
    reader.close()
    journal.close()


def test_a_turn_that_fails_leaves_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")

    def fail() -> None:
        with journal.turn():
            journal.set_fact("state", "running")
            raise KeyError("boom")

    with pytest.raises(KeyError, match="boom"):
        fail()
    assert journal.reader().facts() == {}
    journal.close()


def test_a_reader_of_no_journal_is_none(tmp_path: Path) -> None:
    assert JournalReader.open(tmp_path / "journal.sqlite") is None


OF_EARLIER_RUNS = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE batches (
    id INTEGER PRIMARY KEY, stage TEXT NOT NULL, path TEXT NOT NULL, n_rows INTEGER NOT NULL, n_gone INTEGER NOT NULL);
CREATE TABLE acks (batch INTEGER NOT NULL, stage TEXT NOT NULL, ranges TEXT NOT NULL);
CREATE TABLE errors (
    id INTEGER PRIMARY KEY, at REAL, row_id TEXT, step TEXT, kind TEXT, reason TEXT, prompt TEXT, reply TEXT,
    traceback TEXT, attempts INTEGER, is_partial INTEGER);
CREATE TABLE counts (step TEXT, name TEXT, value REAL, PRIMARY KEY (step, name)) WITHOUT ROWID;
CREATE TABLE events (id INTEGER PRIMARY KEY, at REAL, kind TEXT, step TEXT, data TEXT);
INSERT INTO batches VALUES (1, 'load', 'batches/load/1.json', 3, 0);
INSERT INTO acks VALUES (1, 'ask', '[[0, 1]]');
INSERT INTO errors VALUES (1, 0.0, 'load:a:0', 'ask', 'ParseError', 'why', '', '', '', 1, 0);
"""


def test_a_journal_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    db = sqlite3.connect(path)
    db.executescript(OF_EARLIER_RUNS)
    db.close()
    reader = JournalReader.open(path)
    assert reader is not None
    assert not Lineage(reader.connection).is_kept()
    assert [error["row_id"] for error in reader.errors()] == ["load:a:0"]
    reader.close()
    journal = Journal(path)
    with journal.turn():
        assert journal.begin_out() == 1
        journal.acknowledge(1, "ask", [2])
    lineage = Lineage(journal.connection)
    assert journal.reader().acknowledged() == {(1, "ask"): [[0, 1], [2, 2]]}
    assert lineage.taken("ask", 1) == {1: {2}}
    assert [error.row_id for error in lineage.open_errors([1])] == ["load:a:0"]
    journal.close()


# --- damaged ------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_a_damaged_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_text("no database at all, " * 100)
    for open_journal in (JournalReader.open, Journal):
        with pytest.raises(StoreError, match=r"journal\.sqlite.*not a database") as told:
            open_journal(path)
        assert "what was asked is in the cache" in told.value.fix
    assert path.read_text().startswith("no database")


def test_a_journal_without_some_of_its_tables_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    Journal(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE events")
    with pytest.raises(StoreError, match=r"is damaged: it has no table \['events'\]"):
        JournalReader.open(path)


@pytest.mark.parametrize("n_bytes", [0, 4096])
def test_a_journal_that_is_being_made_is_absent(tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "journal.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as db:
        if n_bytes:
            db.execute("PRAGMA journal_mode = WAL")
    path.touch()
    assert path.stat().st_size == n_bytes
    assert JournalReader.open(path) is None


def test_the_tables_of_a_journal_come_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    tables = "CREATE TABLE IF NOT EXISTS one (a); CREATE TABLE IF NOT EXISTS two (a); CREATE TABLE three ("
    with pytest.raises(sqlite3.OperationalError, match=r"incomplete input|syntax error"):
        open_database(path, tables)
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == []

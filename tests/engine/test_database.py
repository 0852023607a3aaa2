"""One database that several processes make at the same moment; transactions; errors in words."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distilnb.engine.database import open_database, transaction
from distilnb.engine.repeats import Repeats
from distilnb.errors import StoreError

TABLE = "CREATE TABLE IF NOT EXISTS things (name TEXT PRIMARY KEY) WITHOUT ROWID"
OPEN_ON_A_LINE = f"""
import sys
from pathlib import Path
from distilnb.engine.database import open_database
print("ready", flush=True)
for line in sys.stdin:
    db = open_database(Path(line.strip()), {TABLE!r})
    db.execute("INSERT OR IGNORE INTO things VALUES ('one')")
    db.close()
    print("opened", flush=True)
"""


def test_processes_that_make_one_database_at_once_all_open_it(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_ON_A_LINE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        said = [_line_of(process) for process in processes]
        for number in range(100):
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(f"{tmp_path / f'{number}.sqlite'}\n")
                process.stdin.flush()
            said += [_line_of(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert said == ["ready"] * 2 + ["opened"] * 200


def test_a_database_that_stays_locked_is_refused_after_the_timeout(tmp_path: Path) -> None:
    path = tmp_path / "one.sqlite"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        open_database(path, TABLE, timeout_s=0.05)
    holder.close()


def _line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# --- transactions -------------------------------------------------------------------


def things(db: sqlite3.Connection) -> list[str]:
    return [name for (name,) in db.execute("SELECT name FROM things ORDER BY name")]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    db = open_database(tmp_path / "things.sqlite", TABLE)
    yield db
    db.close()


def test_a_transaction_keeps_all_that_was_written_inside(db: sqlite3.Connection) -> None:
    with transaction(db):
        db.execute("INSERT INTO things VALUES ('one')")
        assert db.in_transaction
        db.execute("INSERT INTO things VALUES ('two')")
    assert not db.in_transaction
    assert things(db) == ["one", "two"]


@pytest.mark.parametrize("raised", [sqlite3.IntegrityError, KeyboardInterrupt])
def test_what_fails_inside_a_transaction_undoes_it_and_the_next_one_works(
    db: sqlite3.Connection, raised: type[BaseException]
) -> None:
    def write() -> None:
        db.execute("INSERT INTO things VALUES ('one')")
        if raised is KeyboardInterrupt:
            raise KeyboardInterrupt
        db.execute("INSERT INTO things VALUES ('one')")

    with pytest.raises(raised), transaction(db):
        write()
    assert not db.in_transaction
    with transaction(db):
        db.execute("INSERT INTO things VALUES ('two')")
    assert things(db) == ["two"]


def test_a_transaction_that_sqlite_has_ended_itself_tells_why_it_failed(db: sqlite3.Connection) -> None:
    n_pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {n_pages}")  # as on a full disk
    with pytest.raises(sqlite3.OperationalError, match="full"), transaction(db):
        db.executemany("INSERT INTO things VALUES (?)", [(f"{i:0100}",) for i in range(1000)])
    assert not db.in_transaction
    db.execute(f"PRAGMA max_page_count = {n_pages + 10}")
    with transaction(db):
        db.execute("INSERT INTO things VALUES ('two')")
    assert things(db) == ["two"]


def test_a_commit_that_is_refused_leaves_no_transaction_open(tmp_path: Path) -> None:
    tables = (
        "CREATE TABLE IF NOT EXISTS one (id INTEGER PRIMARY KEY);"
        "CREATE TABLE IF NOT EXISTS many (one INTEGER REFERENCES one DEFERRABLE INITIALLY DEFERRED);"
    )
    db = open_database(tmp_path / "refused.sqlite", tables)
    db.execute("PRAGMA foreign_keys = ON")  # such a reference is looked at by the commit
    with pytest.raises(sqlite3.IntegrityError), transaction(db):
        db.execute("INSERT INTO many VALUES (7)")
    assert not db.in_transaction
    with transaction(db):
        db.execute("INSERT INTO one VALUES (7)")
        db.execute("INSERT INTO many VALUES (7)")
    assert db.execute("SELECT count(*) FROM many").fetchone() == (1,)
    db.close()


# --- errors of the files that a run keeps beside its journal -------------------------


def drop_tables(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        for (table,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            other.execute(f"DROP TABLE {table}")


def repeats_of(path: Path) -> tuple[Repeats, list[Callable[[], object]]]:
    repeats = Repeats(path)
    repeats.number("ask", [(b"digest", "row")])
    return repeats, [lambda: repeats.number("ask", [(b"digest", "row")])]


def test_no_raw_error_leaves_the_files_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "file.sqlite"
    kept, calls = repeats_of(path)
    drop_tables(path)
    for call in calls:
        with pytest.raises(StoreError, match=r"file\.sqlite.*no such table") as told:
            call()
        assert "resume" in told.value.fix
        assert isinstance(told.value.__cause__, sqlite3.Error)
    del kept


def test_a_file_that_is_no_database_is_told_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "file.sqlite"
    path.write_text("no database at all, " * 100)
    with pytest.raises(StoreError, match=r"file\.sqlite.*cannot be opened") as told:
        Repeats(path)
    assert "damaged" in told.value.fix


def test_a_refused_write_of_request_numbers_leaves_the_next_one_free(tmp_path: Path) -> None:
    path = tmp_path / "repeats.sqlite"
    repeats = Repeats(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON repeats BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
        with pytest.raises(StoreError, match="cannot be written: refused"):
            repeats.number("ask", [(b"digest", "row")])
        other.execute("DROP TRIGGER refuse")
    assert repeats.number("ask", [(b"digest", "other"), (b"digest", "row")]) == [0, 1]
    repeats.close()

"""One database that several processes make at the same moment."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from distilnb.engine.database import open_database

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

"""Reading a run that has ended, was deleted or is damaged: files are let go, and errors say what happened."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import distilnb as dn
from distilnb.errors import RunNotFoundError, StoreError

READS: list[Callable[[dn.Run], object]] = [
    dn.Run.status,
    dn.Run.errors,
    dn.Run.events,
    lambda run: run.rows("keep"),
    dn.Run.pause,
    dn.Run.wait,
    dn.Run.resume,
    lambda run: run.adjust(max_time=5),
]


@pytest.fixture
def run() -> dn.Run:
    run = dn.Pipeline("read").from_dicts([{"n": 1}, {"n": 2}]).keep("n").start(new=True)
    assert run.wait(60).state == "finished"
    return run


@pytest.mark.parametrize("read", READS)
def test_a_handle_of_a_deleted_run_says_so(run: dn.Run, read: Callable[[dn.Run], object]) -> None:
    shutil.rmtree(run.path)
    with pytest.raises(RunNotFoundError, match=r"is gone"):
        read(run)


@pytest.mark.parametrize("read", [dn.Run.status, dn.Run.errors])
def test_a_damaged_journal_is_told_in_words(run: dn.Run, read: Callable[[dn.Run], object]) -> None:
    journal = sqlite3.connect(Path(run.path, "journal.sqlite"))
    journal.executescript("DROP TABLE facts; DROP TABLE errors")
    journal.close()
    with pytest.raises(StoreError, match=r"journal.* no (such )?table"):
        read(run)


@pytest.mark.skipif(
    sys.platform != "linux", reason="not shipped: open files as /proc lists them, outside Linux"
)
def test_a_handle_of_an_ended_run_keeps_no_file_open(run: dn.Run) -> None:
    def files_of_run() -> list[str]:
        links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        return [os.readlink(link) for link in links if os.path.islink(link) and run.path in os.readlink(link)]

    for read in (run.status, run.errors, run.events, lambda: run.rows("keep"), run.distiset):
        read()
        assert files_of_run() == []

"""A run whose journal is damaged says so wherever it is asked, and hides no other run."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import distilnb as dn
from distilnb.engine.upkeep import prunable_runs
from distilnb.errors import StoreError
from distilnb.pipeline import Pipeline
from distilnb.run import Run, attach
from tests.test_cli import said

pytestmark = pytest.mark.usefixtures("home")


def ended(name: str) -> Run:
    run = Pipeline(name).from_dicts([{"n": 1}]).keep("n").start()
    assert run.wait(60).state == "finished"
    return run


def overwrite(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    path.write_bytes(b"\0garbage" * 2000)


def drop_a_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE counts")


ASKED: dict[str, Callable[[Run], object]] = {
    "status": lambda run: run.status(),
    "rows": lambda run: run.rows("keep"),
    "errors": lambda run: run.errors(),
    "events": lambda run: run.events(),
    "distiset": lambda run: run.distiset(partial=True),
    "resume": lambda run: run.resume(),
    "attach": lambda run: attach(run.id),
}


@pytest.mark.parametrize("damage", [overwrite, drop_a_table])
def test_a_damaged_journal_is_told_with_its_path_and_what_to_do(damage: Callable[[Path], None]) -> None:
    run, other = ended("damaged"), ended("whole")
    path = Path(run.path) / "journal.sqlite"
    damage(path)
    size = path.stat().st_size
    for what, ask in ASKED.items():
        with pytest.raises(StoreError, match=r"damaged") as told:
            ask(Run(run._dir))  # a handle of its own: what one has open it reads on, also when it was deleted
        assert str(path) in told.value.what, what
        assert told.value.fix.startswith("Start the pipeline again"), what
    assert path.stat().st_size == size  # it stays as it is
    shown = repr(dn.runs())
    assert f"{run.id} · The journal" in shown
    assert other.line() in shown
    assert f"{run.id} · The journal" in said("runs")
    assert prunable_runs(older_than_days=-1) == [other._dir]
    again = ended("damaged")
    assert again.id != run.id

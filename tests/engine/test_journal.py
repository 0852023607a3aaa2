"""The journal: what was committed is read back, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilnb.engine.events import Started
from distilnb.engine.journal import Journal, JournalReader
from distilnb.engine.ranges import from_ranges, to_ranges


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

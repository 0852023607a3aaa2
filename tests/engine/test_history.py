"""The history of a pipeline: numbers that never change, whoever asks for them at the same time."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from distilnb.engine.history import Vote, as_data, from_data, has_history, history_of
from distilnb.errors import StoreError
from distilnb.tasks.wording import Wording, plain_wording


def wording(text: str) -> Wording:
    return plain_wording("TextGeneration", {"messages": [["user", text]]})


def number(text: str, step: str = "answer", pipeline: str = "p") -> int:
    return history_of(pipeline).numbers({step: wording(text)})[step]


def test_numbers_follow_first_sight_for_each_step() -> None:
    assert not has_history("p")
    assert [number(text) for text in ("a", "b", "a", "c", "b")] == [1, 2, 1, 3, 2]
    assert number("b", step="judge") == 1
    assert number("c", pipeline="other") == 1
    assert [version.number for version in history_of("p").versions("answer")] == [1, 2, 3]
    assert has_history("p")


def test_threads_and_processes_that_see_the_same_texts_agree_on_their_numbers() -> None:
    program = """
import json
from tests.engine.test_history import number
print(json.dumps([number(f"text {i}") for i in range(40)]))
"""
    others = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
        for _ in range(3)
    ]
    found: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda: found.append([number(f"text {i}") for i in range(40)]))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found += [json.loads(other.communicate(timeout=60)[0]) for other in others]
    assert len(found) == 6
    assert all(numbers == found[0] for numbers in found)
    assert sorted(found[0]) == list(range(1, 41))


def test_previews_are_counted_and_a_run_counts_once() -> None:
    number("a")
    history = history_of("p")
    for run in ("r1", "r1", "r2"):
        history.note_run({"answer": 1}, run)
        history.note_preview({"answer": 1})
    seen = history.seen("answer")[1]
    assert (seen.previews, seen.runs) == (3, 2)


def test_of_many_timings_the_newest_are_kept() -> None:
    history = history_of("p")
    history.note_seconds("answer", 1, "m", [float(i) for i in range(300)])
    history.note_seconds("answer", 1, "other", [7.0])
    assert sorted(history.seconds("answer", 1, ["m"])) == [float(i) for i in range(100, 300)]
    assert history.seconds("answer", 1, ["other"]) == [7.0]


def test_a_vote_on_the_same_pair_replaces_the_one_before() -> None:
    history = history_of("p")
    for winner in ("x", "y"):
        history.vote("c", [Vote("row", "x", "y", winner, "")])
    history.vote("c", [Vote("row", "x", "y", "x", "a judge")])
    assert {vote.voter: vote.winner for vote in history.votes("c")} == {"": "y", "a judge": "x"}
    history.unvote("c", "row", "")
    assert [vote.voter for vote in history.votes("c")] == ["a judge"]


def test_a_text_with_half_a_character_is_a_version_too() -> None:
    assert number("\ud800") == 1
    [version] = history_of("p").versions("answer")
    assert version.wording == wording("\ud800")
    assert from_data(as_data([version])) == [version]


def test_a_damaged_history_is_told() -> None:
    path = history_of("damaged").path
    other = path.with_name("other.sqlite")
    other.write_bytes(b"no database" * 100)
    from distilnb.engine.history import History

    with pytest.raises(StoreError, match="cannot be opened"):
        History(other)


def test_no_file_stays_open_in_between(home: Path) -> None:
    """A kernel lives for days: its disk must be free to be unmounted or made read-only."""
    assert number("Say {{ a }}.") == 1
    history_of("p").note_preview({"answer": 1})
    opened = [file.path for file in psutil.Process().open_files()]
    assert not [path for path in opened if path.startswith(str(home))]

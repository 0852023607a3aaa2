"""A pause holds work back, a stop gives up what was not begun, and what is no work passes at any time."""

from __future__ import annotations

import threading
from typing import Any

from distilnb.engine.inbox import Inbox

PATIENCE_S = 30.0  # against a hang


def filled(*kinds: str) -> Inbox:
    inbox = Inbox()
    for kind in kinds:
        inbox.put({"do": kind})
    return inbox


def taken(inbox: Inbox, n_messages: int) -> list[str]:
    return [inbox.next()["do"] for _ in range(n_messages)]


def test_messages_come_in_their_order() -> None:
    assert taken(filled("secrets", "pull", "batch", "exit"), 4) == ["secrets", "pull", "batch", "exit"]


def test_a_stop_gives_up_the_work_that_was_not_begun() -> None:
    inbox = filled("secrets", "batch", "pull", "global", "end", "drain", "batch", "exit")
    assert taken(inbox, 3) == ["secrets", "drain", "exit"]


def test_a_stop_in_a_pause_begins_none_of_the_work_that_it_held_back() -> None:
    assert taken(filled("pause", "batch", "batch", "drain"), 2) == ["pause", "drain"]


def test_a_worker_that_starts_in_a_pause_still_builds_its_steps() -> None:
    assert taken(filled("secrets", "pause", "batch"), 2) == ["secrets", "pause"]


def test_work_waits_for_the_end_of_a_pause() -> None:
    inbox = filled("pause", "batch")
    inbox.next()
    came: list[Any] = []
    thread = threading.Thread(target=lambda: came.append(inbox.next()["do"]), daemon=True)
    thread.start()
    thread.join(0.05)
    assert came == []
    inbox.put({"do": "resume"})
    thread.join(PATIENCE_S)
    assert came == ["batch"]


def test_a_pause_and_a_stop_call_a_worker_off_its_work() -> None:
    inbox = filled("secrets", "batch")
    assert not inbox.is_calling
    inbox.put({"do": "pause"})
    assert inbox.is_calling
    inbox.put({"do": "resume"})
    assert not inbox.is_calling
    inbox.put({"do": "drain"})
    assert inbox.is_calling
    inbox.put({"do": "resume"})
    assert inbox.is_calling


def test_the_rest_of_some_work_is_the_next_to_be_done_and_waits_like_any() -> None:
    inbox = filled("batch", "pull", "pause")
    inbox.put({"do": "resume"})
    assert inbox.next()["do"] == "batch"
    inbox.put_back({"do": "batch", "todo": [7]})
    assert inbox.next() == {"do": "batch", "todo": [7]}
    assert taken(inbox, 3) == ["pull", "pause", "resume"]


def test_a_stop_gives_up_the_rest_too() -> None:
    inbox = filled("batch", "drain")
    inbox.put_back({"do": "batch", "todo": [7]})
    assert taken(inbox, 1) == ["drain"]

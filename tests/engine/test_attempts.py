"""Which reply a retried row builds on: the first that is usable, or was never answered, up to the row's attempt."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from distilnb.engine.attempts import CacheMode, RetriedRow, choose_replies
from distilnb.engine.cache import ReplyCache, reply_key
from distilnb.errors import ParseError
from distilnb.llms.request import Reply
from distilnb.tasks import Task

DIGEST = b"d" * 16


class Numbers(Task):
    """Takes digits only."""

    def format_output(self, output: str | None, input: dict[str, Any]) -> dict[str, Any]:
        if output is None or not output.isdigit():
            raise ParseError("It is no number.")
        return {"number": int(output)}


def key(index: int, attempt: int) -> bytes:
    return reply_key(DIGEST, index=index, repeat=0, attempt=attempt)


def cache_of(folder: Path, replies: dict[tuple[int, int], str], run_id: str = "run") -> ReplyCache:
    cache = ReplyCache(folder / "replies.sqlite", run_id=run_id)
    asyncio.run(_keep(cache, replies))
    return cache


async def _keep(cache: ReplyCache, replies: dict[tuple[int, int], str]) -> None:
    await cache.keep([(key(*place), Reply(text)) for place, text in replies.items()])


def choose(
    cache: ReplyCache, attempt: int, n: int = 2, mode: CacheMode = "on", again: bool = False
) -> list[tuple[int, int, str | None, bool | None]]:
    """Return (index, attempt, text, whether it counts as cached) of each reply that is built on."""
    row = RetriedRow({}, DIGEST, 0, n, attempt)
    [chosen] = choose_replies(cache, mode, Numbers(name="n"), [row], again=again)
    places = {key(index, tried): (index, tried) for index in range(n) for tried in range(attempt + 1)}
    found = []
    for one in chosen.keys:
        reply = chosen.known.get(one)
        found.append((*places[one], reply.text if reply else None, reply.is_cached if reply else None))
    return found


def test_a_good_reply_stays_and_a_bad_one_is_asked_past(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, {(0, 0): "1", (1, 0): "bad"})
    assert choose(cache, 1) == [(0, 0, "1", True), (1, 1, None, None)]


def test_what_was_never_answered_is_asked_where_every_run_looks_first(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, {(0, 0): "1"})
    assert choose(cache, 3) == [(0, 0, "1", True), (1, 0, None, None)]


def test_an_earlier_retry_of_another_run_is_found(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, {(0, 0): "bad", (0, 1): "bad", (0, 2): "7"})
    assert choose(cache, 2, n=1) == [(0, 2, "7", True)]
    assert choose(cache, 1, n=1) == [(0, 1, "bad", True)]


def test_a_killed_workers_reply_counts_as_paid_only_at_the_attempt_that_was_not_told(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, {(0, 0): "1", (1, 0): "bad", (1, 1): "2"})
    assert choose(cache, 1, again=True) == [(0, 0, "1", True), (1, 1, "2", False)]


def test_a_run_without_the_cache_asks_everything_again(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, {(0, 0): "1", (1, 0): "bad"})
    assert choose(cache, 1, mode="off") == [(0, 1, None, None), (1, 1, None, None)]


@pytest.mark.parametrize("run_id, text", [("run", "1"), ("another", None)])
def test_a_run_that_refreshes_trusts_its_own_replies_alone(
    tmp_path: Path, run_id: str, text: str | None
) -> None:
    cache_of(tmp_path, {(0, 0): "1"}, run_id=run_id).close()
    cache = ReplyCache(tmp_path / "replies.sqlite", run_id="run")
    assert choose(cache, 1, n=1, mode="refresh")[0][:3] == (0, 0, text)

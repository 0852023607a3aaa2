"""Which reply a retried row builds on: the first that is usable, or was never answered, up to the row's attempt."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distilnb.engine.attempts import CacheMode, choose_attempts, find_bought
from distilnb.engine.cache import ReplyCache, reply_key, request_digests
from distilnb.engine.inquiry import Inquiry, inquire, voices_of
from distilnb.engine.reasking import reask_key
from distilnb.errors import ParseError
from distilnb.llms.rehearsal import RehearsalLLM
from distilnb.llms.request import Reply, Request
from distilnb.tasks import Task

LLM = RehearsalLLM()
REQUEST = Request(({"role": "user", "content": "Which?"},))
[DIGEST] = request_digests(LLM, [REQUEST])


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
    inquiry = inquiry_of(n)
    choose_attempts(cache, mode, Numbers(name="n"), {}, inquiry, attempt, again=again)
    found = []
    for index, tried in enumerate(inquiry.attempts):
        reply = inquiry.replies.get(key(index, tried))
        found.append((index, tried, reply.text if reply else None, reply.is_cached if reply else None))
    assert len(inquiry.replies) == sum(text is not None for _, _, text, _ in found)
    return found


def inquiry_of(n: int) -> Inquiry:
    return inquire(LLM, 0, replace(REQUEST, n=n), DIGEST, 0, 0, voices_of(LLM))


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


def choose_of_chain(
    folder: Path, bad: set[tuple[int, int]], good: set[tuple[int, int]], attempt: int, n_reasks: int = 2
) -> tuple[int, bool]:
    """Return the attempt that is built on, and whether its reply is known; both sets hold (attempt, re-ask)."""
    cache = ReplyCache(folder / "replies.sqlite", run_id="run")

    def place_of(tried: int, number: int) -> bytes:
        return reask_key(key(0, tried), number) if number else key(0, tried)

    async def keep() -> None:
        pairs = [(place_of(*place), Reply("bad")) for place in bad]
        await cache.keep(pairs + [(place_of(*place), Reply("1")) for place in good])

    asyncio.run(keep())
    inquiry = inquiry_of(1)
    choose_attempts(cache, "on", Numbers(name="n"), {}, inquiry, attempt, n_reasks, again=False)
    [tried] = inquiry.attempts
    return tried, inquiry.all_stand


def test_what_a_re_ask_has_mended_stays(tmp_path: Path) -> None:
    assert choose_of_chain(tmp_path, {(0, 0), (0, 1)}, {(0, 2)}, 1) == (0, True)


def test_re_asks_that_are_not_used_up_go_on_where_they_were(tmp_path: Path) -> None:
    assert choose_of_chain(tmp_path, {(0, 0), (0, 1)}, set(), 1) == (0, True)


def test_after_the_last_re_ask_the_next_attempt_begins(tmp_path: Path) -> None:
    assert choose_of_chain(tmp_path, {(0, 0), (0, 1), (0, 2)}, set(), 1) == (1, False)
    assert choose_of_chain(tmp_path, {(1, 0), (1, 1)}, set(), 2) == (1, True)


def test_without_re_asks_one_bad_reply_uses_an_attempt_up(tmp_path: Path) -> None:
    assert choose_of_chain(tmp_path, {(0, 0)}, {(0, 1)}, 1, n_reasks=0) == (1, False)


def test_a_run_that_refreshes_finds_what_a_killed_worker_has_bought(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, {(0, 0): "1"})
    assert find_bought(cache, "refresh", [key(0, 0)], again=False) == {}
    [reply] = find_bought(cache, "refresh", [key(0, 0)], again=True).values()
    assert not reply.is_cached
    assert find_bought(cache, "off", [key(0, 0)], again=True) == {}
    other = ReplyCache(tmp_path / "replies.sqlite", run_id="another run")
    assert find_bought(other, "refresh", [key(0, 0)], again=True) == {}

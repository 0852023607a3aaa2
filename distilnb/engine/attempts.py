"""Which stored reply a retried row builds on, and under which attempt a new one is kept.

A reply that cannot be used stays in the cache, and a retry asks past it: of each reply of a row, the first attempt is
taken, up to the row's own, that is usable or was never answered; a re-ask for the reply that has brought a usable one
stands for it, and an attempt whose re-asks are not used up is not given up yet. So good replies of a row are not asked
again, a request that failed is asked under the key where every later run looks first, and an edited step first tries
what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from distilnb.engine.cache import Key, ReplyCache, reply_key
from distilnb.engine.reasking import reask_key
from distilnb.llms.request import Reply
from distilnb.rows import Row
from distilnb.tasks.base import Task

CacheMode = Literal["on", "off", "refresh"]


class RetriedRow(NamedTuple):
    """A row that is asked anew: the digest of its request, its number among equal ones, how many replies it wants.

    `n_reasks` is how often each of them may be asked for again when it does not have its shape.
    """

    row: Row
    digest: bytes
    repeat: int
    n_replies: int
    attempt: int
    n_reasks: int = 0


class Chosen(NamedTuple):
    """The keys of a row's replies in their order, and those replies that are known."""

    keys: list[Key]
    known: dict[Key, Reply]


def choose_replies(
    cache: ReplyCache, mode: CacheMode, task: Task, rows: Sequence[RetriedRow], *, again: bool
) -> list[Chosen]:
    """Return for each row under which keys its replies are, or are to be kept."""
    last = [_keys_at(row, row.attempt) for row in rows]
    if mode == "off":
        return [Chosen(keys, {}) for keys in last]
    before = [
        one
        for row in rows
        for attempt in range(row.attempt)
        for key in _keys_at(row, attempt)
        for one in (key, *_reask_keys(row, key))
    ]
    found = _find(cache, mode, before, again=False)
    found.update(_find(cache, mode, [key for keys in last for key in keys], again=again))
    return [_choose(task, row, found) for row in rows]


def _choose(task: Task, row: RetriedRow, found: dict[Key, Reply]) -> Chosen:
    chosen = Chosen([], {})
    by_attempt = [_keys_at(row, attempt) for attempt in range(row.attempt + 1)]
    for number in range(row.n_replies):
        candidates = [keys[number] for keys in by_attempt]
        tried = (_key_of_attempt(task, row, key, found) for key in candidates[:-1])
        key = next((key for key in tried if key is not None), candidates[-1])
        chosen.keys.append(key)
        if key in found:
            chosen.known[key] = found[key]
    return chosen


def _key_of_attempt(task: Task, row: RetriedRow, key: Key, found: dict[Key, Reply]) -> Key | None:
    """Return the key of what an earlier attempt brought or left open; None when it is used up."""
    for one in (key, *_reask_keys(row, key)):
        if one not in found:
            return key  # it is asked there, or what follows it there
        if _is_usable(task, row.row, found[one]):
            return one
    return None


def _reask_keys(row: RetriedRow, key: Key) -> list[Key]:
    return [reask_key(key, number) for number in range(1, row.n_reasks + 1)]


def _keys_at(row: RetriedRow, attempt: int) -> list[Key]:
    return [
        reply_key(row.digest, index=index, repeat=row.repeat, attempt=attempt)
        for index in range(row.n_replies)
    ]


def find_bought(cache: ReplyCache, mode: CacheMode, keys: Sequence[Key], *, again: bool) -> dict[Key, Reply]:
    """Return the replies that a row may use: in a run that refreshes, those that a killed worker has bought for it."""
    if mode == "on":
        return cache.find(keys, again=again)
    return _find(cache, mode, keys, again=True) if mode == "refresh" and again else {}


def _find(cache: ReplyCache, mode: CacheMode, keys: Sequence[Key], *, again: bool) -> dict[Key, Reply]:
    if mode == "on":
        return cache.find(keys, again=again)
    # A run that refreshes trusts its own replies alone; those of a killed worker are among them.
    own = {key: reply for key, reply in cache.find(keys, again=True).items() if not reply.is_cached}
    return own if again else {key: replace(reply, is_cached=True) for key, reply in own.items()}


def _is_usable(task: Task, row: Row, reply: Reply) -> bool:
    try:
        task.rows_from(row, [reply])
    except Exception:  # noqa: BLE001 - a user's parser may raise anything; the reply is of no use to it
        return False
    return True

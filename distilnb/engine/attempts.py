"""Which stored reply a retried row builds on, and under which attempt a new one is kept.

A reply that cannot be used stays in the cache, and a retry asks past it: of each reply of a row, the first attempt is
taken, up to the row's own, that is usable or was never answered; a re-ask for the reply that has brought a usable one
stands for it, and an attempt whose re-asks are not used up is not given up yet. So good replies of a row are not asked
again, a request that failed is asked under the key where every later run looks first, and an edited step first tries
what is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from distilnb.engine.cache import Key, ReplyCache
from distilnb.engine.inquiry import Find, Inquiry, as_replies, seek_all
from distilnb.engine.reasking import reask_key
from distilnb.llms.parts import Standing
from distilnb.llms.request import Reply
from distilnb.rows import Row
from distilnb.tasks.base import Task

CacheMode = Literal["on", "off", "refresh"]


def choose_attempts(
    cache: ReplyCache,
    mode: CacheMode,
    task: Task,
    row: Row,
    inquiry: Inquiry,
    attempt: int,
    n_reasks: int = 0,
    *,
    again: bool,
) -> None:
    """Find out for each reply of a row, asked anew, under which attempt it is or is to be kept, and look it up.

    `attempt` is how often a retry has raised that of the row, `n_reasks` how often each reply may be asked for again
    when it does not have its shape.
    """
    if mode == "off":
        inquiry.attempts = [attempt] * len(inquiry.parts)
        return

    def find(keys: Sequence[Key]) -> dict[Key, Reply]:
        return _find(cache, mode, keys, again=False)

    scratch = inquiry.copy()
    for place in range(len(inquiry.parts)):
        inquiry.attempts[place] = attempt
        for tried in range(attempt):
            scratch.try_attempt(place, tried)
            seek_all([scratch], find)
            if not _is_used_up(task, row, scratch, place, n_reasks, find):
                inquiry.attempts[place] = tried
                inquiry.told.add(place)
                break
    known = {**scratch.replies, **{key: Reply(why) for key, why in scratch.marks.items()}}
    while found := {key: known[key] for key in inquiry.unknown() if key in known}:
        inquiry.take(found)
    seek_all([inquiry], lambda keys: _find(cache, mode, keys, again=again))


def _is_used_up(task: Task, row: Row, scratch: Inquiry, place: int, n_reasks: int, find: Find) -> bool:
    """Whether an attempt, and all re-asks for what it brought, were answered and brought nothing usable."""
    stands = scratch.look(place)
    if not isinstance(stands, Standing):
        return False  # it is asked there
    if _is_usable(task, row, stands.reply):
        return False
    keys = [reask_key(stands.key, number) for number in range(1, n_reasks + 1)]
    found = find(keys)
    # What follows the last one that was answered is asked there too.
    return all(key in found and not _is_usable(task, row, found[key]) for key in keys)


def find_bought(cache: ReplyCache, mode: CacheMode, keys: Sequence[Key], *, again: bool) -> dict[Key, Reply]:
    """Return the replies that a row may use: in a run that refreshes, those that a killed worker has bought for it."""
    if mode == "on":
        return cache.find(keys, again=again)
    return _find(cache, mode, keys, again=True) if mode == "refresh" and again else {}


def notes_to_keep(cache: ReplyCache, mode: CacheMode, marks: Mapping[Key, str]) -> list[tuple[Key, Reply]]:
    """Return what is to be kept of who stands in for whom.

    A run that refreshes takes back what earlier ones have noted: later runs would find the backup's old reply in
    place of the one that this run has paid for.
    """
    stale = [key for key, why in marks.items() if not why] if mode == "refresh" else []
    known = cache.find(stale) if stale else {}
    return as_replies({key: why for key, why in marks.items() if why or key in known})


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

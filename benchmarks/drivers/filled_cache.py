"""A reply cache with a million entries, and how long it takes to look up a batch in it."""

from __future__ import annotations

import asyncio
import random
import statistics
import time

from distilnb.engine.cache import ReplyCache, reply_key
from distilnb.llms.request import Reply

_BATCH = 1000
_N_LOOKUPS = 20
_PER_COMMIT = 20_000
_TEXT = "a reply of about two hundred characters " * 5


def lookup_times(n_entries: int) -> dict[str, float]:
    """Fill the cache of this DISTILNB_HOME and return the median and the worst time of a lookup, in seconds.

    A batch is 1,000 keys drawn at random, half of them known.
    """
    began = time.perf_counter()
    cache = ReplyCache()
    asyncio.run(_fill(cache, n_entries))
    filled_s = time.perf_counter() - began
    chance = random.Random(0)
    taken = []
    for _ in range(_N_LOOKUPS):
        keys = [_key(number) for number in chance.sample(range(2 * n_entries), _BATCH)]
        began = time.perf_counter()
        found = cache.find(keys)
        taken.append(time.perf_counter() - began)
        assert 0 < len(found) < _BATCH
    size_mb = cache.path.stat().st_size / 2**20
    cache.close()
    return {
        "fill_s": filled_s,
        "lookup_s": statistics.median(taken),
        "worst_lookup_s": max(taken),
        "cache_mb": size_mb,
    }


async def _fill(cache: ReplyCache, n_entries: int) -> None:
    reply = Reply(_TEXT, "stop", "mock-model", 50, 50)
    for start in range(0, n_entries, _PER_COMMIT):
        numbers = range(start, min(start + _PER_COMMIT, n_entries))
        await cache.keep([(_key(number), reply) for number in numbers])


def _key(number: int) -> bytes:
    return reply_key(number.to_bytes(8, "big"), index=0, repeat=0, attempt=0)

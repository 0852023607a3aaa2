"""How much may be under way with one model: concurrency that adapts, requests and tokens per minute."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiolimiter import AsyncLimiter

SHRINK = 0.8  # what a refusal leaves of the limit
SHRINK_INTERVAL_S = 0.2  # refusals of one burst count once


class Gate:
    """Slots for the requests to one model, in one event loop.

    The number of slots adapts between 1 and `max_concurrency`: a refusal (HTTP 429) takes a fifth away, a
    success gives 1/limit back, so that about one slot returns per round of requests. `rpm` and `tpm` hold in
    every minute, the first too: a twentieth of the requests and a tenth of the tokens may go at once, the
    rest is spread.
    """

    def __init__(self, max_concurrency: int, *, rpm: int | None = None, tpm: int | None = None) -> None:
        self.max_concurrency = max_concurrency
        self.limit = float(max_concurrency)
        self.rejected = 0
        self._taken = 0
        self._pacing = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._requests = _pace(rpm, max(1, (rpm or 0) // 20))
        self._tokens = _pace(tpm, max(1, (tpm or 0) // 10))
        self._tpm = tpm or 0
        self._token_turn = asyncio.Lock()
        self._last_shrink_s = float("-inf")

    @property
    def in_flight(self) -> int:
        """The number of requests that hold a slot and do not wait for the minute's limits."""
        return self._taken - self._pacing

    @property
    def counts_tokens(self) -> bool:
        """Whether `tokens` makes a difference to `enter`."""
        return self._tokens is not None

    @asynccontextmanager
    async def slot(self, tokens: int = 0) -> AsyncIterator[None]:
        """Hold a slot for the length of an `async with` block; `tokens`: about what the request uses."""
        await self.enter(tokens)
        try:
            yield
        finally:
            self.leave()

    async def enter(self, tokens: int = 0) -> None:
        """Wait for a slot, in order of arrival, and take it."""
        if self._queue or self._taken >= int(self.limit):
            await self._wait_in_line()
        else:
            self._taken += 1
        if self._requests is not None or self._tokens is not None:
            await self._pace_in_slot(tokens)

    def leave(self) -> None:
        """Give a slot back."""
        self._taken -= 1
        self._let_in()

    def refused(self) -> None:
        """Note that the server asked for fewer requests."""
        self.rejected += 1
        now_s = asyncio.get_running_loop().time()
        if now_s - self._last_shrink_s >= SHRINK_INTERVAL_S:
            self._last_shrink_s = now_s
            self.limit = max(1.0, self.limit * SHRINK)

    def succeeded(self) -> None:
        """Note that the server answered."""
        if self.limit < self.max_concurrency:
            self.limit = min(float(self.max_concurrency), self.limit + 1 / self.limit)
            self._let_in()

    def _let_in(self) -> None:
        while self._queue and self._taken < int(self.limit):
            first = self._queue.popleft()
            if not first.done():
                self._taken += 1  # here, not where it wakes up: nobody may overtake it
                first.set_result(None)

    async def _wait_in_line(self) -> None:
        place = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # it was let in and cancelled in the same turn
                self.leave()
            elif place in self._queue:
                self._queue.remove(place)
            raise

    async def _pace_in_slot(self, tokens: int) -> None:
        self._pacing += 1
        try:
            if self._requests is not None:
                await self._requests.acquire()
            if self._tokens is not None and tokens > 0:
                await self._acquire_tokens(self._tokens, min(tokens, self._tpm))
        except BaseException:
            self.leave()
            raise
        finally:
            self._pacing -= 1

    async def _acquire_tokens(self, limiter: AsyncLimiter, tokens: float) -> None:
        # One at a time, or the limiter's heap would let small requests overtake large ones for ever; in
        # portions, because it refuses more than it holds.
        async with self._token_turn:
            while tokens > 0:
                portion = min(tokens, limiter.max_rate)
                await limiter.acquire(portion)
                tokens -= portion


def _pace(per_minute: int | None, at_once: int) -> AsyncLimiter | None:
    """Return a limiter that lets `at_once` through and then the rest evenly, `per_minute` in any minute."""
    if per_minute is None:
        return None
    per_second = max(1, per_minute - at_once + 1) / 60
    return AsyncLimiter(at_once, at_once / per_second)

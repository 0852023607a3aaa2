"""How much may be under way with one model: concurrency that adapts, requests and tokens per minute."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from distilnb.llms.pacing import Pace

SHRINK = 0.8  # what a refusal leaves of the limit
SHRINK_INTERVAL_S = 0.2  # refusals of one burst count once


class Gate:
    """Slots for the requests to one model, in one event loop.

    The number of slots adapts between 1 and `max_concurrency`: a refusal (HTTP 429) takes a fifth away, a
    success gives 1/limit back, so that about one slot returns per round of requests. `rpm` and `tpm` hold in
    every minute, the first too: a twentieth of the requests and a tenth of the tokens may go at once, the
    rest is spread. All three may be changed, and the gate be closed for a pause, while requests wait.
    """

    def __init__(self, max_concurrency: int, *, rpm: int | None = None, tpm: int | None = None) -> None:
        self.max_concurrency = max_concurrency
        self.limit = float(max_concurrency)
        self.rejected = 0
        self._taken = 0
        self._pacing = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._requests = Pace(rpm, share=20)
        self._tokens = Pace(tpm, share=10)
        self._is_paused = False
        self._last_shrink_s = float("-inf")

    @property
    def in_flight(self) -> int:
        """The number of requests that hold a slot and do not wait for the minute's limits."""
        return self._taken - self._pacing

    @property
    def counts_tokens(self) -> bool:
        """Whether `tokens` makes a difference to `enter`."""
        return self._tokens.per_minute is not None

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
        while True:
            if self._queue or self._is_paused or self._taken >= int(self.limit):
                await self._wait_in_line()
            else:
                self._taken += 1
            is_paced = self._requests.per_minute is not None or self.counts_tokens
            if not is_paced or await self._pace_in_slot(tokens):
                return
            self.leave()  # the limits were changed, or the gate was closed: into the line again

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

    # --- while it is in use ---

    def adjust(self, max_concurrency: int, *, rpm: int | None = None, tpm: int | None = None) -> None:
        """Take new limits; who waits goes on waiting under them, who is in flight stays so."""
        is_lower = max_concurrency < self.max_concurrency
        # A limit that refusals have lowered is not raised: the server's word counts more.
        if self.limit >= self.max_concurrency or self.limit > max_concurrency:
            self.limit = float(max_concurrency)
        self.max_concurrency = max_concurrency
        is_changed = False
        for pace, per_minute in ((self._requests, rpm), (self._tokens, tpm)):
            if pace.per_minute != per_minute:
                pace.change(per_minute)
                is_changed = True
        if is_changed or is_lower:
            self._interrupt_pacing()
        self._let_in()

    def pause(self) -> None:
        """Let nobody in any more; who waits for the minute's limits goes back into the line."""
        self._is_paused = True
        self._interrupt_pacing()  # else a long pause would end in a burst

    def resume(self) -> None:
        """Let those in again who wait."""
        self._is_paused = False
        self._let_in()

    def _interrupt_pacing(self) -> None:
        self._requests.interrupt()
        self._tokens.interrupt()

    def _let_in(self) -> None:
        while self._queue and not self._is_paused and self._taken < int(self.limit):
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

    async def _pace_in_slot(self, tokens: int) -> bool:
        """Wait for the minute's limits; False when they were changed meanwhile. The slot is kept but on an error."""
        self._pacing += 1
        try:
            if self._is_paused:
                return False
            return await self._requests.take(1) and await self._tokens.take(tokens)
        except BaseException:
            self.leave()
            raise
        finally:
            self._pacing -= 1

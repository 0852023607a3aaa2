"""How much may be under way with one model: concurrency that adapts, requests and tokens per minute."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from distilnb.llms.pacing import Pace

SHRINK = 0.8  # what a refusal leaves of the limit
GROWTH = 4  # slots that come back per round of requests, below what was refused
TRY_AGAIN_AFTER_S = 2.0  # without a refusal: then a limit that was refused is tried again, a slot per round


class Gate:
    """Slots for the requests to one model, in one event loop.

    The number of slots adapts between 1 and `max_concurrency`. A refusal (HTTP 429) takes a fifth away, once for
    all that was sent before; who was sent after that and is refused too takes another. Successes give slots back,
    quickly up to one below what was refused, and beyond it only after a while without refusals. `rpm` and `tpm`
    hold in every minute, the first too: a twentieth of the requests and a tenth of the tokens may go at once, the
    rest is spread. All three may be changed, and the gate be closed for a pause, while requests wait.
    """

    def __init__(self, max_concurrency: int, *, rpm: int | None = None, tpm: int | None = None) -> None:
        self.max_concurrency = max_concurrency
        self.limit = float(max_concurrency)
        self.rejected = 0
        self.era = 0  # how often refusals have lowered the limit; note it when a request is sent
        self._taken = 0
        self._pacing = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._returning: deque[asyncio.Future[None]] = deque()  # who was let in before: let in again first
        self._requests = Pace(rpm, share=20)
        self._tokens = Pace(tpm, share=10)
        self._is_paused = False
        self._too_many = math.inf  # so many slots were refused, the last time
        self._refused_at_s = -math.inf

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

    async def enter(self, tokens: int = 0, *, returns: bool = False) -> None:
        """Wait for a slot, in order of arrival, and take it; who `returns` goes before those who come first.

        Else what failed once would be asked again behind all that waits, and the last of it when all else is done.
        """
        while True:
            line = self._returning if returns else self._queue
            if line or self._is_paused or self._taken >= int(self.limit):
                await self._wait_in(line)
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

    def refused(self, era: int) -> None:
        """Note that the server asked for fewer requests; `era` is that in which the refused one was sent."""
        self.rejected += 1
        self._refused_at_s = asyncio.get_running_loop().time()
        if era == self.era:  # else it was sent when the limit was higher, and says nothing new
            self.era += 1
            self._too_many = int(self.limit)
            self.limit = max(1.0, self.limit * SHRINK)

    def succeeded(self) -> None:
        """Note that the server answered."""
        if self.limit >= self.max_concurrency:
            return
        most, step = self._too_many - 1, GROWTH / self.limit
        if self.limit >= most:
            if asyncio.get_running_loop().time() - self._refused_at_s < TRY_AGAIN_AFTER_S:
                return
            most, step = math.inf, 1 / self.limit
        self.limit = min(float(self.max_concurrency), most, self.limit + step)
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
        while not self._is_paused and self._taken < int(self.limit):
            line = self._returning or self._queue
            if not line:
                return
            first = line.popleft()
            if not first.done():
                self._taken += 1  # here, not where it wakes up: nobody may overtake it
                first.set_result(None)

    async def _wait_in(self, line: deque[asyncio.Future[None]]) -> None:
        place = asyncio.get_running_loop().create_future()
        line.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # it was let in and cancelled in the same turn
                self.leave()
            elif place in line:
                line.remove(place)
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

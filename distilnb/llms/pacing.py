"""So many requests, or tokens, a minute: a part at once, the rest evenly; the rate may change while some wait."""

from __future__ import annotations

import asyncio

from aiolimiter import AsyncLimiter


class Pace:
    """Lets `per_minute` units through in any minute, the first too: a `share`-th of them at once.

    Who comes first is let through first. None is no limit.
    """

    def __init__(self, per_minute: int | None, *, share: int) -> None:
        self.per_minute = per_minute
        self._share = share
        self._limiter = _limiter(per_minute, share)
        self._turn = (
            asyncio.Lock()
        )  # the limiter's heap would let small requests overtake large ones for ever
        self._n_interrupts = 0
        self._interrupted: asyncio.Future[None] | None = None  # of the one whose turn it is
        self._full_from_s: float | None = None

    def change(self, per_minute: int | None) -> None:
        """Take a new rate, from now on and without a part at once; call `interrupt` for those who wait."""
        self.per_minute = per_minute
        self._limiter = _limiter(per_minute, self._share)
        self._full_from_s = asyncio.get_running_loop().time()

    def interrupt(self) -> None:
        """Let every `take` that waits return False."""
        self._n_interrupts += 1
        if self._interrupted is not None and not self._interrupted.done():
            self._interrupted.set_result(None)

    async def take(self, units: float) -> bool:
        """Wait until so many units may pass; False when it was interrupted and they may not.

        More than a minute's worth counts as a minute's worth.
        """
        n_interrupts = self._n_interrupts
        async with self._turn:
            left = min(units, self.per_minute or 0)
            while left > 0 and self._limiter is not None:
                if self._n_interrupts != n_interrupts:
                    return False
                portion = min(left, self._limiter.max_rate)  # the limiter refuses more than it holds
                if await self._acquire(self._limiter, portion):
                    left -= portion
        return True

    async def _acquire(self, limiter: AsyncLimiter, portion: float) -> bool:
        await self._fill(limiter)
        if limiter.has_capacity(portion):
            await limiter.acquire(portion)  # does not wait
            return True
        acquiring = asyncio.ensure_future(limiter.acquire(portion))
        self._interrupted = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait({acquiring, self._interrupted}, return_when=asyncio.FIRST_COMPLETED)
            return acquiring.done()
        finally:
            acquiring.cancel()
            self._interrupted = None

    async def _fill(self, limiter: AsyncLimiter) -> None:
        """Take what a changed rate would let through at once: the old one has let its own through."""
        since_s, self._full_from_s = self._full_from_s, None
        if since_s is not None and asyncio.get_running_loop().time() - since_s < limiter.time_period:
            await limiter.acquire(limiter.max_rate)


def _limiter(per_minute: int | None, share: int) -> AsyncLimiter | None:
    """Return a limiter that lets a `share`-th through and then the rest evenly, `per_minute` in any minute."""
    if per_minute is None:
        return None
    at_once = max(1, per_minute // share)
    per_second = max(1, per_minute - at_once + 1) / 60
    return AsyncLimiter(at_once, at_once / per_second)

"""Turns: many at a time, or one alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Lets requests in side by side, and one that is suspected of killing its host alone. For one event loop."""

    def __init__(self) -> None:
        self._n_inside = 0
        self._is_taken = False
        self._n_alone = 0  # that wait to be alone: others wait behind them
        self._changed: asyncio.Condition | None = None

    @asynccontextmanager
    async def turn(self, *, is_alone: bool) -> AsyncIterator[None]:
        """Hold a turn for the length of an `async with` block; who comes later than one alone waits behind it."""
        if self._n_alone == 0 and not self._is_taken and not is_alone:  # as good as always
            self._n_inside += 1
        else:
            await self._wait(is_alone=is_alone)
        try:
            yield
        finally:
            self._n_inside -= 1
            self._is_taken = False if is_alone else self._is_taken
            if self._changed is not None:
                async with self._changed:
                    self._changed.notify_all()

    async def _wait(self, *, is_alone: bool) -> None:
        if self._changed is None:
            self._changed = asyncio.Condition()
        self._n_alone += is_alone
        try:
            async with self._changed:
                if is_alone:
                    await self._changed.wait_for(lambda: self._n_inside == 0)
                else:
                    await self._changed.wait_for(lambda: self._n_alone == 0 and not self._is_taken)
                self._n_inside += 1
                self._is_taken = is_alone
        finally:
            self._n_alone -= is_alone

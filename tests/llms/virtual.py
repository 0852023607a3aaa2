"""An event loop whose clock jumps to the next timer, so that a test of minutes takes none."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

TURN_S = 1e-6


class VirtualLoop(asyncio.SelectorEventLoop):
    """Never sleeps: where another loop would wait for a timer, this one moves its clock."""

    def __init__(self) -> None:
        self.now_s = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self.now_s


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._virtual = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everything waits and nothing will ever happen")
        # A turn takes a moment, as on a real clock: who waits for a rounded time would else wait for ever.
        self._virtual.now_s += max(TURN_S, timeout or 0.0) if not ready else TURN_S
        return ready


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in a VirtualLoop."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


def now_s() -> float:
    """Return the virtual time."""
    return asyncio.get_running_loop().time()

"""Waiting for several things at once that have one fate."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence


async def all_or_first_error(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for all; at the first error cancel the rest, wait for their end, and raise it."""
    if not tasks:
        return
    try:
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    errors = [
        error for task in done if (error := task.exception()) is not None
    ]  # of all, or asyncio complains
    if errors:
        raise errors[0]


async def either(*events: asyncio.Event) -> None:
    """Wait until one of several events is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()

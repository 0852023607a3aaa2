"""Waiting for several things at once that have one fate."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from distilnb.engine.asked import FatalModelError
from distilnb.engine.rendering import model_of
from distilnb.errors import ModelError
from distilnb.tasks.base import Task


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
    # Of all, also behind the first: asyncio complains of an error that nobody looked at.
    errors = [error for task in done if (error := task.exception()) is not None]
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


async def probe_first(task: Task, waiting: Sequence[asyncio.Task[None]]) -> None:
    """Raise FatalModelError when nothing listens, before every row finds out by itself; what waits is given up."""
    try:
        await asyncio.get_running_loop().run_in_executor(None, model_of(task).probe)
    except ModelError as error:
        for work in waiting:
            work.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        raise FatalModelError(task.name, error) from error

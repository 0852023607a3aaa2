"""One connection to a model host: what was asked and is not answered yet, and how the host says it stands."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Any

from distilnb.errors import ModelError, ModelLoadError
from distilnb.llms.hosts.messages import Message, encode, read_error, read_message
from distilnb.llms.hosts.place import Place

TICK_S = 1.0
SILENT_TICKS = 180  # without a word from a host that is awaited, until it is taken for stuck and killed


class HostGone(Exception):
    """The host hung up. `said_bye`: it was told to leave; else it died. `pid` is 0 for one that never listened."""

    def __init__(self, *, said_bye: bool, pid: int = 0) -> None:
        super().__init__(said_bye, pid)
        self.said_bye = said_bye
        self.pid = pid


class Link:
    """A connection to a host, for one event loop."""

    def __init__(
        self,
        place: Place,
        pid: int,
        provider: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.place = place
        self.pid = pid
        self.words = "starting"  # what the host does, as it says itself
        self.is_ready = False
        self._provider = provider
        self._reader = reader
        self._writer = writer
        self._said_bye = False
        self._failure: ModelError | None = None
        self._n_silent = 0
        self._still = (0.0, 0.0)  # how long the engine had not moved, when it was told
        self._beaten = asyncio.Event()
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listening = asyncio.ensure_future(self._listen())
        self._ticking = asyncio.ensure_future(self._tick())

    @classmethod
    async def open(cls, place: Place, provider: str, keep_alive_s: float) -> Link:
        """Connect to the host of a place and say hello; raises HostGone where none listens."""
        info = place.info()
        try:
            if info is None:
                raise FileNotFoundError
            reader, writer = await asyncio.open_unix_connection(info.socket)
        except OSError as error:
            if info is not None and info.state in (
                "starting",
                "loading",
            ):  # it listened, and died before we came
                raise HostGone(said_bye=False, pid=info.pid) from error
            raise HostGone(said_bye=True) from error
        link = cls(place, info.pid, provider, reader, writer)
        link.say({"do": "hello", "keep_alive": keep_alive_s})
        return link

    @property
    def is_open(self) -> bool:
        """Whether the host has not hung up, nor is about to."""
        return not self._listening.done() and not self._said_bye

    @property
    def still_s(self) -> float:
        """How long the engine has not moved, although it has something to do."""
        still_s, told_at = self._still
        return still_s + asyncio.get_running_loop().time() - told_at if still_s else 0.0

    async def is_stuck(self, limit_s: float) -> bool:
        """Whether the engine has not moved for so long, by what the host says next: its last word may be old."""
        if self.still_s < limit_s:
            return False
        self._beaten.clear()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._beaten.wait(), 3 * TICK_S)
        return self.is_open and self.still_s >= limit_s

    def say(self, message: Message) -> None:
        """Send a message; that the host is gone is told to those who wait."""
        self._writer.write(encode(message))

    async def loaded(self) -> None:
        """Wait until the model is loaded; raises HostGone, or the ModelError that the host met."""
        await asyncio.shield(self._loaded)

    async def ask(self, question: Message) -> Message:
        """Send a question and wait for its answer; raises HostGone, or the ModelError that it brought."""
        if not self.is_open:
            raise HostGone(said_bye=True)
        number = next(self._numbers)
        future = self._answers[number] = asyncio.get_running_loop().create_future()
        self.say({"do": "ask", "id": number, **question})
        try:
            answer: Message = await future
            return answer
        except asyncio.CancelledError:
            if self.is_open:
                self.say({"do": "cancel", "id": number})
            raise
        finally:
            self._answers.pop(number, None)

    def kill_host(self) -> None:
        """Kill a host that is stuck; whoever waits for it is told that it is gone."""
        self.place.kill()
        self._writer.transport.abort()

    async def close(self) -> None:
        """Hang up."""
        for task in (self._listening, self._ticking):
            task.cancel()
        await asyncio.gather(self._listening, self._ticking, return_exceptions=True)
        self._writer.close()

    # --- what the host says ---

    async def _listen(self) -> None:
        try:
            while (message := await read_message(self._reader)) is not None:
                self._n_silent = 0
                self._take(message)
        finally:
            self._end()

    def _take(self, message: Message) -> None:
        kind = message["say"]
        if kind == "answer":
            self._settle(message["id"], message)
        elif kind == "error":
            self._settle(message["id"], read_error(message, self._provider))
        elif kind == "beat":
            self._still = (message["still_s"], asyncio.get_running_loop().time())
            self._beaten.set()
        elif kind == "state":
            self.words, self.is_ready = message["what"], message["state"] == "ready"
            if self.is_ready and not self._loaded.done():
                self._loaded.set_result(None)
        elif kind == "failed":
            self._failure = read_error(message, self._provider, ModelLoadError)
        elif kind == "bye":
            self._said_bye = True

    def _settle(self, number: int, outcome: Message | ModelError) -> None:
        future = self._answers.get(number)
        if future is None or future.done():  # nobody waits for it any more
            return
        if isinstance(outcome, ModelError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def _end(self) -> None:
        self._ticking.cancel()
        self._writer.close()
        waiting: list[asyncio.Future[Any]] = [self._loaded, *self._answers.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(self._failure or HostGone(said_bye=self._said_bye, pid=self.pid))
        if not self._loaded.cancelled():
            self._loaded.exception()  # it may be that nobody waits for it

    async def _tick(self) -> None:
        # By ticks and not by the clock: while a machine sleeps neither side can speak.
        while True:
            await asyncio.sleep(TICK_S)
            if not self._loaded.done() or self._answers:
                self._n_silent += 1
            if self._n_silent >= SILENT_TICKS:
                self.kill_host()
                return

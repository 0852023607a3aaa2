"""The client of a model host: it starts one where none lives, and asks again what a dead one took along."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distilnb.errors import HostDiedError, ModelLoadError, RequestTimeoutError
from distilnb.llms.hosts.link import HostGone, Link
from distilnb.llms.hosts.messages import Message, dump_shape
from distilnb.llms.hosts.place import Place
from distilnb.llms.hosts.starting import HostSpec, ensure_host
from distilnb.llms.hosts.turns import Turns
from distilnb.llms.request import Answer, Reply, Request
from distilnb.llms.shape import PROMPT, told

LOAD_DEATHS = 3  # of hosts one after the other that died before they had loaded the model: the next would too
# A request that was there at so many deaths is asked alone, so that the one which kills the host is found.
SUSPECT_AFTER = 2
STUCK_SHARE = 0.9  # of the time of a request: an engine that did nothing for so long will not do any more
_MISSES = 50  # of a host that went between being seen and being spoken to


@dataclass
class HostClient:
    """Sends requests to the host of a model. Used from one event loop.

    `timeout_s` is for one request, from when the model is loaded; starting and loading take what they take.
    """

    spec: HostSpec
    provider: str
    model: str
    parameters: Mapping[str, Any]
    timeout_s: float
    keep_alive_s: float
    _link: Link | None = None
    _opening: asyncio.Task[Link] | None = None
    _place: Place | None = None
    _turns: Turns = field(default_factory=Turns)

    @property
    def words(self) -> str:
        """What the host does while requests wait for it ("loading the model"); "" when they need not."""
        if self._opening is None or self._opening.done():
            return ""
        return self._link.words if self._link is not None else "starting"

    async def send(self, request: Request) -> Answer:
        """Ask the host, which is started when none lives.

        Raises ModelLoadError when the model cannot be loaded; HostDiedError when the host dies of this request;
        RequestTimeoutError; and what the engine says of the request.
        """
        messages = request.messages
        if request.shape is not None and request.mode not in ("", PROMPT):
            messages = told(
                messages, request.shape
            )  # what is forced on a model that was not told makes no sense
        question: Message = {
            "messages": list(messages),
            "n": request.n,
            "first": request.first,
            "shape": dump_shape(request.shape),
            "mode": request.mode,
            "parameters": self.parameters,
        }
        n_deaths = 0
        while True:
            is_suspect = n_deaths >= SUSPECT_AFTER
            async with self._turns.turn(is_alone=is_suspect):
                try:
                    link = await self._linked()
                    return self._read(await self._ask_in_time(link, question))
                except HostGone as gone:
                    if gone.said_bye:
                        continue
                    n_deaths += 1
                    if is_suspect:
                        raise HostDiedError(
                            f"The host of {self.spec.label} died {n_deaths} times while it was at this request; "
                            f"the last lines of its log:\n{self._log_tail()}",
                            "Change what is special about this row, or lower max_new_tokens.",
                            provider=self.provider,
                        ) from gone

    async def close(self) -> None:
        """Hang up; the host stays for others."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._link is not None:
            await self._link.close()

    async def _ask_in_time(self, link: Link, question: Message) -> Message:
        asking = asyncio.ensure_future(link.ask(question))
        try:
            await asyncio.wait([asking], timeout=self.timeout_s)
            # It is called off only when the host was asked: one that has nothing to do does not tell that it is stuck.
            if not asking.done() and await link.is_stuck(STUCK_SHARE * self.timeout_s):
                link.kill_host()
                raise HostGone(said_bye=False)
            if asking.done():
                return asking.result()
        finally:
            if not asking.done():
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
        raise RequestTimeoutError(
            f"{self.spec.label} did not answer within {self.timeout_s:g} s.",
            "Raise timeout=, or lower max_new_tokens or max_concurrency.",
            provider=self.provider,
        )

    def _read(self, message: Message) -> Answer:
        completions = message["completions"]
        replies = tuple(
            Reply(
                one["text"],
                one["finish_reason"],
                self.model,
                message["input_tokens"] if index == 0 else 0,
                one["output_tokens"],
            )
            for index, one in enumerate(completions)
        )
        logprobs = [one["logprobs"] for one in completions]
        return Answer(replies, extra={"logprobs": logprobs} if any(logprobs) else {})

    # --- a host that is ready ---

    async def _linked(self) -> Link:
        """Return a link to a host that has loaded the model; all who need one wait for the same."""
        if self._link is not None and self._link.is_open and self._link.is_ready:
            return self._link
        if self._opening is None or self._opening.done():
            self._opening = asyncio.ensure_future(self._open())
            # All who wait may have given up when it fails: nobody else asks for its error then.
            self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._opening)  # one who gives up must not take it from the others

    async def _open(self) -> Link:
        dead: set[int] = set()
        n_deaths = n_misses = 0
        while n_deaths < LOAD_DEATHS and n_misses < _MISSES:
            try:
                await self._reach()
                assert self._link is not None
                await self._link.loaded()
            except HostGone as gone:
                # While the system takes a dead one apart its socket may still accept: that is no second death.
                is_death = not gone.said_bye and gone.pid not in dead
                if gone.pid:
                    dead.add(gone.pid)
                n_deaths += is_death
                n_misses += not is_death
            else:
                return self._link
        raise ModelLoadError(
            f"The host of {self.spec.label} died {n_deaths} times before it had loaded the model; "
            f"the last lines of its log:\n{self._log_tail()}",
            "Where the log tells no more, memory may have run out: look at the system's log (dmesg).",
            provider=self.provider,
        )

    async def _reach(self) -> None:
        if self._link is not None:
            await self._link.close()
            self._link = None
        loop = asyncio.get_running_loop()
        self._place = await loop.run_in_executor(None, self.spec.place)
        if not await loop.run_in_executor(None, ensure_host, self.spec, self._place):
            raise HostGone(said_bye=False)
        self._link = await Link.open(self._place, self.provider, self.keep_alive_s)

    def _log_tail(self) -> str:
        return self._place.log_tail() if self._place is not None else ""

"""Asking for many texts with one request: what waits in the same turn of the event loop shares one.

Each row asks for its own text, and has its own place in the reply cache, the budget and the retries' count. Only what
goes over the wire is joined: a slot, a request per minute and a pause before a retry are those of the whole request.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from distilnb.errors import MalformedReplyError, ModelError
from distilnb.llms.calling import Asking, Caller, OwnTask, Waits
from distilnb.llms.limits import Gate
from distilnb.llms.request import Answer, Before, Client, Request

FAILED_ALONE = (
    2  # texts answered wrongly by themselves, and none rightly: then one of each other part is tried
)


class GatheringCaller(Caller):
    """Asks a model whose requests take up to `texts_per_request` texts; `max_concurrency` counts requests.

    A request that fails for a while is sent again whole. One that is refused for what it holds, or answered with
    another number of vectors than it has texts, is halved until the text is found that the server does not take: the
    others get their replies. Where texts of every part are answered wrongly by themselves, and none rightly, it is the
    server, and the rest is given up.
    """

    def __init__(self, client: Client, gate: Gate, *, max_retries: int = 6, texts_per_request: int) -> None:
        super().__init__(client, gate, max_retries=0)  # a row's own retries are below
        self._texts_per_request = texts_per_request
        self._max_failures = max_retries
        self._shares: list[_Share] = []
        self._parcels: set[asyncio.Task[None]] = set()
        self._mean_output_tokens = 0.0  # a vector has none

    def asking(self, request: Request, *, before: Before | None = None) -> Asking:
        """Ask as `Caller` does; `request` is for one reply."""
        return _SharedAsking(self, request, before)

    async def close(self) -> None:
        """Close the client's connections; what is on its way is given up."""
        for parcel in list(self._parcels):
            parcel.cancel()
        await asyncio.gather(*self._parcels, return_exceptions=True)
        await super().close()

    async def obtain_share(self, request: Request, before: Before | None) -> tuple[Answer, _Parcel]:
        """Return the answer to one text, and the parcel that holds its slot until all in it have left."""
        waits, n_failed = Waits(), 0
        task = asyncio.current_task()
        try:
            while True:
                self._waiting.add(task)
                self._raise_if_broken()
                # Here, and not where the parcel has its slot: one that waits for the budget would hold up those
                # for whose end it waits.
                if before is not None and (ready := before()) is not None:
                    await ready
                share = self._join(request, task)
                try:
                    answer = await share.answer()
                    assert share.parcel is not None  # it brought the answer
                    return answer, share.parcel
                except ModelError as error:
                    n_failed += 1
                    if not error.retryable or n_failed > self._max_failures or self._is_stopped:
                        raise
                    self.retries += 1
                    self._waiting.add(task)
                    assert share.parcel is not None  # only a parcel fails its shares
                    await share.parcel.pause(waits.after(error))
        finally:
            self._waiting.discard(task)

    def _join(self, request: Request, task: asyncio.Task[object] | None) -> _Share:
        loop = asyncio.get_running_loop()
        if not self._shares:
            loop.call_soon(self._send_gathered)
        share = _Share(request, loop.create_future(), task)
        self._shares.append(share)
        return share

    def _send_gathered(self) -> None:
        gathered = [share for share in self._shares if not share.future.done()]
        self._shares = []
        size = self._texts_per_request
        for start in range(0, len(gathered), size):
            parcel = _Parcel(gathered[start : start + size])
            sending = asyncio.ensure_future(self._send_parcel(parcel))
            self._parcels.add(sending)
            sending.add_done_callback(self._parcels.discard)

    async def _complete(
        self, request: Request, answer: Answer, before: Before | None, task: OwnTask
    ) -> Answer:
        """Refuse an answer that has not one reply for each text: nobody could tell whose is missing."""
        self.gate.leave()
        error = MalformedReplyError(
            f"The model answered {request.n} texts of one request with {len(answer.replies)} vectors.",
            "Lower batch_size=, or see the server's log.",
        )
        error.retryable = False  # it would answer the same again; each half may do
        raise error

    async def _send_parcel(self, parcel: _Parcel) -> None:
        parts = [parcel]  # to be sent, the next one last
        n_alone, most_alone, has_answer = 0, FAILED_ALONE, False
        try:
            while parts:
                part = parts.pop()
                error = await self._send_part(part)
                has_answer = has_answer or error is None
                if error is None:
                    continue
                if len(part.shares) > 1 and self._may_do_in_halves(error):
                    parts += reversed(part.halves())
                    continue
                part.fail(error)
                n_alone += len(part.shares) == 1 and isinstance(error, MalformedReplyError)
                if has_answer or n_alone < most_alone:
                    continue
                if most_alone > FAILED_ALONE:
                    for rest in parts:
                        rest.fail(error)
                    return
                singles = [one.take_first() for one in parts]
                parts = [one for one in parts if one.shares] + singles[
                    ::-1
                ]  # the largest part's is sent first
                most_alone += len(singles)
        except asyncio.CancelledError:
            parcel.cancel()
            raise

    async def _send_part(self, part: _Parcel) -> Exception | None:
        """Send texts together, and return once those who got a reply have left; or what they failed with."""
        try:
            async with Asking(self, part.request(), part.note_sending(self._waiting)) as answer:
                part.share_out(answer)
                await part.left()
        except Exception as error:  # noqa: BLE001 - a client's defect too is raised where the replies are awaited
            return error
        return None

    def _may_do_in_halves(self, error: Exception) -> bool:
        is_passing = not isinstance(error, ModelError) or error.retryable or error.fatal
        return not (is_passing or self._is_stopped)


@dataclass(eq=False)
class _Share:
    """One text that waits, and what it gets."""

    request: Request
    future: asyncio.Future[Answer]
    task: asyncio.Task[object] | None  # that waits for it
    parcel: _Parcel | None = None

    async def answer(self) -> Answer:
        try:
            return await self.future
        except asyncio.CancelledError:
            if self.future.done() and not self.future.cancelled() and self.parcel is not None:
                self.parcel.leave()  # it was answered and given up in the same turn
            raise


@dataclass(eq=False)
class _Parcel:
    """Texts that share a request; it keeps its slot until each of them has made its reply durable."""

    shares: Sequence[_Share]
    _n_inside: int = 0
    _empty: asyncio.Event = field(default_factory=asyncio.Event)
    _pause: asyncio.Future[None] | None = None

    def __post_init__(self) -> None:
        for share in self.shares:
            share.parcel = self

    def request(self) -> Request:
        """Return the request for all: a message of each, and as many replies."""
        first = self.shares[0].request
        messages = tuple(message for share in self.shares for message in share.request.messages)
        return replace(first, messages=messages, n=len(self.shares))

    def note_sending(self, waiting: set[asyncio.Task[object] | None]) -> Before:
        """Return what is called when the parcel has its slot: a stop lets what is sent come to its end."""

        def sending(*, is_further: bool = False) -> None:
            for share in self.shares:
                waiting.discard(share.task)

        return sending

    def share_out(self, answer: Answer) -> None:
        for share, reply in zip(self.shares, answer.replies, strict=True):
            if not share.future.done():
                self._n_inside += 1
                share.future.set_result(replace(answer, replies=(reply,)))

    def fail(self, error: BaseException) -> None:
        for share in self.shares:
            if not share.future.done():
                # A copy each: every raise lengthens the traceback of the one.
                share.future.set_exception(copy.copy(error))

    def cancel(self) -> None:
        for share in self.shares:
            share.future.cancel()

    def halves(self) -> list[_Parcel]:
        middle = len(self.shares) // 2
        return [_Parcel(half) for half in (self.shares[:middle], self.shares[middle:])]

    def take_first(self) -> _Parcel:
        """Take the first text out, and return it as a parcel of its own."""
        first, self.shares = self.shares[:1], self.shares[1:]
        return _Parcel(first)

    async def left(self) -> None:
        """Wait until all who got a reply have left."""
        if self._n_inside:
            await self._empty.wait()

    def leave(self) -> None:
        self._n_inside -= 1
        if not self._n_inside:
            self._empty.set()

    async def pause(self, seconds: float) -> None:
        """Wait before a retry: all of a parcel as long as the first, so that they share a request again."""
        loop = asyncio.get_running_loop()
        if self._pause is None:
            ended = self._pause = loop.create_future()
            loop.call_later(seconds, _end, ended)
        await asyncio.wait([self._pause])


def _end(pause: asyncio.Future[None]) -> None:
    if not pause.done():
        pause.set_result(None)


class _SharedAsking(Asking):
    """One text's part of a request: held until its block ends."""

    __slots__ = ("_parcel",)

    def __init__(self, caller: GatheringCaller, request: Request, before: Before | None) -> None:
        super().__init__(caller, request, before)
        self._parcel: _Parcel | None = None

    async def __aenter__(self) -> Answer:
        assert isinstance(self._caller, GatheringCaller)
        answer, self._parcel = await self._caller.obtain_share(self._request, self._before)
        return answer

    async def __aexit__(self, *_: object) -> None:
        if self._parcel is not None:
            self._parcel.leave()

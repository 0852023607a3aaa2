"""Asking with care: a slot, retries, a circuit breaker; and one question asked now, from anywhere."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from distilnb.errors import MalformedReplyError, ModelError, RateLimitError, RequestTimeoutError
from distilnb.llms.fitting import asked_again
from distilnb.llms.images import IMAGE_TOKENS, images_in, shown
from distilnb.llms.ladder import Ladder, Modes, no_modes
from distilnb.llms.limits import Gate
from distilnb.llms.parts import Consulted, Part, consult
from distilnb.llms.request import Answer, Before, Client, Message, Reply, Request
from distilnb.llms.resting import Rest
from distilnb.llms.shape import ReplyShape

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState

OwnTask: TypeAlias = "asyncio.Task[object] | None"  # that asks

FIRST_WAIT_S = (0.05, 0.5)  # before a retry; the upper end doubles with each
LONGEST_WAIT_S = 8.0
POLL_S = 0.1  # a longer wait would not see Ctrl-C on Windows
GIVE_UP_S = 5.0  # for a client that does not end when it is cancelled
N_TIMED = 64  # answers whose time is kept, for an estimate
MAX_EMPTY_ANSWERS = 2  # in a row, when a server returns fewer replies than asked


class Model(Protocol):
    """What calling needs to know of an LLM."""

    @property
    def max_concurrency(self) -> int: ...
    @property
    def rpm(self) -> int | None: ...
    @property
    def tpm(self) -> int | None: ...
    @property
    def max_retries(self) -> int: ...
    @property
    def label(self) -> str: ...
    def identity(self) -> dict[str, Any]: ...
    def make_client(self) -> Client: ...
    def make_caller(self, gate: Gate) -> Caller | None: ...
    def shape_modes(self, shape: ReplyShape) -> tuple[str, ...]: ...
    def parts(self, request: Request) -> Sequence[Part[Any]]: ...
    def check(self) -> None: ...
    def probe(self) -> None: ...


class Caller:
    """Asks one model from one event loop, through a gate, until it answers.

    `asked` counts requests sent, `retries` those of them that repeat one that failed, `rejected_429` the
    refusals. `timeout_s` is for a client that keeps no time limit of its own; ours do, at no cost. `modes` are the
    ways in which the model can be made to keep to a shape; one that its server refuses is not tried again.
    """

    def __init__(
        self,
        client: Client,
        gate: Gate,
        *,
        max_retries: int = 6,
        timeout_s: float | None = None,
        modes: Modes = no_modes,
    ) -> None:
        self.client = client
        self.gate = gate
        self.asked = 0
        self.retries = 0
        self.rejected_429 = 0
        self.rest = Rest()
        self.reply_seconds: deque[float] = deque(maxlen=N_TIMED)  # of the last requests that were answered
        self._max_retries = max_retries
        self._timeout_s = timeout_s
        self._ladder = Ladder(modes)
        self._breaker: ModelError | None = None
        self._is_stopped = False
        self._waiting: set[OwnTask] = set()  # that hold no request which was sent
        self._mean_output_tokens = 256.0

    @classmethod
    def of(cls, model: Model) -> Caller:
        """Make a caller with the model's own client and limits, for the running event loop."""
        gate = Gate(model.max_concurrency, rpm=model.rpm, tpm=model.tpm)
        if (own := model.make_caller(gate)) is not None:
            return own
        return cls(model.make_client(), gate, max_retries=model.max_retries, modes=model.shape_modes)

    def asking(self, request: Request, *, before: Before | None = None) -> Asking:
        """Ask, and hold the slot until the block ends, so that the reply can be made durable in it.

        `before` is called, and what it returns awaited, whenever the request has its slot and is about to be sent; what
        it raises calls the request off (a budget that is used up).

        The answer has `request.n` replies, or fewer when the server returned none twice in a row. Raises the
        last ModelError when retries are used up, at once when it is not retryable, and without asking when an
        earlier one was fatal (a wrong key): then every request would fail.
        """
        return Asking(self, request, before)

    def stop(self) -> None:
        """Wait for nothing any more: requests that were not sent are cancelled, failed ones are not repeated.

        Those that are on their way end as they would.
        """
        self._is_stopped = True
        for task in self._waiting:
            if task is not None:
                task.cancel()

    def try_again(self) -> None:
        """Forget that the model refused every request: the cause may be mended."""
        self._breaker = None
        self.rest = Rest()

    async def close(self) -> None:
        """Close the client's connections."""
        await self.client.close()

    # Everything below takes or keeps a slot when it returns, and holds none when it raises.

    async def _obtain(self, request: Request, before: Before | None) -> Answer:
        """Ask until there is an answer; `stop` may cancel the task meanwhile, but while it is being sent."""
        task = asyncio.current_task()
        self._waiting.add(task)
        try:
            await self._enter(request, before)
            answer = await self._persist(request, before, task)
            if len(answer.replies) != request.n:
                answer = await self._complete(request, answer, before, task)
            self.rest.answered()
            return answer
        except ModelError as error:
            self.rest.failed(error, is_given_up=True)
            raise
        finally:
            self._waiting.discard(task)

    async def _complete(
        self, request: Request, answer: Answer, before: Before | None, task: OwnTask
    ) -> Answer:
        """Ask for the replies that a server left out: some ignore n and return one."""
        replies = answer.replies
        n_empty = 0 if replies else 1
        while len(replies) < request.n and n_empty < MAX_EMPTY_ANSWERS:
            try:
                if before is not None and (waits := before(is_further=True)) is not None:
                    await waits
            except BaseException:
                self.gate.leave()
                raise
            rest = replace(request, n=request.n - len(replies), first=request.first + len(replies))
            more = await self._persist(rest, before, task)
            n_empty = 0 if more.replies else n_empty + 1
            replies += more.replies
        if not replies:
            self.gate.leave()
            raise MalformedReplyError("The model answered twice without any reply.", "See the server's log.")
        return replace(answer, replies=replies[: request.n])

    async def _persist(self, request: Request, before: Before | None, task: OwnTask) -> Answer:
        """Send in the slot that is held; on a failure that may pass, wait outside and send again."""
        try:
            return await self._send(request, before, task)
        except ModelError as error:
            if not error.retryable or self._max_retries == 0 or self._is_stopped:
                raise
            first_failure = error
        return await self._retry(request, first_failure, before, task)

    async def _retry(
        self, request: Request, failure: ModelError, before: Before | None, task: OwnTask
    ) -> Answer:
        # The first attempt of the loop is the one that has failed already: so tenacity is set up only then.
        pending: ModelError | None = failure
        async for attempt in _retrying(self._max_retries + 1):
            with attempt:
                if pending is not None:
                    again, pending = pending, None
                    raise again
                try:
                    await self._enter(request, before, returns=True)
                    self.retries += 1
                    return await self._send(request, before, task)
                except ModelError as error:  # it may be what another request has met
                    error.paid = failure.paid = max(failure.paid, error.paid)
                    raise
        raise failure  # the loop ends by returning or raising; this is for the type checker

    async def _enter(self, request: Request, before: Before | None, *, returns: bool = False) -> None:
        self._raise_if_broken()
        tokens = self._estimate_tokens(request) if self.gate.counts_tokens else 0
        await self.gate.enter(tokens, returns=returns)
        try:
            self._raise_if_broken()  # it may have happened while this one stood in line
            if before is not None and (waits := before()) is not None:
                await waits
        except BaseException:
            self.gate.leave()
            raise

    async def _send(self, request: Request, before: Before | None, task: OwnTask) -> Answer:
        era = self.gate.era
        self._waiting.discard(task)
        began_s = time.monotonic()
        try:
            if request.shape is None:
                answer = await self._sending_once(request)
            else:
                answer = await self._send_shaped(request, before)
        except BaseException as error:
            self._note(error, era)
            self.gate.leave()
            self._waiting.add(task)
            raise
        self.reply_seconds.append(time.monotonic() - began_s)
        self.gate.succeeded()
        if self.gate.counts_tokens:
            self._learn(answer)
        return answer

    async def _send_shaped(self, request: Request, before: Before | None) -> Answer:
        """Send in the best mode; where the server seems to refuse it, in the next, in the same slot.

        A refusal is believed when a later mode is answered; else the last failure is what happened.
        """
        failures: list[tuple[Request, ModelError]] = []
        for sent in self._ladder.requests(request):
            if failures and before is not None and (waits := before(is_further=True)) is not None:
                await waits
            try:
                answer = await self._sending_once(sent)
            except ModelError as error:
                failures.append((sent, error))
                if self._is_stopped or not self._ladder.may_refuse(sent, error):
                    break
                continue
            self._ladder.accepted(sent)
            for refused, failure in failures:
                self._ladder.refused(refused, failure)
            return answer
        raise failures[-1][1]

    def _sending_once(self, request: Request) -> Awaitable[Answer]:
        self.asked += 1
        return self.client.send(request) if self._timeout_s is None else self._send_in_time(request)

    async def _send_in_time(self, request: Request) -> Answer:
        assert self._timeout_s is not None
        try:
            return await asyncio.wait_for(self.client.send(request), self._timeout_s)
        except asyncio.TimeoutError as error:
            raise RequestTimeoutError(
                f"The model did not answer within {self._timeout_s:g} s.",
                "Raise timeout=, or lower max_concurrency=.",
            ) from error

    def _note(self, error: BaseException, era: int) -> None:
        if isinstance(error, RateLimitError):
            self.rejected_429 += 1
            self.gate.refused(era)
        if isinstance(error, ModelError):
            self.rest.failed(error, is_given_up=False)
        if isinstance(error, ModelError) and error.fatal and self._breaker is None:
            self._breaker = error

    def _raise_if_broken(self) -> None:
        if self._breaker is not None:
            raise self._breaker.for_another()

    def _estimate_tokens(self, request: Request) -> int:
        n_characters = sum(len(shown(message.get("content"))) for message in request.messages)
        n_input = n_characters // 4 + IMAGE_TOKENS * len([*images_in(request.messages)])
        return n_input + int(request.n * self._mean_output_tokens)

    def _learn(self, answer: Answer) -> None:
        for reply in answer.replies:
            if reply.output_tokens is not None:
                self._mean_output_tokens += 0.1 * (reply.output_tokens - self._mean_output_tokens)


class Asking:
    """A request and the slot it has: held from the moment there is an answer until the `async with` block ends."""

    __slots__ = ("_before", "_caller", "_request")

    def __init__(self, caller: Caller, request: Request, before: Before | None) -> None:
        self._caller = caller
        self._request = request
        self._before = before

    def __aenter__(self) -> Awaitable[Answer]:
        return self._caller._obtain(self._request, self._before)

    async def __aexit__(self, *_: object) -> None:
        self._caller.gate.leave()


def _retrying(max_attempts: int) -> AsyncRetrying:
    from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

    return AsyncRetrying(
        stop=stop_after_attempt(max_attempts),
        retry=retry_if_exception(_may_pass),
        wait=Waits(),
        reraise=True,
    )


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, ModelError) and error.retryable


class Waits:
    """How long to wait before each retry of one request, in seconds.

    What the server asked for, else a random time that grows with each failure for which it asked nothing: who was
    refused before waits no longer after a failure.
    """

    def __init__(self) -> None:
        self._longest_s = FIRST_WAIT_S[1]

    def __call__(self, state: RetryCallState) -> float:
        return self.after(state.outcome.exception() if state.outcome is not None else None)

    def after(self, error: BaseException | None) -> float:
        """Return how long to wait after one more failure."""
        shortest_s = FIRST_WAIT_S[0]
        if isinstance(error, ModelError) and error.retry_after_s is not None:
            # A little more, and not all at the same moment.
            return max(shortest_s, error.retry_after_s) * random.uniform(1.0, 1.05)
        longest_s, self._longest_s = self._longest_s, min(LONGEST_WAIT_S, 2 * self._longest_s)
        return random.uniform(shortest_s, longest_s)


# --- one question, now --------------------------------------------------------


def ask_now(model: Model, prompt: str | list[Message], *, n: int = 1) -> str | list[str]:
    """Ask a question and wait for the reply; for n > 1 a list of replies.

    Works in a notebook too; Ctrl-C ends the request.
    """
    model.check()
    model.probe()
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    texts = [_text_of(reply) for reply in answer_now(model, Request(tuple(messages), n=n)).replies]
    return texts if n > 1 else texts[0]


def replies_now(
    model: Model, request: Request, wrong: Callable[[Reply], str], *, max_reasks: int
) -> list[Reply]:
    """Return the replies to a request; one with which something is `wrong` is asked again, at most so many times."""
    given = _consult_now(model, request).standing
    replies = [one.reply for one in given]
    asked = [one.ask.request for one in given]
    for number in range(1, max_reasks + 1 if request.shape is not None else 0):
        for place, reply in enumerate(replies):
            if words := wrong(reply):
                asked[place] = asked_again(asked[place], reply.text, words, number)
                replies[place] = answer_now(given[place].ask.llm, asked[place]).replies[0]
    return replies


def answer_now(model: Model, request: Request) -> Answer:
    """Send one request and wait for its answer; of a model made of others, what they gave.

    It runs in a thread with an event loop of its own, so it works in a notebook, whose loop runs already.
    Ctrl-C ends the request.
    """
    consulted = _consult_now(model, request)
    return replace(consulted.answers[-1], replies=tuple([one.reply for one in consulted.standing]))


def _consult_now(model: Model, request: Request) -> Consulted[Model]:
    result: Future[Consulted[Model]] = Future()
    question = _Question()

    def work() -> None:
        try:
            result.set_result(asyncio.run(question.ask(model, request)))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised in the caller's thread
            result.set_exception(error)

    # Not `Thread.join`: up to Python 3.12 an interrupt in it marks the thread as ended (bpo-45274).
    try:
        threading.Thread(target=work, name="distilnb-ask", daemon=True).start()  # Ctrl-C may come in here too
        while not wait([result], POLL_S).done:
            pass
    except KeyboardInterrupt:
        question.cancel()
        wait([result], GIVE_UP_S)
        raise
    return result.result()


class _Question:
    """One question that another thread may take back."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[object] | None = None
        self._is_taken_back = False

    async def ask(self, model: Model, request: Request) -> Consulted[Model]:
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        if self._is_taken_back:
            raise asyncio.CancelledError
        callers: dict[int, Caller] = {}

        async def send(member: Model, request: Request) -> Answer:
            if id(member) not in callers:
                callers[id(member)] = Caller.of(member)
            async with callers[id(member)].asking(request) as answer:
                return answer

        try:
            return await consult(model.parts(request), send, lambda waiting: asyncio.gather(*waiting))
        finally:
            for caller in callers.values():
                await caller.close()

    def cancel(self) -> None:
        self._is_taken_back = True
        if self._loop is not None and self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)


def _text_of(reply: Reply) -> str:
    if reply.text is None:
        raise MalformedReplyError(
            f"The model {reply.model!r} answered without a text (finish_reason {reply.finish_reason!r}).",
            "Change the prompt, or ask again.",
        )
    return reply.text

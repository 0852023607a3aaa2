"""Asking: rows of a task become requests, requests become replies (cached or paid for), replies become rows.

Preview and worker share it, so that a preview's replies are the full run's replies.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from distilnb.engine.apply import Failure, check_row
from distilnb.engine.asked import (
    Asked,
    At,
    Errand,
    NotBought,
    NotStarted,
    OnMissing,
    Tally,
    account,
    for_missing,
    nowhere,
    prompt_text,
    reply_text,
    spent,
)
from distilnb.engine.attempts import CacheMode, RetriedRow, choose_replies, find_bought
from distilnb.engine.budget import USUAL_REPLY_TOKENS, Budget, BudgetReached, estimate
from distilnb.engine.cache import Key, ReplyCache, reply_key, request_digests
from distilnb.engine.models import Models
from distilnb.engine.reasking import complaints, n_reasks, reask_key
from distilnb.engine.repeats import Repeats
from distilnb.engine.together import all_or_first_error
from distilnb.errors import ModelError
from distilnb.llms.base import LLM
from distilnb.llms.fitting import asked_again
from distilnb.llms.prices import price_of, run_price_of
from distilnb.llms.request import Reply, Request
from distilnb.rows import Batch, Row
from distilnb.tasks.base import Task

if TYPE_CHECKING:
    from distilnb.engine.offline import OfflineJobs


class FatalModelError(Exception):
    """A model refuses every request (a wrong key): the run must stop. `error` says why, `step` where."""

    def __init__(self, step: str, error: ModelError) -> None:
        super().__init__(step, error)
        self.step = step
        self.error = error


@dataclass
class Asker:
    """Asks models for rows, through the reply cache and within the budget."""

    cache: ReplyCache
    models: Models
    budget: Budget
    repeats: Repeats
    mode: CacheMode = "on"
    probes: bool = (
        False  # see that the server is there before the first request: a preview, which no `start` checked
    )
    at: At = nowhere
    jobs: OfflineJobs | None = None  # of a run; a preview asks at once, whatever its models say
    # By the first key that each request on its way asks for; a future where an equal one waits for it.
    _in_flight: dict[Key, asyncio.Future[None] | None] = field(default_factory=dict)
    _flying: dict[int, str] = field(default_factory=dict)  # steps of requests on their way, by their tally
    _longest_reply: int = USUAL_REPLY_TOKENS
    _is_stopped: bool = False
    _budget_reached: BudgetReached | None = None
    _may_send: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._may_send.set()

    def open_jobs(self, run_id: str, tell: Callable[[], None]) -> None:
        """Let models that go by offline batch do so from now on; `tell` is called when a job has something new."""
        from distilnb.engine.offline import OfflineJobs  # few runs need it

        self.jobs = self.jobs or OfflineJobs(self.cache, run_id, self._may_send, tell)

    def stop(self) -> None:
        """Start no more requests; those in flight end, and the other rows are left as they are."""
        self._is_stopped = True
        self.models.stop()
        if self.jobs is not None:
            self.jobs.stop()
        self.resume()  # a stop ends a pause: who comes into the line only now is sent back by `_before`

    def pause(self) -> None:
        """Send nothing until `resume`, whatever it waits for; what is in flight ends."""
        self._may_send.clear()
        self.models.pause()

    def resume(self) -> None:
        """Go on where `pause` left off."""
        self._may_send.set()
        self.models.resume()

    def in_flight(self) -> dict[str, int]:
        """Return how many requests of each step were sent and are not answered; those to be sent again count."""
        return dict(Counter(self._flying.values()))

    async def ask_rows(
        self,
        task: Task,
        batch: Batch,
        indices: Sequence[int],
        done: Callable[[int, Asked], None],
        *,
        again: bool = False,
        attempts: Mapping[int, int] | None = None,
        on_missing: OnMissing | None = None,
    ) -> None:
        """Ask for some rows of a batch and call `done(index, asked)` for each as it ends, cached ones first.

        `attempts` has, by index, how often a retry has raised a row's attempt. With `on_missing` nothing is asked.

        Rows whose request was not started (`stop`, or the budget) are not reported. Raises BudgetReached once all
        in flight have ended; FatalModelError and StoreError at once, cancelling the rest.
        """
        llm = model_of(task)
        price = price_of(llm) if self.jobs is None else run_price_of(llm)
        errand = Errand(task, batch, done, llm, self.models.caller(llm), price, again, on_missing)
        waiting: list[asyncio.Task[None]] = []
        looked_up = self._look_up(errand, indices, attempts=attempts or {})
        for index, request, keys, known in looked_up:
            if len(known) == len(keys) and not self._complaints(errand, index, request, keys, known):
                done(
                    index,
                    self._finish(errand, index, request, keys, known, self._found(errand, known, Tally())),
                )
            else:
                work = self._ask_one(errand, index, request, keys, known)
                waiting.append(asyncio.ensure_future(work))
        if waiting and self.probes:
            await self._probe(task, waiting)
        await all_or_first_error(waiting)
        if self._budget_reached:
            raise self._budget_reached

    async def _probe(self, task: Task, waiting: Sequence[asyncio.Task[None]]) -> None:
        """Raise FatalModelError when nothing listens, before every row finds out by itself."""
        try:
            await asyncio.get_running_loop().run_in_executor(None, model_of(task).probe)
        except ModelError as error:
            for work in waiting:
                work.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            raise FatalModelError(task.name, error) from error

    def _look_up(
        self, errand: Errand, indices: Sequence[int], *, attempts: Mapping[int, int]
    ) -> list[tuple[int, Request, list[Key], dict[Key, Reply]]]:
        """Render all requests and find their replies in one look-up; rows that cannot be rendered end here."""
        task, batch, llm, again = errand.task, errand.batch, errand.llm, errand.again
        rendered: list[tuple[int, Request]] = []
        render_row = renderer(task)
        for index in indices:
            try:
                with self.at(batch, index, finishes=False):
                    rendered.append((index, render_row(batch.rows[index])))
            except Exception as error:  # noqa: BLE001 - a user's task may raise anything; it is the row's failure
                errand.done(index, Asked(failure=Failure.of(batch.ids[index], task.name, error)))
        digests = request_digests(llm, [request for _, request in rendered])
        repeats = [0] * len(rendered)
        if not llm.is_deterministic:
            asked = [(digest, batch.ids[index]) for digest, (index, _) in zip(digests, rendered, strict=True)]
            repeats = self.repeats.number(task.digest, asked)
        keys = [
            [reply_key(digest, index=i, repeat=repeat, attempt=0) for i in range(request.n)]
            for digest, repeat, (_, request) in zip(digests, repeats, rendered, strict=True)
        ]
        found = find_bought(self.cache, self.mode, [key for group in keys for key in group], again=again)
        looked_up = [
            (
                index,
                replace(request, salt=str(repeat)) if repeat else request,
                group,
                {key: found[key] for key in group if key in found},
            )
            for (index, request), group, repeat in zip(rendered, keys, repeats, strict=True)
        ]
        retried = [number for number, (index, _) in enumerate(rendered) if attempts.get(index)]
        rows = [
            RetriedRow(
                batch.rows[index],
                digests[number],
                repeats[number],
                request.n,
                attempts[index],
                n_reasks(task, request),
            )
            for number, (index, request) in ((number, rendered[number]) for number in retried)
        ]
        chosen = choose_replies(self.cache, self.mode, task, rows, again=again)
        for number, row, (group, known) in zip(retried, rows, chosen, strict=True):
            index, request = rendered[number]
            looked_up[number] = (index, replace(request, salt=f"{row.repeat}+{row.attempt}"), group, known)
        return looked_up

    async def _ask_one(
        self, errand: Errand, index: int, request: Request, keys: list[Key], replies: dict[Key, Reply]
    ) -> None:
        task, batch, tally = errand.task, errand.batch, self._found(errand, replies, Tally())
        try:
            await self._obtain(errand, request, keys, replies, tally)
            keys = await self._reask(errand, index, request, keys, replies, tally)
        except NotBought as lack:
            lack.tell(index)
            return
        except NotStarted:
            return
        except BudgetReached as reached:
            self._budget_reached = reached
            self.stop()
            return
        except asyncio.CancelledError:
            if self._is_stopped:  # it waited and was not sent: the row is left as it is
                return
            raise
        except ModelError as error:
            if self._is_stopped and error.retryable:
                return
            if error.fatal:
                raise FatalModelError(task.name, error) from error
            asked = account(errand.price, request, keys, replies, tally)
            asked.failure = Failure.of(
                batch.ids[index], task.name, error, prompt=prompt_text(request), attempts=tally.n_sent
            )
            asked.n_cached = 0
            errand.done(index, asked)
            return
        errand.done(index, self._finish(errand, index, request, keys, replies, tally))

    async def _obtain(
        self, errand: Errand, request: Request, keys: list[Key], replies: dict[Key, Reply], tally: Tally
    ) -> None:
        """Add the replies that are missing under these keys, from an equal request on its way or by sending one."""
        missing = [key for key in keys if key not in replies]
        while self.mode == "on" and missing and missing[0] in self._in_flight:
            await self._wait_for_equal(missing[0])
            n_missing = len(missing)
            replies.update(self.cache.find(missing))
            missing = [key for key in keys if key not in replies]
            if len(missing) == n_missing:
                break  # it failed: all that waited for it ask now, each for itself and none after the other
        if missing and errand.on_missing is not None:
            raise NotBought(errand.on_missing, request, missing)
        if missing and self.jobs is not None and errand.llm.goes_by_batch:
            await self._await_jobs(errand, request, keys, replies, tally)
            return
        size = errand.llm.max_n or len(missing)
        while (
            missing
        ):  # what one request brings is kept before the next is sent: a stop or a kill loses none of it
            part, missing = missing[:size], missing[size:]
            replies.update(await self._buy(errand, for_missing(request, keys, part), part, tally))

    async def _reask(
        self,
        errand: Errand,
        index: int,
        request: Request,
        keys: list[Key],
        replies: dict[Key, Reply],
        tally: Tally,
    ) -> list[Key]:
        """Ask again for replies without their shape until they have it; return the keys of those that count."""
        counting, asked = list(keys), dict.fromkeys(range(len(keys)), request)
        for number in range(1, n_reasks(errand.task, request) + 1):
            wrong = self._complaints(errand, index, request, counting, replies)
            if not wrong:
                break
            for place, words in wrong.items():
                key = reask_key(keys[place], number)
                again = asked_again(asked[place], replies[counting[place]].text, words, number)
                known = find_bought(self.cache, self.mode, [key], again=errand.again)
                self._found(errand, known, tally)
                await self._obtain(errand, again, [key], known, tally)
                tally.n_reasked += not known[key].is_cached
                replies.update(known)
                counting[place], asked[place] = key, again
        return counting

    def _found(self, errand: Errand, known: Mapping[Key, Reply], tally: Tally) -> Tally:
        """Count what a killed process of this run has bought, which took its count along."""
        bought = [reply for reply in known.values() if not reply.is_cached]
        if bought:
            tally.n_found += 1
            self.budget.spend(*spent(errand.price, bought))
        return tally

    def _complaints(
        self, errand: Errand, index: int, request: Request, keys: list[Key], replies: Mapping[Key, Reply]
    ) -> dict[int, str]:
        """Return what is wrong with which replies of a row, where asking again may help."""
        if not n_reasks(errand.task, request):
            return {}
        with self.at(errand.batch, index, finishes=False):
            return complaints(errand.task, errand.batch.rows[index], keys, replies)

    async def _buy(
        self, errand: Errand, request: Request, missing: list[Key], tally: Tally
    ) -> list[tuple[Key, Reply]]:
        """Send one request for the missing replies; returns once they are in the cache."""
        self._in_flight.setdefault(missing[0], None)  # those who ask after a failure may be several
        cost, tokens = 0.0, 0
        tally.n_bought += 1
        try:
            async with errand.caller.asking(
                request, before=lambda: self._before(errand, request, tally)
            ) as answer:
                pairs = list(zip(missing, answer.replies, strict=False))
                cost, tokens = spent(errand.price, answer.replies[: len(missing)])
                self._longest_reply = max(
                    [self._longest_reply, *(r.output_tokens or 0 for r in answer.replies)]
                )
                # The slot of the request is held until its replies are safe: a kill repeats no more than that.
                if self.mode != "off" and not await self.cache.keep(pairs, replace=self.mode == "refresh"):
                    # Another run asked the same and was first: what is stored counts, for every later run too.
                    stored = self.cache.find([key for key, _ in pairs])
                    pairs = [(key, replace(stored.get(key, own), is_cached=False)) for key, own in pairs]
            return pairs
        finally:
            self._flying.pop(id(tally), None)
            self._settle(tally, missing[0], cost, tokens)

    async def _await_jobs(
        self, errand: Errand, request: Request, keys: list[Key], replies: dict[Key, Reply], tally: Tally
    ) -> None:
        """Let offline jobs bring the missing replies into the cache, however long that takes."""
        assert self.jobs is not None
        first = next(key for key in keys if key not in replies)
        self._in_flight.setdefault(first, None)
        cost, tokens = 0.0, 0

        n_sent, n_bought = tally.n_sent, tally.n_bought

        async def before(part: Request, n_requests: int) -> None:
            await self._before(errand, part, tally)
            self._flying.pop(id(tally), None)  # what waits for a job for hours is told apart
            tally.n_sent += n_requests - 1
            if tally.n_bought == n_bought:  # what follows is sent for what has failed
                tally.n_bought += tally.n_sent - n_sent

        try:
            brought = await self.jobs.obtain(
                errand.llm, request, keys, replies.keys(), replaces=self.mode == "refresh", before=before
            )
            replies.update(brought.replies)
            tally.n_found += brought.n_found
            cost, tokens = spent(errand.price, [r for r in brought.replies.values() if not r.is_cached])
        finally:
            self._settle(tally, first, cost, tokens)

    def _settle(self, tally: Tally, first: Key, cost: float, tokens: int) -> None:
        """Count what requests have cost in place of what was set aside for them, and wake who waits for the same."""
        if tally.hold:
            tally.hold.settle(cost, tokens)
            tally.hold = None
        else:
            self.budget.spend(cost, tokens)
        awaited = self._in_flight.pop(first, None)
        if awaited is not None:
            awaited.set_result(None)

    async def _wait_for_equal(self, key: Key) -> None:
        """Wait until the request that asks for the same is through, well or not."""
        awaited = self._in_flight[key]
        if awaited is None:
            awaited = self._in_flight[key] = asyncio.get_running_loop().create_future()
        await asyncio.wait([awaited])

    async def _before(self, errand: Errand, request: Request, tally: Tally) -> None:
        """Decide, whenever a request has its slot, whether it may be sent."""
        if self._is_stopped:
            raise NotStarted
        if self.budget.is_limited:  # which a change of limits may have made it while the request waited
            if tally.hold is None:
                most = estimate(errand.llm, errand.price, request, self._longest_reply)
                tally.hold = self.budget.hold(*most)
            await tally.hold.take()
        if not self._may_send.is_set():
            await self._may_send.wait()
        if self._is_stopped:  # meanwhile: a stop ends a pause
            raise NotStarted
        tally.n_sent += 1
        self._flying[id(tally)] = errand.task.name

    def _finish(
        self,
        errand: Errand,
        index: int,
        request: Request,
        keys: list[Key],
        replies: Mapping[Key, Reply],
        tally: Tally,
    ) -> Asked:
        """Make rows of the replies; a reply that cannot be used quarantines the row, and stays cached."""
        asked = account(errand.price, request, keys, replies, tally)
        try:
            with self.at(errand.batch, index, finishes=True):
                made = errand.task.rows_from(errand.batch.rows[index], asked.replies)
        except Exception as error:  # noqa: BLE001 - a user's parser may raise anything; it is the row's failure
            asked.failure = Failure.of(
                errand.batch.ids[index],
                errand.task.name,
                error,
                prompt=prompt_text(request),
                reply=reply_text(asked.replies),
                attempts=max(1, tally.n_sent),
            )
            return asked
        asked.rows, asked.partial = made.rows, made.partial
        return asked


def render(task: Task, row: Row) -> Request:
    """Return the request of a row, with columns under the names that the task uses."""
    return renderer(task)(row)


def renderer(task: Task) -> Callable[[Row], Request]:
    """Return what renders the requests of many rows, with columns under the names that the task uses."""
    needed, request = task.needed(), task.requester()

    def render_row(row: Row) -> Request:
        for column in needed:
            if column not in row:
                check_row(task, row)  # tells it in words
        return request(task.seen(row))

    return render_row


def model_of(task: Task) -> LLM:
    """Return the model of a checked task."""
    if task.llm is None:
        task.check()
        raise AssertionError("a task without a model passed its check")
    return task.llm

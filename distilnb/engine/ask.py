"""Asking: rows of a task become requests, requests become replies (cached or paid for), replies become rows.

Preview and worker share it, so that a preview's replies are the full run's replies.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from distilnb.engine.apply import Failure
from distilnb.engine.asked import (
    Asked,
    At,
    Errand,
    FatalModelError,
    Missing,
    NotBought,
    NotStarted,
    OnMissing,
    Sending,
    Tally,
    account,
    check_told,
    finish,
    nowhere,
    prompt_text,
    used_for,
)
from distilnb.engine.attempts import CacheMode, find_bought, notes_to_keep
from distilnb.engine.budget import USUAL_REPLY_TOKENS, Budget, BudgetReached, estimate, longest_of
from distilnb.engine.cache import Key, ReplyCache
from distilnb.engine.inquiry import NOTHING_USED, Inquiry, Used, as_replies, voices_of
from distilnb.engine.lookup import look_up
from distilnb.engine.models import Models
from distilnb.engine.reasking import complaint, has_complaint, n_reasks, reask_key
from distilnb.engine.rendering import model_of
from distilnb.engine.repeats import Repeats
from distilnb.engine.together import all_or_first_error, probe_first
from distilnb.errors import ModelError
from distilnb.llms.base import LLM
from distilnb.llms.fitting import asked_again
from distilnb.llms.groups import groups_of
from distilnb.llms.parts import Ask, Standing, Wanted, for_missing
from distilnb.llms.request import Reply, Request
from distilnb.llms.usage import usage_of
from distilnb.rows import Batch
from distilnb.tasks.base import Task

if TYPE_CHECKING:
    from distilnb.engine.offline import OfflineJobs


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
    _flying: dict[int, str] = field(default_factory=dict)  # steps of requests on their way, by their sending
    _longest_reply: int = USUAL_REPLY_TOKENS
    _is_stopped: bool = False
    _budget_reached: BudgetReached | None = None
    _may_send: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._may_send.set()

    def open_jobs(self, run_id: str, tell: Callable[[], None]) -> None:
        """Let models that go by offline batch do so from now on; `tell` is called when a job has something new."""
        from distilnb.engine.offline import OfflineJobs  # few runs need it

        self.jobs = self.jobs or OfflineJobs(
            self.cache, run_id, self._may_send, tell, lambda: bool(self._flying)
        )

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
        voices = voices_of(llm, in_run=self.jobs is not None)
        callers = {place: self.models.caller(voice.llm) for place, voice in voices.items()}
        errand = Errand(task, batch, done, voices, callers, again, on_missing)
        waiting: list[asyncio.Task[None]] = []
        found = look_up(errand, indices, attempts or {}, self.cache, self.mode, self.repeats, at=self.at)
        for inquiry in found:
            tally = Tally()
            if again:
                self._found(errand, inquiry, inquiry.replies, tally)
            if inquiry.all_stand and not has_complaint(errand, inquiry, self.at):
                done(inquiry.index, finish(errand, inquiry, tally, self.at))
            else:
                waiting.append(asyncio.ensure_future(self._ask_one(errand, inquiry, tally)))
        if waiting and self.probes:
            await probe_first(task, waiting)
        await all_or_first_error(waiting)
        if self._budget_reached:
            raise self._budget_reached

    async def _ask_one(self, errand: Errand, inquiry: Inquiry, tally: Tally) -> None:
        task, batch = errand.task, errand.batch
        try:
            if inquiry.is_plain:
                await self._obtain_plain(errand, inquiry, tally)
            else:
                await self._obtain(errand, inquiry, tally)
            if n_reasks(task, inquiry.request):
                await self._reask(errand, inquiry, tally)
        except NotBought as lack:
            lack.tell(inquiry.index)
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
            if error.fatal:
                raise FatalModelError(task.name, error) from error
            asked = account(inquiry, tally)
            asked.failure = Failure.of(
                batch.ids[inquiry.index],
                task.name,
                error,
                prompt=prompt_text(inquiry.request),
                attempts=tally.n_sent,
            )
            asked.n_cached = 0
            errand.done(inquiry.index, asked)
            return
        errand.done(inquiry.index, finish(errand, inquiry, tally, self.at))

    async def _obtain_plain(self, errand: Errand, inquiry: Inquiry, tally: Tally) -> None:
        """Get the replies of a row that one model gives: nothing leads to another request, nobody stands in for it."""
        wanted = inquiry.all_missing()
        if wanted.keys:
            await self._get_alone(errand, inquiry, wanted, tally)

    async def _get_alone(self, errand: Errand, inquiry: Inquiry, wanted: Wanted[LLM], tally: Tally) -> None:
        """Get replies that nobody else could give; raises NotBought where nothing is to be asked."""
        if errand.on_missing is not None:
            raise NotBought(errand.on_missing, [Missing.of(wanted)])
        try:
            await self._get(errand, inquiry, wanted, tally)
        except ModelError as error:
            if self._is_stopped and error.retryable:
                raise NotStarted from error
            raise

    async def _obtain(self, errand: Errand, inquiry: Inquiry, tally: Tally) -> None:
        """Ask whoever has a part in a row's replies until all are there; raises what nobody is left for."""
        sending: set[asyncio.Task[None]] = set()
        try:
            while True:
                found = self._seek(errand, inquiry)
                self._found(errand, inquiry, found, tally)
                if self.jobs is not None and inquiry.marks:
                    inquiry.awaited.update(self.jobs.store.holders(inquiry.noted()))
                wanted = inquiry.wanted()
                if wanted and errand.on_missing is not None:
                    missing = [Missing.of(one) for one in wanted]
                    later = [Missing(next(llm.senders()), inquiry.request, []) for llm in inquiry.later()]
                    raise NotBought(errand.on_missing, missing + later)
                if len(wanted) == 1 and not sending:  # as most: a task of its own would cost time
                    await self._fetch(errand, inquiry, wanted[0], tally)
                    continue
                sending |= {asyncio.ensure_future(self._fetch(errand, inquiry, w, tally)) for w in wanted}
                if not sending:
                    break
                ended, sending = await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
                for work in ended:
                    work.result()
        except (asyncio.CancelledError, FatalModelError):
            for work in sending:
                work.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
            raise
        except BaseException:
            if sending:  # what is on its way is paid for, and kept
                await asyncio.wait(sending)
            raise
        await self._keep_marks(inquiry)

    def _seek(self, errand: Errand, inquiry: Inquiry) -> dict[Key, Reply]:
        """Look in the cache for what came to matter; the reply to one request may lead to another."""
        found: dict[Key, Reply] = {}
        while keys := inquiry.to_seek():
            new = find_bought(self.cache, self.mode, keys, again=errand.again)
            inquiry.take(new)
            found.update(new)
        return found

    async def _keep_marks(self, inquiry: Inquiry) -> None:
        """Note which backups stand in, where that was not noted with their reply: it was there before."""
        marks = {key: why for one in inquiry.standing() for key, why in one.marks if key not in inquiry.marks}
        if marks and self.mode != "off":
            await self.cache.keep(as_replies(marks), replace=self.mode == "refresh")
        inquiry.marks.update(marks)

    async def _fetch(self, errand: Errand, inquiry: Inquiry, wanted: Wanted[LLM], tally: Tally) -> None:
        """Get replies of one model, and tell the inquiry that they are there, or what the model failed with."""
        failure: ModelError | None = None
        try:
            await self._get(errand, inquiry, wanted, tally)
        except ModelError as error:
            if self._is_stopped and error.retryable:
                raise NotStarted from error
            if error.fatal and not wanted.backup and self.jobs is not None:
                raise FatalModelError(errand.task.name, error) from error  # at once: a job may take a day
            failure = error
            if wanted.backup:
                self.models.note_backup(wanted.asks[0].llm, wanted.backup, error)
        except asyncio.CancelledError:
            if self._is_stopped:
                raise NotStarted from None
            raise
        inquiry.ended(wanted, failure)

    async def _get(self, errand: Errand, inquiry: Inquiry, wanted: Wanted[LLM], tally: Tally) -> None:
        """Add replies that are missing, from an equal request on its way or by sending one."""
        missing = dict(zip(wanted.keys, wanted.asks, strict=True))
        while self.mode == "on" and missing and (first := next(iter(missing))) in self._in_flight:
            await self._wait_for_equal(first)
            found = self.cache.find([*missing])
            inquiry.replies.update(found)
            if not found:
                break  # it failed: all that waited for it ask now, each for itself and none after the other
            missing = {key: ask for key, ask in missing.items() if key not in found}
        if missing and self.jobs is not None and wanted.asks[0].llm.goes_by_batch:
            if (
                self.mode == "on" and wanted.marks
            ):  # long before the reply: whoever takes the row up waits for it too
                await self.cache.keep(notes_to_keep(self.cache, self.mode, wanted.marks))
            inquiry.replies.update(await self._await_jobs(self.jobs, errand, missing, tally))
            return
        # What one request brings is kept before the next is sent: a stop or a kill loses none of it.
        for part in groups_of(missing):
            request = for_missing([missing[key] for key in part])
            bought = await self._buy(errand, wanted, request, part, tally)
            inquiry.replies.update(bought)

    async def _reask(self, errand: Errand, inquiry: Inquiry, tally: Tally) -> None:
        """Ask again for replies without their shape until they have it, or have used up their re-asks."""
        most = n_reasks(errand.task, inquiry.request)
        for place in range(len(inquiry.parts)):
            number = 0
            while number < most and (words := complaint(errand, inquiry, place, self.at)):
                number += 1
                try:
                    await self._reask_one(errand, inquiry, place, number, words, tally)
                except ModelError as error:
                    if not inquiry.drop(place, error):
                        raise
                    await self._obtain(errand, inquiry, tally)
                    number = 0

    async def _reask_one(
        self, errand: Errand, inquiry: Inquiry, place: int, number: int, words: str, tally: Tally
    ) -> None:
        stands, last = inquiry.look(place), inquiry.at(place)
        assert isinstance(stands, Standing)
        assert last is not None
        key, llm = reask_key(stands.key, number), stands.ask.llm
        again = asked_again(last.ask.request, last.reply.text, words, number)
        inquiry.asks[key] = stands.ask
        find_again = errand.again and place not in inquiry.told
        known = find_bought(self.cache, self.mode, [key], again=find_again)
        inquiry.replies.update(known)
        self._found(errand, inquiry, known, tally)
        if not known:
            await self._get_alone(errand, inquiry, Wanted([Ask(llm, again)], [key], {}), tally)
        reply = inquiry.replies[key]
        tally.n_reasked += not reply.is_cached
        inquiry.counting[place] = Standing(Ask(llm, again), key, reply, stands.why)

    def _found(self, errand: Errand, inquiry: Inquiry, known: Mapping[Key, Reply], tally: Tally) -> None:
        """Count what a killed process of this run has bought, which took its count along."""
        if not errand.again:
            return
        for used in inquiry.bought(known):
            tally.n_found += 1
            self.budget.spend(used.cost_usd or 0.0, used.usage.tokens)

    async def _buy(
        self,
        errand: Errand,
        wanted: Wanted[LLM],
        request: Request,
        missing: list[Key],
        tally: Tally,
    ) -> list[tuple[Key, Reply]]:
        """Send one request for the missing replies; returns once they are in the cache."""
        place = id(wanted.asks[0].llm)
        voice, caller, used = errand.voices[place], errand.callers[place], NOTHING_USED
        sending = Sending(errand.task.name, voice, caller.rest if wanted.backup else None)
        sending.check_rest()  # before it stands in line
        self._in_flight.setdefault(missing[0], None)  # those who ask after a failure may be several
        tally.n_bought += 1
        try:
            async with caller.asking(
                request, before=partial(self._before, request, tally, sending)
            ) as answer:
                pairs = list(zip(missing, answer.replies, strict=False))
                used = Used(voice.price, usage_of(voice.llm, request, answer.replies[: len(missing)]))
                self._longest_reply = max(self._longest_reply, longest_of(voice.llm, request, used.usage))
                # The slot of the request is held until its replies are safe: a kill repeats no more than that.
                kept = pairs + notes_to_keep(self.cache, self.mode, wanted.marks) if wanted.marks else pairs
                if self.mode != "off" and not await self.cache.keep(kept, replace=self.mode == "refresh"):
                    # Another run asked the same and was first: what is stored counts, for every later run too.
                    stored = self.cache.find([key for key, _ in pairs])
                    pairs = [(key, replace(stored.get(key, own), is_cached=False)) for key, own in pairs]
            check_told(self.budget, sending, used)
            return pairs
        except ModelError as error:
            used = tally.lose(voice, error)
            raise
        finally:
            self._flying.pop(id(sending), None)
            self._settle(sending, missing[0], used)

    async def _await_jobs(
        self, jobs: OfflineJobs, errand: Errand, missing: Mapping[Key, Ask[LLM]], tally: Tally
    ) -> dict[Key, Reply]:
        """Let offline jobs bring missing replies of one model into the cache, however long that takes."""
        first, ask = next(iter(missing.items()))
        sending = Sending(errand.task.name, errand.voices[id(ask.llm)], waits_for_job=True)
        self._in_flight.setdefault(first, None)

        async def before(request: Request) -> None:
            if (waits := self._before(request, tally, sending)) is not None:
                await waits

        used = NOTHING_USED
        try:
            brought = await jobs.obtain(missing, tally, replaces=self.mode == "refresh", before=before)
            used = used_for(sending.voice, missing, brought)
            return brought
        finally:
            self._settle(sending, first, used)

    def _settle(self, sending: Sending, first: Key, used: Used) -> None:
        """Count what requests have cost in place of what was set aside for them, and wake who waits for the same."""
        sending.settle(self.budget, used)
        awaited = self._in_flight.pop(first, None)
        if awaited is not None:
            awaited.set_result(None)

    async def _wait_for_equal(self, key: Key) -> None:
        """Wait until the request that asks for the same is through, well or not."""
        awaited = self._in_flight[key]
        if awaited is None:
            awaited = self._in_flight[key] = asyncio.get_running_loop().create_future()
        await asyncio.wait([awaited])

    def _before(
        self, request: Request, tally: Tally, sending: Sending, *, is_further: bool = False
    ) -> Awaitable[None] | None:
        """Decide, whenever a request has its slot, whether it may be sent; returns what is to be waited for first."""
        if self._is_stopped:
            raise NotStarted
        sending.check_rest()
        if self.budget.is_limited or not self._may_send.is_set():
            return self._wait_to_send(request, tally, sending, is_further=is_further)
        self._is_sent(tally, sending, is_further=is_further)
        return None

    async def _wait_to_send(
        self, request: Request, tally: Tally, sending: Sending, *, is_further: bool
    ) -> None:
        if self.budget.is_limited:  # which a change of limits may have made it while the request waited
            if sending.hold is None:
                most = estimate(sending.voice.llm, sending.voice.price, request, self._longest_reply)
                sending.hold = self.budget.hold(*most)
            await sending.hold.take()
        if not self._may_send.is_set():
            await self._may_send.wait()
        if self._is_stopped:  # meanwhile: a stop ends a pause
            raise NotStarted
        self._is_sent(tally, sending, is_further=is_further)

    def _is_sent(self, tally: Tally, sending: Sending, *, is_further: bool) -> None:
        tally.n_sent += 1
        tally.n_further += is_further
        if not sending.waits_for_job:
            self._flying[id(sending)] = sending.step

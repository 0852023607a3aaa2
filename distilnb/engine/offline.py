"""Asking by offline batch: requests are gathered, handed over as jobs, waited for, and their replies collected.

A row waits until the reply cache has what it lacks. Whose job brings it does not matter: where another run has handed
the same request over, its job is waited for (`engine/jobs.py`).
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from distilnb.engine.asked import JobLeft, Tally
from distilnb.engine.cache import Key, ReplyCache
from distilnb.engine.drafts import Draft, Ending, JobView, Watch
from distilnb.engine.jobs import GOING, JobRecord, JobStore
from distilnb.engine.keeping import Keeper, Pauses
from distilnb.engine.together import either
from distilnb.errors import MalformedReplyError, ModelError
from distilnb.llms.base import LLM, limits_key
from distilnb.llms.batches import Batches
from distilnb.llms.groups import groups_of, requests_that_brought
from distilnb.llms.ladder import Ladder
from distilnb.llms.parts import Ask, for_missing
from distilnb.llms.request import Reply, Request

if TYPE_CHECKING:
    from distilnb.llms.remote import RemoteLLM

QUIET_S = 60.0  # without a new request: then what was gathered is handed over, though more may come
SHORT_QUIET_S = 0.5  # once nothing more can come before something is handed over
LOOK_EVERY_S = 0.5  # at a job that another process keeps
TRIES = 3  # jobs that a request may fail or expire in
EMPTY_TRIES = 2  # jobs that may bring it nothing, without a word

Before: TypeAlias = Callable[[Request], Awaitable[None]]


@dataclass
class _Account:
    """One model that is asked by batch: its provider, and the job that is being gathered."""

    llm: RemoteLLM
    batches: Batches
    keeper: Keeper
    ladder: Ladder
    draft: Draft | None = None
    timer: asyncio.TimerHandle | None = None
    most: int = 0  # requests in one job, as far as the account's own limits allow
    turn: asyncio.Lock | None = None  # where too much waited already: one job at a time


@dataclass
class OfflineJobs:
    """The jobs of one event loop, for a run.

    `tell` is called when there is something new to show. `may_send` is clear while nothing may be sent. `asks_at_once`
    says whether other requests are on their way.
    """

    cache: ReplyCache
    run_id: str
    may_send: asyncio.Event
    tell: Callable[[], None] = lambda: None
    asks_at_once: Callable[[], bool] = lambda: False
    store: JobStore = field(init=False)
    _accounts: dict[str, asyncio.Task[_Account]] = field(default_factory=dict)
    _watches: dict[str, Watch] = field(default_factory=dict)
    _drafted: dict[Key, asyncio.Future[Ending]] = field(default_factory=dict)
    _work: set[asyncio.Task[None]] = field(default_factory=set)
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)
    _quiet_s: float = QUIET_S
    _left: dict[str, JobView] = field(default_factory=dict)  # that nobody waits for here any more
    _news: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = JobStore(self.cache.path.parent)
        self.store.sweep(lambda keys: len(self.cache.find(keys)) == len(keys))

    # --- what the worker tells ---

    def all_given(self, is_so: bool) -> None:
        """Note whether no further request can come before something that was gathered is handed over."""
        self._quiet_s = SHORT_QUIET_S if is_so else QUIET_S
        for account in self._known_accounts():
            if account.draft is not None:
                self._set_timer(account)

    def stop(self) -> None:
        """Hand nothing more over and wait for nothing: jobs stay with their providers, rows are left as they are."""
        self._stopped.set()
        for account in self._known_accounts():
            if account.draft is not None:
                account.draft.discard(JobLeft())
                account.draft = None

    async def close(self) -> None:
        """End all work and close the connections; jobs stay."""
        self.stop()
        for work in [*self._work, *self._accounts.values()]:
            if not work.done():
                work.cancel()
        await asyncio.gather(*self._work, *self._accounts.values(), return_exceptions=True)
        for account in self._known_accounts():
            await account.batches.close()
        self.store.close()

    def views(self) -> list[JobView]:
        """Return how the jobs stand that rows wait for, or have waited for until the run was to end."""
        drafts = [
            JobView("gathering", "", account.llm.label, n_total=len(account.draft.requests))
            for account in self._known_accounts()
            if account.draft is not None
        ]
        watched = [watch.view for watch in self._watches.values() if watch.view]
        return [*self._left.values(), *watched, *drafts]

    def take_news(self) -> list[dict[str, Any]]:
        """Return the events since the last call, as plain data."""
        news, self._news = self._news, []
        return news

    # --- what a row asks ---

    async def obtain(
        self,
        asks: Mapping[Key, Ask[LLM]],
        tally: Tally,
        *,
        replaces: bool,
        before: Before,
    ) -> dict[Key, Reply]:
        """Return once jobs have brought these replies of one model to one request, which are asked for by their keys.

        `before(request)` is awaited before requests for so many replies are added to a job; it counts the first one
        in `tally`, which gets the others, and those that this run had sent in an earlier life. `replaces` wants
        replies that are new to the cache. Raises the last ModelError when they are used up, JobLeft after `stop`.
        """
        ask = next(iter(asks.values()))
        llm, request = ask.llm, ask.request
        account = await self._account(llm)
        found: dict[Key, Reply] = {}
        refusals: list[tuple[Request, ModelError]] = []
        n_failed = n_empty = 0
        is_again = is_further = False
        while missing := [key for key in asks if key not in found]:
            if self._stopped.is_set():
                raise JobLeft
            held = self.store.holders(missing)
            waits = [
                ([key for key in missing if held.get(key) == marker], marker) for marker in {*held.values()}
            ]
            for part, marker in waits:
                if self._is_own(marker):
                    tally.n_found += requests_that_brought(asks[key] for key in part)
            endings = [(part, self._join(account, marker, part)) for part, marker in waits]
            sent = _in_next_mode(account.ladder, request, refusals)
            parts = list(groups_of({key: asks[key] for key in missing if key not in held}))
            if parts:
                await before(replace(request, n=sum(map(len, parts))))
                tally.n_sent += len(parts) - 1
                tally.n_bought += 0 if is_again else len(parts)  # what follows is sent for what has failed
                tally.n_further += len(parts) if is_further else 0
                is_again, is_further = True, False
            for part in parts:
                one = for_missing([replace(asks[key], request=sent) for key in part])
                endings.append((part, self._add(account, one, part, replaces=replaces)))
            ends = await asyncio.gather(*(end for _, end in endings), return_exceptions=True)
            good = [key for (part, _), end in zip(endings, ends, strict=True) if end is True for key in part]
            # What this run's jobs have brought was not counted yet, whichever of its lives sent them.
            brought = self.cache.find(good, again=True)
            found.update(brought)
            failure = _first_error(ends)
            if failure is None:
                if brought and sent.mode:
                    _learn(account.ladder, sent, refusals)
                n_empty += not brought and True in ends
                if n_empty >= EMPTY_TRIES:
                    raise _nothing(llm, account)
            elif parts and sent.mode and account.ladder.may_refuse(sent, failure):
                refusals.append((sent, failure))
                is_further = True
            else:
                n_failed += 1
                if failure.fatal or not failure.retryable or n_failed >= TRIES:
                    raise copy.copy(failure)
        return found

    def _is_own(self, marker: str) -> bool:
        """Whether an earlier life of this run has sent a job: what it cost was not counted yet."""
        record = self.store.job(marker)
        return record is not None and record.run == self.run_id and marker not in self._sent_here

    @property
    def _sent_here(self) -> set[str]:
        return {marker for marker, watch in self._watches.items() if watch.is_of_this_life}

    # --- accounts ---

    async def _account(self, llm: LLM) -> _Account:
        from distilnb.llms.remote import RemoteLLM

        assert isinstance(llm, RemoteLLM)  # which `goes_by_batch` says
        name = f"{llm.digest} {hash(limits_key(llm))} {llm.offline_batch_size} {llm.offline_batch_poll}"
        if name not in self._accounts:
            self._accounts[name] = asyncio.ensure_future(self._open(llm))
        try:
            return await asyncio.shield(self._accounts[name])
        except ModelError as error:  # of many rows: each raise would lengthen the traceback of the one
            raise copy.copy(error) from None

    async def _open(self, llm: RemoteLLM) -> _Account:
        """Connect, and see at once that the key is taken: a day later would be late."""
        batches = llm.make_batches()
        pauses = Pauses(self._stopped, llm.offline_batch_poll)
        keeper = Keeper(batches, self.store, self.cache, pauses, self.may_send, llm.target())
        account = _Account(llm, batches, keeper, Ladder(llm.shape_modes), most=batches.limits.max_requests)
        await pauses.persist(batches.look)
        return account

    def _known_accounts(self) -> list[_Account]:
        opened = [task for task in self._accounts.values() if task.done() and not task.cancelled()]
        return [task.result() for task in opened if task.exception() is None]

    # --- gathering ---

    def _add(
        self, account: _Account, request: Request, keys: Sequence[Key], *, replaces: bool
    ) -> asyncio.Future[Ending]:
        """Add a request to the job that is being gathered; raises RefusedRequestError where it cannot be written."""
        if keys[0] in self._drafted:  # an equal one, of a run that trusts no reply that it finds
            return self._drafted[keys[0]]
        draft = account.draft
        if draft is not None and draft.replaces != replaces:
            self._hand_over(account)
            draft = None
        if draft is None:
            draft = account.draft = Draft(self.store, replaces=replaces)
        line = account.batches.line(draft.next_name, request)
        if draft.requests and draft.n_bytes + len(line) + 1 > account.batches.limits.max_bytes:
            self._hand_over(account)
            draft = account.draft = Draft(self.store, replaces=replaces)
            line = account.batches.line(draft.next_name, request)
        ending = draft.add(line, keys)
        self._drafted[keys[0]] = ending
        ending.add_done_callback(lambda _: self._drafted.pop(keys[0], None))
        if len(draft.requests) >= account.most:
            self._hand_over(account)
        else:
            self._set_timer(account)
        return ending

    def _set_timer(self, account: _Account, waited_s: float = 0.0) -> None:
        if account.timer is not None:
            account.timer.cancel()
        over = partial(self._end_quiet, account, waited_s + self._quiet_s)
        account.timer = asyncio.get_running_loop().call_later(self._quiet_s, over)

    def _end_quiet(self, account: _Account, waited_s: float) -> None:
        """Hand over, unless what is being asked at once may lead to more: a mixture's answers, a backup."""
        if waited_s < QUIET_S and self.asks_at_once():
            self._set_timer(account, waited_s)
        else:
            self._hand_over(account)

    def _hand_over(self, account: _Account) -> None:
        draft, account.draft = account.draft, None
        if account.timer is not None:
            account.timer.cancel()
            account.timer = None
        if draft is not None:
            self._start(self._send(account, draft))

    async def _send(self, account: _Account, draft: Draft) -> None:
        """Write a job down and see it through, where it holds anything that no other job does."""
        try:
            if account.turn is not None:
                async with account.turn:
                    await self._make(account, draft)
            else:
                await self._make(account, draft)
        except BaseException as error:
            draft.discard(error if isinstance(error, Exception) else JobLeft())
            if not isinstance(error, (JobLeft, ModelError)):
                raise

    async def _make(self, account: _Account, draft: Draft) -> None:
        await either(self.may_send, self._stopped)
        if self._stopped.is_set():
            raise JobLeft
        draft.write()
        llm = account.llm
        taken = self.store.make(
            draft.marker,
            draft.requests,
            model=llm.label,
            endpoint=llm.endpoint,
            run=self.run_id,
            replaces=draft.replaces,
        )
        for number in draft.requests.keys() - taken:
            draft.end(number, False)
        taken -= self._let_go_of_known(draft, taken)
        if not taken:
            draft.discard(JobLeft())
            return
        watch = self._watches[draft.marker] = Watch(draft, is_of_this_life=True)
        await self._keep(account, draft.marker, watch, draft.take_lock())

    def _let_go_of_known(self, draft: Draft, taken: set[int]) -> set[int]:
        """Take out of a job what another has brought since it was looked up; return which requests those are.

        Only now: as long as another job holds a key, `make` does not take it, and then its reply is in the cache.
        """
        if draft.replaces:
            return set()
        found = self.cache.find([key for number in taken for key in draft.requests[number]])
        known = {number for number in taken if found.keys() >= set(draft.requests[number])}
        if known:
            self.store.let_go(draft.marker, known)
        for number in known:
            draft.end(number, True)
        return known

    # --- waiting ---

    def _join(self, account: _Account, marker: str, keys: Sequence[Key]) -> asyncio.Future[Ending]:
        """Wait for a job that somebody has made, in this process or another, now or before."""
        watch = self._watches.get(marker)
        if watch is None:
            watch = self._watches[marker] = Watch()
            self._left.pop(marker, None)
            self.store.wait(marker, self.run_id)
            self._start(self._follow(account, marker, watch))
        return watch.join(keys)

    async def _follow(self, account: _Account, marker: str, watch: Watch) -> None:
        """Look at a job that another process keeps; keep it once that has left it."""
        while True:
            record = self.store.job(marker)
            if record is None or record.state not in GOING:
                self._close_watch(marker, watch, None)
                return
            lock = self.store.lock(marker)
            if lock is not None:
                await self._keep(account, marker, watch, lock)
                return
            self._show(watch, record)
            try:
                await asyncio.wait_for(self._stopped.wait(), LOOK_EVERY_S)
            except asyncio.TimeoutError:
                continue
            self._close_watch(marker, watch, JobLeft())
            return

    async def _keep(self, account: _Account, marker: str, watch: Watch, lock: int) -> None:
        """See a job through to its end, and tell all who wait for it in this process."""
        error: Exception | None = None
        try:
            kept = await account.keeper.see_through(marker, lambda record: self._show(watch, record))
            watch.endings = kept.endings
            if kept.is_crowded:
                account.turn = account.turn or asyncio.Lock()
                account.most = max(1, kept.n_requests // 2)
            elif kept.endings:
                account.keeper.pauses.crowd_passed()
        except Exception as raised:  # noqa: BLE001 - whatever it is, the rows that wait raise it
            error = raised
        finally:
            JobStore.unlock(lock)
            if error is None and watch.endings is None:  # cancelled: the process ends
                error = JobLeft()
            self._close_watch(marker, watch, error)

    def _show(self, watch: Watch, record: JobRecord) -> None:
        view = JobView.of(record)
        if view == watch.view:
            return
        if view.id and (watch.view is None or not watch.view.id):
            told = {"job": view.id, "model": view.model, "requests": view.n_total, "run": view.run}
            self._news.append({"kind": "job_parked", **told})
        watch.view = view
        self.tell()

    def _close_watch(self, marker: str, watch: Watch, error: Exception | None) -> None:
        """Tell all who wait for a job what became of it."""
        self._watches.pop(marker, None)
        record = self.store.job(marker)
        if error is not None:
            if record is not None and record.state in GOING:
                self._left[marker] = JobView.of(record)
            watch.fail(error)
        else:
            if record is not None and record.state == "collected":
                told = {"job": record.id, "model": record.model, "answered": record.n_done}
                self._news.append({"kind": "job_collected", **told, "failed": record.n_total - record.n_done})
            watch.close(lambda keys: self._ending_of(marker, keys))
        self.tell()

    def _ending_of(self, marker: str, keys: Sequence[Key]) -> Ending:
        failure = self.store.failure(marker, keys)
        return failure if failure is not None else len(self.cache.find(keys)) == len(keys)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)


def _in_next_mode(
    ladder: Ladder, request: Request, refusals: Sequence[tuple[Request, ModelError]]
) -> Request:
    """Return the request in the best way to force its shape that was not refused."""
    if request.shape is None:
        return request
    tried = {sent.mode for sent, _ in refusals}
    return next(sent for sent in ladder.requests(request) if sent.mode not in tried)


def _learn(ladder: Ladder, sent: Request, refusals: list[tuple[Request, ModelError]]) -> None:
    ladder.accepted(sent)
    for refused, failure in refusals:
        ladder.refused(refused, failure)
    refusals.clear()


def _first_error(ends: Sequence[object]) -> ModelError | None:
    """Return the first reason for which a request brought nothing; raise what is none of the model's."""
    failure = None
    for end in ends:
        if isinstance(end, ModelError):
            failure = failure or end
        elif isinstance(end, BaseException):
            raise end
    return failure


def _nothing(llm: LLM, account: _Account) -> ModelError:
    return MalformedReplyError(
        f"{account.llm.target()} has ended jobs without a reply to this request, and without a word on it.",
        "See the job at the provider.",
        provider=llm.provider,
    )

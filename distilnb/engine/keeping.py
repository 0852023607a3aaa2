"""Keeping an offline job: it is sent once, looked at until it has ended, and collected into the reply cache.

Only the process that holds the job's lock does this. Each step is written down before the next, so that whoever takes
the lock after a kill goes on where the dead one was.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from distilnb.engine.asked import JobLeft
from distilnb.engine.cache import Key, ReplyCache
from distilnb.engine.drafts import Ending
from distilnb.engine.jobs import GOING, JobRecord, JobStore
from distilnb.errors import (
    JobNotFoundError,
    MalformedReplyError,
    ModelError,
    RefusedRequestError,
    RequestTimeoutError,
    ServerError,
    UnknownModelError,
    UnreachableError,
)
from distilnb.llms.batches import Batches, Job, Outcome
from distilnb.llms.failures import Target
from distilnb.llms.request import Reply

FIRST_POLL_S = 5.0
SLOWEST_POLL_S = 300.0
POLL_GROWTH = 1.2
FIRST_PAUSE_S = 0.5  # after a failure of the connection or the server
LONGEST_PAUSE_S = 120.0
CROWD_PAUSE_S = (30.0, 900.0)  # when too much of the account waits already, and nothing of it is ours
SETTLE_S = 10.0  # how long a provider may take to list a job whose creation brought no answer
CLOCK_SKEW_S = 3600.0
CHUNK = 500  # replies in one commit

# After these nobody knows whether the job was created.
_AMBIGUOUS = (RequestTimeoutError, UnreachableError, ServerError, MalformedReplyError)

Result = TypeVar("Result")
Shown = Callable[[JobRecord], None]


class Kept(NamedTuple):
    """What became of a job: the ending of each request, by its number; nothing where another process collected it."""

    endings: dict[int, Ending]
    n_requests: int = 0
    is_crowded: bool = False  # it was refused: too much of the account waits already


@dataclass
class Pauses:
    """How long a keeper waits, for what; every wait ends with JobLeft when the run stops."""

    stopped: asyncio.Event
    poll_s: float | None = None  # a fixed interval between two looks at a job
    _crowd_s: float = CROWD_PAUSE_S[0]

    async def wait(self, seconds: float) -> None:
        """Wait; raise JobLeft when the run stops."""
        try:
            await asyncio.wait_for(self.stopped.wait(), seconds)
        except asyncio.TimeoutError:
            return
        raise JobLeft

    async def crowd(self) -> None:
        """Wait for the account's other jobs."""
        seconds, self._crowd_s = self._crowd_s, min(2 * self._crowd_s, CROWD_PAUSE_S[1])
        await self.wait(min(seconds, self.poll_s or seconds))

    def crowd_passed(self) -> None:
        """Note that a job was taken."""
        self._crowd_s = CROWD_PAUSE_S[0]

    async def persist(
        self, ask: Callable[[], Awaitable[Result]], told: Callable[[str], None] = lambda words: None
    ) -> Result:
        """Ask until there is an answer: a job lasts longer than most failures. Raises what would stay so."""
        pause_s = FIRST_PAUSE_S
        has_failed = False
        while True:
            try:
                result = await ask()
                if has_failed:
                    told("")
                return result
            except ModelError as error:
                if not error.retryable:
                    raise
                has_failed = True
                told(error.what)
                asked_s = error.retry_after_s or 0.0
            await self.wait(max(asked_s, pause_s * random.uniform(0.5, 1.0)))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


@dataclass
class Keeper:
    """Sees the jobs of one model through."""

    batches: Batches
    store: JobStore
    cache: ReplyCache
    pauses: Pauses
    may_send: asyncio.Event
    target: Target
    _show: dict[str, Shown] = field(default_factory=dict)

    async def see_through(self, marker: str, show: Shown) -> Kept:
        """Bring a job from wherever it is to its end; raises JobLeft, StoreError, or a ModelError of all of it.

        After a ModelError the job is dropped where it is certain that the provider has not taken it; else it stays.
        """
        self._show[marker] = show
        try:
            record = self._shown(marker)
            if record is None:
                return Kept({})
            job = await self._sent(record)
            if job.stage == "going":
                job = await self._looked_at(marker, job)
            if job.stage == "refused":
                return await self._refused(record, job)
            return await self._collected(record, job)
        finally:
            del self._show[marker]

    def _shown(self, marker: str) -> JobRecord | None:
        record = self.store.job(marker)
        if record is None or record.state not in GOING:
            return None
        self._show[marker](record)
        return record

    def _note(self, marker: str) -> Callable[[str], None]:
        def note(words: str) -> None:
            self.store.note(marker, words)
            self._shown(marker)

        return note

    # --- sending ---

    async def _sent(self, record: JobRecord) -> Job:
        """Return the job as it is at the provider, sent now where it was not."""
        marker = record.marker
        if record.state == "sent":
            return await self._job(marker, record.id)
        pause_s = FIRST_PAUSE_S
        job: Job | None = None
        is_sending = record.state == "sending"
        while job is None:
            if is_sending:
                job = await self._sought(marker)
                if job is not None:
                    break
                self.store.not_sent(marker)
            try:
                job = await self._handed_over(marker)
            except ModelError as error:
                is_sending = isinstance(error, _AMBIGUOUS)
                if not is_sending:
                    self.store.not_sent(marker)
                if not is_sending and not error.retryable:
                    self.store.dropped(marker, error)
                    raise
                self._note(marker)(error.what)
                await self.pauses.wait(max(error.retry_after_s or 0.0, pause_s))
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        self.store.sent(marker, job)
        self._shown(marker)
        return job

    async def _handed_over(self, marker: str) -> Job:
        record = self.store.job(marker)
        assert record is not None
        path = self._cleaned(record)
        prepared = record.prepared
        if not prepared:
            try:
                prepared = await self.pauses.persist(
                    lambda: self.batches.prepare(path, marker), self._note(marker)
                )
            except ModelError as error:  # nothing that could be a job was sent
                self.store.dropped(marker, error)
                raise
            self.store.prepared(marker, prepared)
        while not self.may_send.is_set():  # a pause
            await self.pauses.wait(0.2)
        if self.pauses.stopped.is_set():
            raise JobLeft
        self.store.sending(marker)
        return await self.batches.create(path, prepared, marker)

    def _cleaned(self, record: JobRecord) -> Path:
        """Return the file of a job without the requests that another job has."""
        path = self.store.file(record.marker)
        numbers = self.store.entries(record.marker).keys()
        lines = path.read_bytes().splitlines(keepends=True)
        if len(lines) != len(numbers):
            names = {f"{record.marker}-{number}".encode() for number in numbers}
            kept = [line for line in lines if _name_in(line) in names]
            if len(kept) == len(numbers):
                fresh = path.with_suffix(".part")
                fresh.write_bytes(b"".join(kept))
                fresh.replace(path)
        return path

    async def _sought(self, marker: str) -> Job | None:
        """Look for a job that may have been created; None when it certainly was not."""
        record = self.store.job(marker)
        assert record is not None
        since = (record.sending_at or record.made_at) - CLOCK_SKEW_S
        others = {job.id for job in self.store.all() if job.id and job.marker != marker}
        while True:
            settled_s = (record.sending_at or 0.0) + SETTLE_S - time.time()
            is_settled = settled_s <= 0
            sought = await self.pauses.persist(
                lambda: self.batches.find(marker, record.n_total, since, others), self._note(marker)
            )
            if sought.job is not None:
                return sought.job
            if is_settled and not sought.is_unsure:
                return None
            if sought.is_unsure:
                self._note(marker)(
                    "it may be at the provider already: that shows when the jobs there have ended"
                )
            pause_s = self.pauses.poll_s or FIRST_POLL_S
            await self.pauses.wait(min(max(0.05, settled_s), pause_s) if not is_settled else pause_s)

    # --- waiting ---

    async def _looked_at(self, marker: str, job: Job) -> Job:
        """Look at a job until it has ended, less and less often."""
        pause_s = self.pauses.poll_s or FIRST_POLL_S
        while job.stage == "going":
            await self.pauses.wait(pause_s)
            if self.pauses.poll_s is None:
                pause_s = min(POLL_GROWTH * pause_s, SLOWEST_POLL_S)
            newer = await self._job(marker, job.id)
            if newer != job:
                job = newer
                self.store.sent(marker, job)
                self._shown(marker)
        return job

    async def _job(self, marker: str, job_id: str) -> Job:
        try:
            return await self.pauses.persist(lambda: self.batches.job(job_id), self._note(marker))
        except UnknownModelError as error:  # what a 404 stands for elsewhere
            raise JobNotFoundError(
                f"{self.target} does not know the offline job {job_id}: {error.what}",
                "Give the key of the account that it was handed to. If it is really gone, "
                "run.abort(cancel_jobs=True) forgets it, and run.resume() asks anew.",
                provider=self.target.provider,
                status=error.status,
            ) from None

    # --- the end ---

    async def _refused(self, record: JobRecord, job: Job) -> Kept:
        """Give the requests of a job back that did not pass its validation, or raise why."""
        assert job.failure is not None
        if not job.is_crowded:
            self.store.dropped(record.marker, job.failure)
            raise job.failure
        is_alone = not any(
            other.marker != record.marker and other.state == "sent" and other.model == record.model
            for other in self.store.going()
        )
        self._note(record.marker)(f"too much of this account waits already: {job.failure.what}")
        if record.n_total == 1 and is_alone:
            await self.pauses.crowd()
        self.store.dropped(record.marker, None)
        return Kept({}, record.n_total, is_crowded=True)

    async def _collected(self, record: JobRecord, job: Job) -> Kept:
        """Bring the results into the reply cache, and write down what has failed; only then the job is through."""
        marker = record.marker
        path = self.store.results(marker)
        if job.files:
            await self.pauses.persist(lambda: self.batches.fetch(job, path), self._note(marker))
        else:
            path.write_bytes(b"")
        entries = self.store.entries(marker)
        endings: dict[int, Ending] = {}
        pairs: list[tuple[Key, Reply]] = []
        try:
            for outcome in self.batches.outcomes(path):
                number = _number_of(marker, outcome.name)
                if number not in entries:
                    continue
                if outcome.answer is not None:
                    pairs += zip(entries[number], outcome.answer.replies, strict=False)
                    endings[number] = True
                else:
                    endings[number] = self._why(record, job, outcome)
                if len(pairs) >= CHUNK:
                    await self.cache.keep(pairs, replace=record.replaces)
                    pairs = []
        except ValueError as error:
            raise MalformedReplyError(
                f"The results of the offline job {job.id} of {self.target} cannot be read: {error}.",
                "Resume the run: they are fetched again.",
                provider=self.target.provider,
            ) from error
        await self.cache.keep(pairs, replace=record.replaces)
        for number in entries.keys() - endings.keys():
            endings[number] = self._why(
                record, job, Outcome("", end="cancelled" if job.is_cancelling else "failed")
            )
        failures = {
            key: ending
            for number, ending in endings.items()
            if isinstance(ending, ModelError)
            for key in entries[number]
        }
        self.store.collected(marker, sum(ending is True for ending in endings.values()), failures)
        return Kept(endings, record.n_total)

    def _why(self, record: JobRecord, job: Job, outcome: Outcome) -> Ending:
        """Return why a request has no answer; False where its user has called the job off, and asks again now."""
        if outcome.failure is not None:
            return outcome.failure
        if outcome.end == "expired":
            return RequestTimeoutError(
                f"{self.target} did not come to this request before the offline job {job.id} expired.",
                "It is asked again, in another job.",
                provider=self.target.provider,
            )
        if outcome.end == "cancelled":
            newest = self.store.job(record.marker)
            if newest is not None and newest.is_cancelling:
                return False
            return RefusedRequestError(
                f"The offline job {job.id} of {self.target} was cancelled there before this request was done.",
                "run.retry() asks again.",
                provider=self.target.provider,
            )
        return ServerError(
            f"{self.target} has ended the offline job {job.id} without a word on this request.",
            "It is asked again, in another job.",
            provider=self.target.provider,
        )


def _number_of(marker: str, name: str) -> int:
    """Return the number of a request by its name; -1 where it is of another job."""
    own, _, number = name.rpartition("-")
    return int(number) if own == marker and number.isdigit() else -1


def _name_in(line: bytes) -> bytes:
    """Return the name of a request that a line begins with."""
    return line.split(b'"', 4)[3] if line.startswith(b'{"custom_id"') else b""

"""A job while it is gathered, and who waits for it once it is handed over."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeAlias

from distilnb.engine.cache import Key
from distilnb.engine.jobs import JobRecord, JobStore, new_marker
from distilnb.errors import ModelError, StoreError

# Of one request of a job: True, its replies are in the cache; False, it must be asked anew; else why it has none.
Ending: TypeAlias = "ModelError | bool"


@dataclass(frozen=True, slots=True)
class JobView:
    """How a job stands, as it is shown. `state` is gathering, sending, parked, collecting or cancelling.

    Times are seconds since the epoch, 0 where they are not known.
    """

    state: str
    id: str
    model: str
    n_total: int = 0
    n_done: int = 0
    n_failed: int = 0
    since: float = 0.0
    expires_at: float = 0.0
    note: str = ""
    marker: str = ""
    run: str = ""

    @classmethod
    def of(cls, record: JobRecord) -> JobView:
        """Return a job as it is written down."""
        state = "cancelling" if record.is_cancelling else "parked" if record.state == "sent" else "sending"
        if record.state == "sent" and record.n_total and record.n_done + record.n_failed >= record.n_total:
            state = "collecting"
        return cls(
            state,
            record.id,
            record.model,
            n_total=record.n_total,
            n_done=record.n_done,
            n_failed=record.n_failed,
            since=record.sent_at or record.made_at,
            expires_at=record.expires_at or 0.0,
            note=record.note,
            marker=record.marker,
            run=record.run,
        )


class Draft:
    """A job that is being gathered: a file of requests, which nobody else may take up.

    Raises StoreError.
    """

    def __init__(self, store: JobStore, *, replaces: bool) -> None:
        self.marker = new_marker()
        self.replaces = replaces
        self.requests: dict[int, list[Key]] = {}
        self.n_bytes = 0
        self._store = store
        self._endings: dict[int, asyncio.Future[Ending]] = {}
        lock = store.lock(self.marker)
        assert lock is not None  # nobody knows the marker
        self._lock: int | None = lock
        self._is_made = False
        with self._telling():
            self._file: BinaryIO = os.fdopen(
                os.open(store.file(self.marker), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
            )

    @property
    def next_name(self) -> str:
        """The name of the next request, under which its outcome comes back."""
        return f"{self.marker}-{len(self.requests)}"

    def add(self, line: bytes, keys: Sequence[Key]) -> asyncio.Future[Ending]:
        """Add a request for the replies under these keys; what becomes of it is in the future."""
        number = len(self.requests)
        with self._telling():
            self._file.write(line + b"\n")
        self.requests[number] = list(keys)
        self.n_bytes += len(line) + 1
        ending = self._endings[number] = asyncio.get_running_loop().create_future()
        return ending

    def write(self) -> None:
        """Make the file safe, against a power cut too."""
        with self._telling():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        self._is_made = True

    def take_lock(self) -> int:
        """Return the job's lock, which the draft then holds no more."""
        assert self._lock is not None
        lock, self._lock = self._lock, None
        return lock

    def end(self, number: int, ending: Ending) -> None:
        """Tell what became of a request."""
        waiter = self._endings.get(number)
        if waiter is not None and not waiter.done():
            waiter.set_result(ending)

    def discard(self, error: Exception) -> None:
        """Give the draft up: who waits still raises `error`. A job that was made of it stays."""
        self.fail(error)
        if not self._is_made:
            with contextlib.suppress(OSError):
                self._file.close()
        record = self._store.job(self.marker)
        if record is None or record.state == "dropped":
            with contextlib.suppress(OSError):
                self._store.file(self.marker).unlink(missing_ok=True)
                (self._store.folder / f"{self.marker}.lock").unlink(missing_ok=True)
        if self._lock is not None:
            JobStore.unlock(self.take_lock())

    def fail(self, error: Exception) -> None:
        """Let all who wait raise an error."""
        for waiter in self._endings.values():
            _raise_in(waiter, error)

    def _telling(self) -> contextlib.AbstractContextManager[None]:
        return _telling(self._store)


@contextlib.contextmanager
def _telling(store: JobStore) -> Any:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"The requests of an offline job cannot be written to {str(store.folder)!r}: {error}.",
            "Free some disk space, or set DISTILNB_HOME to a folder that can be written; then resume.",
        ) from error


@dataclass
class Watch:
    """Who waits for one job in this process: the requests that it was made of here, and others."""

    draft: Draft | None = None
    is_of_this_life: bool = False
    view: JobView | None = None
    endings: dict[int, Ending] | None = None  # by the number of the request, from whoever collected them
    _joined: list[tuple[Sequence[Key], asyncio.Future[Ending]]] = field(default_factory=list)

    def join(self, keys: Sequence[Key]) -> asyncio.Future[Ending]:
        """Wait for some of the job's keys."""
        ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._joined.append((keys, ending))
        return ending

    def close(self, look_up: Callable[[Sequence[Key]], Ending]) -> None:
        """Tell all who wait what became of their requests."""
        if self.draft is not None:
            known = self.endings or {}
            for number, own in self.draft.requests.items():
                self.draft.end(number, known[number] if number in known else look_up(own))
        for keys, waiter in self._joined:
            if not waiter.done():
                waiter.set_result(look_up(keys))

    def fail(self, error: Exception) -> None:
        """Let all who wait raise an error."""
        if self.draft is not None:
            self.draft.fail(error)
        for _, waiter in self._joined:
            _raise_in(waiter, error)


def _raise_in(waiter: asyncio.Future[Ending], error: Exception) -> None:
    if not waiter.done():
        waiter.set_exception(error)
        waiter.exception()  # a row that was cancelled does not fetch it, and asyncio would complain

"""Watching the workers: who is stuck, who is only busy, and who has been at one thing for too long.

Stuck: no beat, and no processor used meanwhile (or stopped by a signal). Such a worker is killed at once. Busy: no
beat, but the processor is used: C code that holds Python's lock, as a catastrophic regular expression does. It is
told, and killed only after a long limit. Without /proc the two cannot be told apart, and the long limit alone counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from distilnb.engine.processes import look_at
from distilnb.engine.vitals import LastWords, Vitals

LOOK_EVERY_S = 0.1
SILENT_S = 1.5  # without a beat (one is due each 0.25 s): found within 2 s, the time to look included
STARTING_S = 30.0  # until the first beat: imports from a slow disk
USED_CPU_S = 0.03  # less is what a thread uses that waits for Python's lock
JUMP_S = 1.0  # between two turns of the runner: it was stopped itself, or the machine was
BLOCKED_LIMIT_S = 120.0  # for a row whose code lets nothing else in its process run
ROW_LIMIT_S = 600.0  # for a row (or one call for several) of a row step, while the process beats
NO_ROW_FACTOR = (
    10  # for work that is nobody's row (a load, a source, a global step), where killing helps less
)


class Watched(Protocol):
    """What of a worker is looked at."""

    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def pid(self) -> int: ...
    @property
    def is_ready(self) -> bool: ...
    @property
    def vitals(self) -> Vitals: ...


class Finding(NamedTuple):
    """What the watch has found about a worker: `stuck` and `overdue` ones are to be killed.

    `is_own_doing` says that the row it is at, if any, is the cause.
    """

    worker: str
    kind: Literal["stuck", "overdue", "busy", "awake"]
    why: str = ""
    is_own_doing: bool = False


@dataclass
class _Lease:
    """What was last seen of one process, and when (monotonic seconds)."""

    pid: int
    pulse: int
    pulse_at: float
    work: tuple[int, LastWords | None]
    work_at: float
    cpu_s: float | None = None  # when it was first found silent, or last found to use the processor
    active_at: float = 0.0
    is_told: bool = False


class Watch:
    """Remembers what each worker last showed."""

    def __init__(self, *, blocked_limit_s: float = BLOCKED_LIMIT_S, row_limit_s: float = ROW_LIMIT_S) -> None:
        self.blocked_limit_s = blocked_limit_s
        self.row_limit_s = row_limit_s
        self._leases: dict[str, _Lease] = {}
        self._looked_at: float | None = None

    def look(self, workers: Iterable[Watched], now: float | None = None) -> Iterator[Finding]:
        """Look at all workers, at most once per LOOK_EVERY_S, and yield what is new or to be acted upon."""
        now = time.monotonic() if now is None else now
        since = None if self._looked_at is None else now - self._looked_at
        if since is not None and since < LOOK_EVERY_S:
            return
        self._looked_at = now
        if since is not None and since > JUMP_S:
            # Nobody was watched in between: the workers were as likely stopped as this process.
            self._leases.clear()
        for worker in workers:
            finding = self._look_at(worker, now)
            if finding:
                yield finding

    def _look_at(self, worker: Watched, now: float) -> Finding | None:
        lease = self._leases.get(worker.name)
        pulse = worker.vitals.pulse
        work = (worker.vitals.moves, worker.vitals.words())
        if lease is None or lease.pid != worker.pid:
            self._leases[worker.name] = _Lease(worker.pid, pulse, now, work, now)
            return None
        if work != lease.work:
            lease.work, lease.work_at = work, now
        if pulse == lease.pulse:
            return self._silent(worker, lease, now)
        lease.pulse, lease.pulse_at, lease.cpu_s = pulse, now, None
        return self._beating(worker, lease, now)

    def _silent(self, worker: Watched, lease: _Lease, now: float) -> Finding | None:
        """No beat since the last look."""
        silent_s = now - lease.pulse_at
        if silent_s < SILENT_S / 2:
            return None
        sight = look_at(worker.pid)
        if sight is not None:
            if lease.cpu_s is None:
                lease.cpu_s, lease.active_at = sight.cpu_s, lease.pulse_at
            elif sight.cpu_s - lease.cpu_s >= USED_CPU_S:
                lease.cpu_s, lease.active_at = sight.cpu_s, now
            if sight.is_stopped and silent_s >= SILENT_S:
                return Finding(worker.name, "stuck", "it was stopped by a signal")
            patience_s = SILENT_S if lease.pulse else STARTING_S
            if now - max(lease.active_at, lease.pulse_at) >= patience_s and not sight.is_runnable:
                return Finding(
                    worker.name,
                    "stuck",
                    f"no sign of life and no processor used for {silent_s:.1f} s",
                    is_own_doing=True,
                )
        if not lease.pulse or silent_s < SILENT_S:
            return None
        return self._busy(worker, lease, silent_s, self.blocked_limit_s, "code that lets nothing else run")

    def _beating(self, worker: Watched, lease: _Lease, now: float) -> Finding | None:
        """It lives. Whether its work goes on is another question."""
        still_s = now - lease.work_at
        if worker.role == "ask":  # its loop moves whatever happens, unless something blocks it
            if worker.is_ready and still_s >= SILENT_S:
                return self._busy(
                    worker, lease, still_s, self.blocked_limit_s, "code that blocks its event loop"
                )
        elif lease.work[1] is not None and still_s >= self.row_limit_s:
            return Finding(worker.name, "overdue", _for(still_s, "no progress"), is_own_doing=True)
        if lease.is_told:
            lease.is_told = False
            return Finding(worker.name, "awake")
        return None

    def _busy(self, worker: Watched, lease: _Lease, for_s: float, limit_s: float, why: str) -> Finding | None:
        words = lease.work[1]
        if for_s >= (limit_s if words else NO_ROW_FACTOR * limit_s):
            return Finding(worker.name, "overdue", _for(for_s, why), is_own_doing=True)
        if lease.is_told:
            return None
        lease.is_told = True
        return Finding(worker.name, "busy", why)


def _for(seconds: float, what: str) -> str:
    return f"{what} for {seconds:.0f} s"

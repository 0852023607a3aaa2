"""How the runner is controlled while it works: whether it is paused or is to end, its limits, its running time.

The decisions are here, without processes or files; the runner tells its workers and its journal what follows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from distilnb.engine.limits import RunLimits

MAX_PAUSE_S = 3600.0  # a paused run keeps processes and memory: past an hour it stops, and can be resumed
LONGEST_TURN_S = 5.0  # of what is counted as running: a machine that slept did not run
NOTE_RAN_EVERY_S = 1.0  # how much running time a killed runner may forget


class Ending(NamedTuple):
    """How a run is to end once what is in flight has ended."""

    state: str  # stopped or failed
    reason: str
    error: str = ""
    step: str = ""  # that failed
    reached: dict[str, float] = {}  # the limits that ended it; never changed in place


@dataclass
class Control:
    """What a run is told, and what it tells itself by the clock."""

    limits: RunLimits = field(default_factory=RunLimits)
    ran_s: float = 0.0  # over the whole life of the run; pauses are left out
    clock: Callable[[], float] = time.monotonic
    ending: Ending | None = None
    _paused_at: float | None = None
    _seen_at: float | None = None
    _noted_ran_s: float = -NOTE_RAN_EVERY_S

    @property
    def is_paused(self) -> bool:
        """Whether nothing new may start until the run is resumed."""
        return self._paused_at is not None

    @property
    def is_stopping(self) -> bool:
        """Whether nothing new may start at all."""
        return self.ending is not None

    def pause(self) -> bool:
        """Pause; returns whether that changes anything."""
        if self.is_paused or self.is_stopping:
            return False
        self._paused_at = self.clock()
        return True

    def resume(self) -> bool:
        """End a pause; returns whether there was one."""
        was_paused, self._paused_at = self.is_paused, None
        return was_paused

    def stop(self, ending: Ending) -> bool:
        """Let the run end; the first reason counts. Returns whether that changes anything."""
        if self.is_stopping:
            return False
        self.ending, self._paused_at = ending, None
        return True

    def tick(self) -> Ending | None:
        """Count the time since the last call; returns how the run must end when its time is over."""
        now = self.clock()
        passed_s = now - self._seen_at if self._seen_at is not None else 0.0
        self._seen_at = now
        if self.is_stopping:
            return None
        if self._paused_at is not None:
            return Ending("stopped", "paused") if now - self._paused_at >= MAX_PAUSE_S else None
        self.ran_s += min(passed_s, LONGEST_TURN_S)
        limit_s = self.limits.max_time
        if limit_s is not None and self.ran_s >= limit_s:
            return Ending("stopped", f"time: max_time {limit_s:g} s", reached={"max_time": limit_s})
        return None

    def must_note_ran(self) -> bool:
        """Whether the running time is to be written down now; each call that says so counts as done."""
        if self.ran_s - self._noted_ran_s < NOTE_RAN_EVERY_S:
            return False
        self._noted_ran_s = self.ran_s
        return True

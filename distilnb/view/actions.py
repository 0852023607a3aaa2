"""The buttons of a run's panel: when each can be pressed, what it does, and what is said then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from distilnb.engine.status import RunStatus


class Controlled(Protocol):
    """What a panel may do to a run."""

    def pause(self) -> object:
        """Start nothing new."""

    def resume(self) -> object:
        """Go on."""

    def stop(self) -> object:
        """Finish what is in flight, then end."""

    def retry(self) -> object:
        """Do the failed rows again."""


@dataclass(frozen=True)
class Action:
    """A button. `fits` tells for a status whether it can be pressed; what `do` raises is shown beside it."""

    label: str
    tooltip: str
    told: str  # once it was pressed
    fits: Callable[[RunStatus], bool]
    do: Callable[[], object]


def run_actions(run: Controlled) -> tuple[Action, ...]:
    """Return the buttons of a run, each with the method of the same name behind it."""
    return (
        Action(
            "Pause",
            "Start nothing new; what is in flight is finished and kept",
            "Pausing: what is in flight is finished first.",
            lambda status: status.state in ("starting", "running"),
            run.pause,
        ),
        Action(
            "Resume",
            "Go on with the paused run",
            "Going on.",
            lambda status: status.state == "paused",
            run.resume,
        ),
        Action(
            "Stop",
            "Finish what is in flight, then stop; the run can be resumed",
            "Stopping: what is in flight is finished first.",
            lambda status: status.state in ("starting", "running", "paused"),
            run.stop,
        ),
        Action(
            "Retry failed",
            "Do the rows in quarantine again, nothing else",
            "Failed rows are done again.",
            lambda status: status.state in ("running", "paused") and any(s.failed for s in status.steps),
            run.retry,
        ),
    )

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

    def push_to_hub(self, repo_id: str, *, private: bool, partial: bool) -> object:
        """Push what is finished; return where it is."""


@dataclass(frozen=True)
class Action:
    """A button. `fits` tells for a status whether it can be pressed; what `do` raises is shown beside it.

    Where it `asks`, it shows a field with these words in it first, and `do` gets the answer, in a thread of its own:
    what it returns is shown.
    """

    label: str
    tooltip: str
    told: str  # once it was pressed
    fits: Callable[[RunStatus], bool]
    do: Callable[..., object]
    asks: str = ""
    warns: Callable[[], str] = (
        str  # what is said at a first press, so that only a second one acts; "" for nothing
    )


def run_actions(
    run: Controlled, before_retry: Callable[[], str] = str, before_resume: Callable[[], str] = str
) -> tuple[Action, ...]:
    """Return the buttons of a run, each with the method of the same name behind it.

    `before_retry` and `before_resume` tell what that may cost where it is to be confirmed, else "".
    """
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
            warns=before_resume,
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
            warns=before_retry,
        ),
        Action(
            "Push",
            "Push the rows that are finished to the Hugging Face Hub, as a private dataset",
            "Pushing what is finished, as a private dataset.",
            lambda status: any(step.made for step in status.steps[-1:]),
            lambda repo_id: run.push_to_hub(repo_id, private=True, partial=True),
            asks="owner/name on the Hub",
        ),
    )

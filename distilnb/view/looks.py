"""States as icon, word and tone: never a colour alone."""

from __future__ import annotations

from typing import Literal, NamedTuple

from distilnb.engine.standing import Standing
from distilnb.engine.status import RunState, RunStatus, StepState, StepStatus
from distilnb.view import figures

Tone = Literal["ok", "busy", "bad", "warn", "idle"]

# Middle tones: each stands out at 3.9 : 1 or more on white and on black, so borders and icons need no theme.
COLOURS: dict[Tone, str] = {
    "ok": "#2a9148",
    "busy": "#2b7de9",
    "bad": "#dd4b43",
    "warn": "#b87000",
    "idle": "#808080",
}


class Look(NamedTuple):
    """How a state shows itself."""

    icon: str
    word: str
    tone: Tone

    def __str__(self) -> str:
        return f"{self.icon} {self.word}"


_STEPS: dict[StepState, Look] = {
    "waiting": Look("○", "waiting", "idle"),
    "running": Look("►", "running", "busy"),
    "finished": Look("✓", "finished", "ok"),
    "failed": Look("✕", "failed", "bad"),
}
_RUNS: dict[RunState, Look] = {
    "starting": Look("○", "starting", "idle"),
    "running": Look("►", "running", "busy"),
    "paused": Look("‖", "paused", "warn"),
    "stopping": Look("■", "stopping", "warn"),
    "finished": Look("✓", "finished", "ok"),
    "stopped": Look("■", "stopped", "warn"),
    "failed": Look("✕", "failed", "bad"),
    "lost": Look("✕", "lost", "bad"),
}
EDITED = Look("✎", "edited", "warn")
PARKED = Look("◷", "parked", "busy")
WARNING = Look("⚠", "warning", "warn")
FAILED_ROW = Look("✕", "failed", "bad")
PARTIAL_ROW = Look("◐", "partial", "warn")


def run_look(status: RunStatus) -> Look:
    """Return the look of a run; a stopped one says why."""
    look = PARKED if status.is_parked else _RUNS[status.state]
    if status.state in {"stopped", "stopping"} and status.reason:
        return look._replace(word=f"{look.word} ({status.reason})")
    return look


def step_look(step: StepStatus, run: RunStatus) -> Look:
    """Return the look of a step: in a run that has ended nothing runs; before one, all is to run."""
    if not run.id and step.state == "waiting":
        if step.total and step.cached >= step.total:
            return Look("✓", "cached", "ok")
        known = (
            f"cached {figures.count(step.cached)}/{figures.count(step.total)}, "
            if step.cached and step.total
            else ""
        )
        return Look("○", f"{known}to run", "idle")
    if run.is_ended and step.state == "running":
        return Look("■", "unfinished", "warn")
    if run.state == "paused" and step.state == "running":
        return _RUNS["paused"]
    if run.is_ended and step.state == "waiting":
        return Look("○", "not run", "idle")
    return _STEPS[step.state]


def standing_look(standing: Standing) -> Look:
    """Return the look of a step before a run: what is there of it already, what is to run, what has changed."""
    if standing.n_rows is not None:
        look = Look("●", figures.plural(standing.n_rows, "row"), "idle")
    elif standing.looked_at and standing.cached >= standing.looked_at and not standing.failed:
        look = Look("✓", f"cached {_share(standing)}", "ok")
        if standing.is_of_sample or (standing.total or 0) > standing.looked_at:
            look = look._replace(word=f"{look.word}, rest to run")
    elif standing.failed:
        look = Look("✕", f"failed {_share(standing, standing.failed)}", "bad")
    elif standing.cached:
        look = Look("◐", f"cached {_share(standing)}, rest to run", "busy")
    elif standing.is_stale:
        look = Look("↻", "stale, to run", "warn")
    else:
        look = Look("○", "to run", "idle")
    if not standing.is_edited:
        return look
    return Look(EDITED.icon, f"{EDITED.word}, {look.word.removeprefix('stale, ')}", EDITED.tone)


def _share(standing: Standing, n: int | None = None) -> str:
    """Return of how many rows something is known to hold, as in 5/412."""
    of = standing.total if standing.total is not None and n is None else standing.looked_at
    told = figures.count(standing.cached if n is None else n)
    if of:
        told += f"/{figures.count(of)}"
    return told + " of the sample" * standing.is_of_sample


def step_cost(step: StepStatus) -> str:
    """Return what a step has cost; "" when it asked no model, "free" when the model is."""
    if step.cost_usd == 0 and not step.asked:
        return "$0" if step.cached else ""
    about = "≈ " if step.guessed and step.cost_usd else ""
    return about + figures.money(step.cost_usd, is_free=step.asked > 0)


def progress(step: StepStatus) -> str:
    """Return rows through and expected, as in 612/824; made rows for a source; "" before the first."""
    through = step.ended or (step.made if step.total is None else 0)
    if step.total is not None:
        return f"{figures.count(through)}/{figures.count(step.total)}"
    return figures.count(through) if through else ""


def eta_s(step: StepStatus) -> float | None:
    """Return the seconds that a running step still needs at its recent rate, None when that is unknown."""
    if step.state != "running" or step.total is None or step.rows_per_s <= 0:
        return None
    return max(0, step.total - step.ended) / step.rows_per_s


def refused(status: RunStatus) -> list[str]:
    """Return what is to be told of models that asked for fewer requests."""
    return [
        f"{model} asked for fewer requests {figures.plural(n, 'time')} (HTTP 429)"
        + ("" if status.is_ended else f"; at most {figures.count(concurrency)} at once now")
        for model, n, concurrency in status.refusals
    ]


def remarks(step: StepStatus) -> list[tuple[str, Tone]]:
    """Return what else is to be told of a step's rows, the worst first."""
    told: list[tuple[str, Tone]] = []
    if step.failed:
        told.append((f"✕ {figures.count(step.failed)} failed", "bad"))
    if step.partial:
        told.append((f"◐ {figures.count(step.partial)} partial", "warn"))
    if step.truncated:
        told.append((f"✂ {figures.count(step.truncated)} cut off", "warn"))
    if step.in_flight:
        told.append((f"{figures.count(step.in_flight)} in flight", "idle"))
    if step.stood_in:
        told.append((f"{figures.count(step.stood_in)} by a backup", "warn"))
    if step.cached:
        told.append((f"{figures.count(step.cached)} cached", "idle"))
    if step.dropped:
        reasons = ", ".join(f"{figures.count(n)} {why}" for why, n in step.drop_reasons.items())
        told.append((f"{figures.count(step.dropped)} dropped" + (f" ({reasons})" if reasons else ""), "idle"))
    if step.reasked:
        told.append((f"{figures.count(step.reasked)} re-asked", "idle"))
    if step.retries:
        told.append((figures.count(step.retries) + (" retry" if step.retries == 1 else " retries"), "idle"))
    return told

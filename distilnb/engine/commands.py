"""What a user tells a run from outside: commands left for its runner, changed limits, and a new runner."""

from __future__ import annotations

import time
from collections.abc import Mapping

from distilnb.engine.intake import missing_rows
from distilnb.engine.journal import START_AGAIN
from distilnb.engine.keys import resolve_keys
from distilnb.engine.launch import start_runner
from distilnb.engine.limits import checked_change
from distilnb.engine.reading import RunReader
from distilnb.engine.retry_orders import read_orders
from distilnb.engine.rundir import RunDir
from distilnb.engine.status import RunStatus
from distilnb.engine.versions import read_versions, run_key_sources
from distilnb.errors import RunError
from distilnb.llms.prices import check_priced
from distilnb.tasks.base import Task

RESUME_PATIENCE_S = 30.0  # for a stopping run to let go
TAKES_ORDERS = ("starting", "running", "paused")  # of a run whose runner carries out what it is told
_POLL_S = 0.005


def leave_command(reader: RunReader, status: RunStatus, name: str) -> None:
    """Leave a command for the runner; nothing when the run has ended."""
    # An ended run may wait for its steps to unload, which an abort cuts short.
    if not status.is_ended or (name == "abort" and reader.run.is_locked()):
        reader.run.command(name)


def end_now(reader: RunReader, secrets: Mapping[str, str], *, cancel_jobs: bool) -> str:
    """Let a run abort, and with `cancel_jobs` call its offline jobs off; returns in words what became of those."""
    leave_command(reader, reader.status(), "abort")
    if not cancel_jobs:
        return ""
    from distilnb.engine.cancelling import cancel_jobs_of  # few runs need it

    await_exit(reader.run, RESUME_PATIENCE_S)
    return cancel_jobs_of(reader, secrets)


def change_limits(reader: RunReader, step: str | None, values: Mapping[str, object]) -> None:
    """Leave changed limits for the runner, or for the next one; `values` by name, None where one stays.

    Raises RunError for a finished run, UnknownPriceError for `max_cost` where a model has no price, and what
    `checked_change` raises.
    """
    if reader.status().state == "finished":
        raise RunError(f"Run {reader.run.run_id!r} is finished.", "Start the pipeline again for new rows.")
    payload = checked_change(reader.plan, step, values)
    if payload["changes"].get("max_cost") is not None:
        _check_prices(reader)
    reader.run.command("adjust", **payload)


def go_on(reader: RunReader, secrets: Mapping[str, str]) -> None:
    """Let a run go on: end its pause, or start a runner; nothing when it runs.

    Raises RunError when keys are missing, when the run is finished, still stopping, or stopped by a limit that was
    not raised.
    """
    run = reader.run
    state = reader.status().state
    if state == "paused" or (state == "starting" and run.has_command("pause")):
        run.command("resume")
    if state in TAKES_ORDERS:
        return
    check_may_go_on(reader, secrets)
    start_again(reader, secrets)


def check_may_go_on(reader: RunReader, secrets: Mapping[str, str]) -> None:
    """Raise RunError when `go_on` would refuse a run, whether it ends soon or not; nothing is changed."""
    state = reader.status().state
    if state in TAKES_ORDERS:
        return
    check_keys(reader, secrets, "resume")
    if state == "finished" and not _has_waiting_order(reader):
        raise RunError(f"Run {reader.run.run_id!r} is finished.", "Start the pipeline again for new rows.")
    check_may_start(reader)


def check_keys(reader: RunReader, secrets: Mapping[str, str], verb: str) -> None:
    """Raise RunError when a key is missing that was given literally: of the plan's steps, or of edited ones."""
    run = reader.run
    places = [*reader.plan.options["secrets"]]
    places += [place for version in read_versions(run) for place in version.secrets]
    missing = [path for path in places if path not in secrets]
    if missing:
        raise RunError(
            f"Run {run.run_id!r} was started with keys that are not stored: {missing}.",
            f"Give them again: run.{verb}(secrets={{{missing[0]!r}: '...'}}).",
        )


def check_may_start(reader: RunReader) -> None:
    """Raise RunError when a limit stopped the run that was not raised since."""
    reached = reader.limits_reached()
    if reached:
        limit = reached[0].partition(" ")[0]
        raise RunError(
            f"Run {reader.run.run_id!r} was stopped by {', '.join(reached)}, and would be again at once.",
            f"Raise it first: run.adjust({limit}=...), or float('inf') for no limit.",
        )


def check_found_keys(reader: RunReader, secrets: Mapping[str, str]) -> None:
    """Raise MissingKeyError when a key is gone from where it came from that a new runner would need."""
    if reader.status().state not in TAKES_ORDERS:
        resolve_keys(run_key_sources(reader.run, reader.plan), secrets)


def start_again(reader: RunReader, secrets: Mapping[str, str]) -> None:
    """Start a runner for a run that has ended, or is about to.

    Raises RunError when it goes on stopping, MissingKeyError when a key is gone from where it came from.
    """
    run = reader.run
    await_exit(run, RESUME_PATIENCE_S)  # it may be stopping still
    if run.is_locked():
        raise RunError(
            f"Run {run.run_id!r} is still stopping: what is in flight ends first.",
            "Try again in a moment, or stop it at once with run.abort().",
        )
    lack = missing_rows(run, reader.plan)
    if lack:
        raise RunError(f"Run {run.run_id!r} cannot go on to its end. {lack}", START_AGAIN)
    keys = resolve_keys(run_key_sources(run, reader.plan), secrets)
    start_runner(run, reader.plan, {**keys, **secrets})


def _has_waiting_order(reader: RunReader) -> bool:
    """Whether a retry was ordered that no runner has taken up: it was killed before."""
    known = reader.orders()
    return any(order.name not in known for order in read_orders(reader.run))


def await_exit(run: RunDir, patience_s: float) -> None:
    """Give a runner some time to let its lock and its workers go."""
    deadline = time.monotonic() + patience_s
    while run.is_locked() and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _check_prices(reader: RunReader) -> None:
    """Raise when some model of the run has no price: the budget could not be kept."""
    for name, step in reader.pipeline_file().graph.steps.items():
        llms = step.llm.senders() if isinstance(step, Task) and step.llm is not None else ()
        for llm in llms:
            check_priced(llm, name)

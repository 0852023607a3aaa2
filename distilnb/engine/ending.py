"""The end of a run whose journal cannot be written: told beside it, in space that was taken while there was some.

`end.json` has its full size from the start, so that a full disk cannot refuse it; it is written in place.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, NamedTuple

from distilnb.engine.rundir import RunDir
from distilnb.errors import StoreError

SIZE_BYTES = 4096
MAX_ERROR_CHARACTERS = 600  # of up to six bytes each, as JSON writes them
_LAST_LINE = "The run has ended: "  # in the runner's log, when not even `end.json` can be written


class End(NamedTuple):
    """How a run ended, and when (seconds since the epoch)."""

    state: str
    reason: str
    error: str
    at: float


def deleted_journal(run: RunDir) -> StoreError:
    """Make the error for a journal that is gone while its runner lives."""
    what = f"The journal {str(run.journal)!r} was deleted."
    return StoreError(what, "A resume begins anew: what was asked is in the cache and costs nothing.")


def take_space(run: RunDir) -> None:
    """Make room for the end, and forget that of an earlier runner; raises OSError when the disk refuses."""
    _write(run, b"", os.O_CREAT)


def tell_end(run: RunDir, state: str, reason: str, error: str) -> None:
    """Write how the run ended where that can still be written; never raises."""
    end = End(state, reason, error[:MAX_ERROR_CHARACTERS], time.time())
    text = json.dumps(end._asdict())
    try:
        _write(run, text.encode(), 0)
    except OSError as refused:
        try:
            sys.stderr.write(f"end.json cannot be written: {refused}.\n{_LAST_LINE}{text}\n")
            sys.stderr.flush()
        except OSError:  # then only the state of the disk can tell
            pass


def read_end(run: RunDir) -> End | None:
    """Return what `tell_end` wrote after the last runner began, None when it wrote nothing."""
    try:
        text = (run.path / "end.json").read_text().strip("\0 \n")
    except OSError:
        text = ""
    return _parse(text) or _end_in_log(run)


def _end_in_log(run: RunDir) -> End | None:
    line = run.log_tail("runner", 1)
    end = _parse(line[len(_LAST_LINE) :]) if line.startswith(_LAST_LINE) else None
    return end if end and end.at > run.runner_started_at() else None  # else it is that of an earlier runner


def _parse(text: str) -> End | None:
    try:
        told: dict[str, Any] = json.loads(text)
        return End(str(told["state"]), str(told["reason"]), str(told["error"]), float(told["at"]))
    except (ValueError, KeyError, TypeError):
        return None


def what_ails(run: RunDir) -> str:
    """Return why the run directory cannot be written now, "" when it can."""
    try:
        disk = os.statvfs(run.path)
    except OSError as error:
        return f"The run directory cannot be read: {error}."
    if disk.f_flag & os.ST_RDONLY:
        return "The run directory is on a file system that is read-only now."
    if not disk.f_bavail:
        return "The disk of the run directory is full."
    if not os.access(run.path, os.W_OK):
        return "The run directory is not yours to write."
    return ""


def _write(run: RunDir, text: bytes, flags: int) -> None:
    descriptor = os.open(run.path / "end.json", os.O_WRONLY | flags, 0o600)
    try:
        os.pwrite(descriptor, text.ljust(SIZE_BYTES), 0)
    finally:
        os.close(descriptor)

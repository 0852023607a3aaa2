"""Looking after what distilnb keeps: how large its two caches are, what of them may go, which old runs may go."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from distilnb.engine.cache import ReplyCache, open_replies
from distilnb.engine.cache_limit import UNREADABLE_FIX, delete_some, size_limit
from distilnb.engine.database import telling
from distilnb.engine.journal import JournalReader
from distilnb.engine.row_cache import RowCache, open_results
from distilnb.engine.rundir import RunDir, all_run_dirs
from distilnb.errors import InputError, StoreError

_DAY_S = 86_400.0


@dataclass(frozen=True)
class CacheInfo:
    """What the reply cache holds: sizes in bytes, times in seconds since 1970."""

    path: Path
    n_bytes: int
    limit_bytes: int | None
    n_replies: int
    oldest: float | None
    newest: float | None
    by_model: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # model → replies, output tokens


@dataclass(frozen=True)
class ResultsInfo:
    """What the cache of step results (`cache=True`) holds: sizes in bytes, times in seconds since 1970."""

    path: Path
    n_bytes: int
    limit_bytes: int | None
    n_results: int
    oldest: float | None
    newest: float | None


class Cleared(NamedTuple):
    """How many replies, and results of steps, were deleted."""

    n_replies: int
    n_results: int


def cache_info() -> CacheInfo:
    """Return what the reply cache holds; zeros when there is none yet. Raises StoreError."""
    path = ReplyCache.default_path()
    limit = size_limit()
    if not path.is_file():
        return CacheInfo(path, 0, limit, 0, None, None)
    with (
        closing(open_replies(path)) as db,
        telling(f"The reply cache {str(path)!r} cannot be read", UNREADABLE_FIX),
    ):
        models = {
            str(model or ""): (int(n_replies), int(n_tokens or 0))
            for model, n_replies, n_tokens in db.execute(
                "SELECT model, COUNT(*), SUM(output_tokens) FROM replies GROUP BY model ORDER BY COUNT(*) DESC"
            )
        }
        oldest, newest = db.execute("SELECT MIN(at), MAX(at) FROM replies").fetchone()
    n_replies = sum(count for count, _ in models.values())
    return CacheInfo(path, disk_bytes(path), limit, n_replies, oldest, newest, models)


def results_info() -> ResultsInfo:
    """Return what the cache of step results holds; zeros when there is none yet. Raises StoreError."""
    path = RowCache.default_path()
    limit = size_limit()
    if not path.is_file():
        return ResultsInfo(path, 0, limit, 0, None, None)
    what = f"The cache of step results {str(path)!r} cannot be read"
    with closing(open_results(path)) as db, telling(what, UNREADABLE_FIX):
        n_results, oldest, newest = db.execute("SELECT COUNT(*), MIN(at), MAX(at) FROM results").fetchone()
    return ResultsInfo(path, disk_bytes(path), limit, int(n_results), oldest, newest)


def clear_cache(
    *, model: str | None = None, older_than_days: float | None = None, results_only: bool = False
) -> Cleared:
    """Delete replies and results of steps: all, or those that are older; of `model` its replies alone.

    `results_only` leaves the replies, which were paid for. What a run has stored already stays in the run; what it
    has in flight is asked again if it is killed. Raises StoreError, and InputError for `model` with `results_only`.
    """
    if model is not None and results_only:
        raise InputError(
            f"Results of steps have no model, and model is {model!r}.",
            "Leave one of the two out: a model chooses among the replies.",
        )
    wanted, values = ["1"], list[object]()
    if older_than_days is not None:
        wanted.append("at < ?")
        values.append(time.time() - older_than_days * _DAY_S)
    n_replies = n_results = 0
    if model is None:
        n_results = _clear(RowCache.default_path(), open_results, "results", wanted, values)
    else:
        wanted.append("model = ?")
        values.append(model)
    if not results_only:
        n_replies = _clear(ReplyCache.default_path(), open_replies, "replies", wanted, values)
    return Cleared(n_replies, n_results)


def _clear(
    path: Path,
    open_cache: Callable[[Path], sqlite3.Connection],
    table: str,
    wanted: Sequence[str],
    values: Sequence[object],
) -> int:
    """Delete from a cache in portions, so that a run which writes at the same time never waits long."""
    if not path.is_file():
        return 0
    n_gone = 0
    what, fix = f"The cache {str(path)!r} cannot be changed", "See that the disk is not full; then try again."
    with closing(open_cache(path)) as db, telling(what, fix):
        while n_deleted := delete_some(db, table, f"WHERE {' AND '.join(wanted)}", values):
            n_gone += n_deleted
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return n_gone


def disk_bytes(path: Path) -> int:
    """Return what a database takes on disk, its write-ahead log with it."""
    return sum(file.stat().st_size for file in (path, path.with_name(f"{path.name}-wal")) if file.is_file())


# --- runs -----------------------------------------------------------------------


@dataclass(frozen=True)
class Pruned:
    """Runs that were deleted, and how many bytes that freed."""

    ids: tuple[str, ...]
    n_bytes: int


def prunable_runs(*, older_than_days: float, unfinished_too: bool = False) -> list[RunDir]:
    """Return the runs that ended (or were last written) so long ago, newest first; never one that is alive.

    A run that did not finish can be resumed, so it stays unless `unfinished_too`.
    """
    border = time.time() - older_than_days * _DAY_S
    return [
        run
        for run in all_run_dirs()
        if not run.is_alive() and _last_touched(run) < border and (unfinished_too or _is_finished(run))
    ]


def prune_runs(runs: Iterable[RunDir]) -> Pruned:
    """Delete run directories; one that came alive meanwhile is left. Raises StoreError when the disk refuses."""
    ids: list[str] = []
    n_bytes = 0
    for run in runs:
        if run.is_alive():
            continue
        try:
            lock = run.lock()  # so that no runner starts in a directory that is going
        except StoreError:
            continue
        try:
            size = sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file())
            (run.path / "plan.json").unlink()  # first: a directory without a plan is no run any more
            shutil.rmtree(run.path)
        except OSError as error:
            raise StoreError(
                f"Run {run.run_id!r} cannot be deleted: {error}.",
                f"See who owns the files in {str(run.path)!r}, or delete the folder by hand.",
            ) from error
        finally:
            os.close(lock)
        ids.append(run.run_id)
        n_bytes += size
    return Pruned(tuple(ids), n_bytes)


def _last_touched(run: RunDir) -> float:
    files = [run.journal, run.journal.with_name(f"{run.journal.name}-wal"), run.path / "plan.json"]
    return max(file.stat().st_mtime for file in files if file.exists())


def _is_finished(run: RunDir) -> bool:
    try:
        journal = JournalReader.open(run.journal)
        if journal is None:
            return False
        try:
            return bool(journal.facts().get("state") == "finished")
        finally:
            journal.close()
    except (sqlite3.Error, StoreError):  # it is damaged, so nobody can say that the run has finished
        return False

"""Looking after what distilnb keeps: how large the reply cache is, what may go, which old runs may go."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distilnb.engine.cache import ReplyCache, open_replies
from distilnb.engine.cache_limit import delete_some, size_limit
from distilnb.engine.journal import JournalReader
from distilnb.engine.rundir import RunDir, all_run_dirs
from distilnb.errors import StoreError

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


def cache_info() -> CacheInfo:
    """Return what the reply cache holds; zeros when there is none yet. Raises StoreError."""
    path = ReplyCache.default_path()
    limit = size_limit()
    if not path.is_file():
        return CacheInfo(path, 0, limit, 0, None, None)
    db = open_replies(path)
    try:
        models = {
            str(model or ""): (int(n_replies), int(n_tokens or 0))
            for model, n_replies, n_tokens in db.execute(
                "SELECT model, COUNT(*), SUM(output_tokens) FROM replies GROUP BY model ORDER BY COUNT(*) DESC"
            )
        }
        oldest, newest = db.execute("SELECT MIN(at), MAX(at) FROM replies").fetchone()
    except sqlite3.Error as error:
        raise StoreError(f"The reply cache {str(path)!r} cannot be read: {error}.") from error
    finally:
        db.close()
    n_replies = sum(count for count, _ in models.values())
    return CacheInfo(path, disk_bytes(path), limit, n_replies, oldest, newest, models)


def clear_cache(*, model: str | None = None, older_than_days: float | None = None) -> int:
    """Delete replies: all, those of one model, those that are older; returns how many went. Raises StoreError.

    What a run has stored already stays in the run; what it has in flight is asked again if it is killed.
    """
    path = ReplyCache.default_path()
    if not path.is_file():
        return 0
    wanted: list[str] = ["1"]
    values: list[object] = []
    if model is not None:
        wanted.append("model = ?")
        values.append(model)
    if older_than_days is not None:
        wanted.append("at < ?")
        values.append(time.time() - older_than_days * _DAY_S)
    db = open_replies(path)
    try:
        n_gone = _delete(db, f"WHERE {' AND '.join(wanted)}", values)
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise StoreError(f"The reply cache {str(path)!r} cannot be changed: {error}.") from error
    finally:
        db.close()
    return n_gone


def disk_bytes(path: Path) -> int:
    """Return what a database takes on disk, its write-ahead log with it."""
    return sum(file.stat().st_size for file in (path, path.with_name(f"{path.name}-wal")) if file.is_file())


def _delete(db: sqlite3.Connection, where: str, values: Sequence[object]) -> int:
    """Delete in portions, so that a run which writes at the same time never waits long."""
    n_gone = 0
    while n_deleted := delete_some(db, where, values):
        n_gone += n_deleted
    return n_gone


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
            raise StoreError(f"Run {run.run_id!r} cannot be deleted: {error}.") from error
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
    except sqlite3.Error:
        return False

"""The run directory: everything a run knows, on disk, private to its user.

<home>/runs/<run id>/
plan.json        stages and options (engine/plan.py)
pipeline.yaml    the pipeline as its user wrote it
steps.json       the dumped steps that workers build again
code.pkl         the user's functions and classes; only workers of this run read it
journal.sqlite   what is finished: batches, acknowledged rows, errors, counts, events
batches/<stage>/ finished rows, JSON by column; long texts of failures beside them
digests/         of a source with very many rows: what tells equal ones apart
commands/        one file per command to the runner, JSON, named by time and command
retries/         one file per retry that was ordered (engine/retry_orders.py)
versions/<n>/    steps that a retry has edited (engine/versions.py)
logs/            runner.log and one log per worker
lock             held by the living runner
spool.lock       held by the kernel while it writes many rows given in the program
spool.error      why it could not write them all
runner.json      who was started last as the runner: its pid, and when
repeats.sqlite   which of several equal requests each row makes
end.json         how the run ended, when the journal could not be written any more
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from distilnb.children import is_held
from distilnb.engine.plan import FORMAT, Plan
from distilnb.engine.spawning import log_path
from distilnb.errors import RunNotFoundError, StoreError, did_you_mean
from distilnb.home import folder_name, home, private_folder
from distilnb.rows import write_text

LOCK_PATIENCE_S = 2.0  # `is_locked` takes the lock for a moment
LOCK_POLL_S = 0.01  # to look at the lock costs a hundredth of a status
TAIL_BYTES = 1 << 18  # of a log: a step may print for days
STARTING_S = 10.0  # how long a runner may take to its lock


class Command(NamedTuple):
    """What a user wants of a living runner: stop, abort, pause, resume or adjust."""

    name: str
    payload: dict[str, Any]
    path: Path


@dataclass(frozen=True)
class RunDir:
    """The paths of one run."""

    path: Path

    @property
    def run_id(self) -> str:
        """The id of the run, which is the folder's name."""
        return self.path.name

    @property
    def journal(self) -> Path:
        """The journal's database."""
        return self.path / "journal.sqlite"

    def batches(self, stage: str) -> Path:
        """Return the folder of a stage's finished rows, made when absent."""
        folder = self.path / "batches" / folder_name(stage)  # a step's name may hold any character
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def digests(self, stage: str) -> Path:
        """Return the file for the digests of a source's rows."""
        return self.path / "digests" / folder_name(stage)

    def log(self, who: str) -> Path:
        """Return the log file of the runner or of a worker."""
        return Path(log_path(str(self.path), who))

    def log_tail(self, who: str, n_lines: int = 15) -> str:
        """Return the last lines of a log, "" when there is none; at most the last TAIL_BYTES of it are read."""
        try:
            with self.log(who).open("rb") as log:
                n_bytes = log.seek(0, os.SEEK_END)
                log.seek(max(0, n_bytes - TAIL_BYTES))
                lines = log.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-n_lines:] if n_lines > 0 else [])

    def logs(self) -> list[str]:
        """Return who has a log: the runner first, then the workers."""
        found = sorted(path.stem for path in (self.path / "logs").glob("*.log"))
        return sorted(found, key=lambda who: who != "runner")

    def plan(self) -> Plan:
        """Read the plan; raises StoreError for a run of another format."""
        try:
            text = (self.path / "plan.json").read_text(encoding="utf-8")
            found = json.loads(text).get("format")
        except (OSError, ValueError) as error:
            raise StoreError(
                f"The plan of run {self.run_id!r} cannot be read: {error}.",
                "Start the pipeline again: what was asked is in the cache and costs nothing.",
            ) from error
        if found != FORMAT:
            raise StoreError(
                f"Run {self.run_id!r} has format {found}; this version of distilnb reads format {FORMAT}.",
                "Read it with the version that made it, or start it again.",
            )
        return Plan.from_json(text)

    def write_pid(self, pid: int) -> None:
        """Note who runs the run, for `status` between its start and its first lock."""
        write_text(self.path / "runner.json", json.dumps({"pid": pid, "at": time.time()}))

    def runner_pid(self) -> int | None:
        """Return the pid of the last runner that was started, or None."""
        try:
            return int(json.loads((self.path / "runner.json").read_text())["pid"])
        except (OSError, ValueError, KeyError):
            return None

    def runner_started_at(self) -> float:
        """Return when the last runner was started (seconds since the epoch), 0.0 when none was."""
        try:
            return (self.path / "runner.json").stat().st_mtime
        except OSError:
            return 0.0

    def is_locked(self) -> bool:
        """Whether a runner lives: it holds the lock as long as it does."""
        return is_held(self.path / "lock")

    def sleep_while_locked(self, pause_s: float) -> None:
        """Sleep for so long, but not past the moment at which the runner lets its lock go."""
        deadline = time.monotonic() + pause_s
        was_locked = False
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(LOCK_POLL_S, left))
            is_locked = self.is_locked()
            if was_locked and not is_locked:
                return
            was_locked = is_locked

    def is_alive(self) -> bool:
        """Whether a runner lives, or was started a moment ago and is about to take its lock."""
        return self.was_just_started() or self.is_locked()  # in this order: it takes the lock, then signs it

    def was_just_started(self) -> bool:
        """Whether a runner process lives that may not have taken its lock yet."""
        pid = self.runner_pid()
        if pid is None or pid == self._last_locker():  # else it has let the lock go, and is about to exit
            return False
        try:
            age_s = time.time() - (self.path / "runner.json").stat().st_mtime
            os.kill(pid, 0)
        except OSError:
            return False
        return age_s < STARTING_S and not _is_zombie(pid)

    def lock(self) -> int:
        """Take the runner's lock and return its descriptor; raises StoreError when another runner holds it."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:  # perhaps only somebody who looked whether it is held
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    raise StoreError(f"Run {self.run_id!r} is running already.", "Attach to it.") from error
                time.sleep(0.01)
            else:
                return descriptor

    def sign_lock(self, descriptor: int) -> None:
        """Note in the lock which runner has taken it: once that lets it go, it is not about to take it."""
        with contextlib.suppress(
            OSError
        ):  # on a full disk it is taken for one that starts, as long as it exits
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)

    def _last_locker(self) -> int | None:
        try:
            return int((self.path / "lock").read_bytes())
        except (OSError, ValueError):
            return None

    def command(self, name: str, **payload: Any) -> None:
        """Leave a command for the runner: a file named by time, so that names are in order, with JSON in it."""
        write_text(self.path / "commands" / f"{time.time_ns()}-{name}", json.dumps(payload))

    def commands(self) -> list[Command]:
        """Return the commands that wait for the runner, oldest first; each stays until it is removed."""
        waiting = []
        for path in sorted((self.path / "commands").iterdir()):
            if path.name.startswith("."):  # half written
                continue
            try:
                payload = json.loads(path.read_text(encoding="utf-8"))
            except FileNotFoundError:  # the runner was faster
                continue
            except ValueError:
                payload = {}
            name = path.name.partition("-")[2]
            waiting.append(Command(name, payload if isinstance(payload, dict) else {}, path))
        return waiting

    def remove_command(self, command: Command) -> None:
        """Remove a command that was obeyed."""
        command.path.unlink(missing_ok=True)

    def has_command(self, *names: str) -> bool:
        """Whether one of these commands waits for the runner."""
        return any(path.name.partition("-")[2] in names for path in (self.path / "commands").iterdir())

    def is_told_to_abort(self) -> bool:
        """Whether an abort waits for the runner; False too when the folder cannot be read."""
        try:
            return self.has_command("abort")
        except OSError:
            return False

    def drop_late_commands(self) -> None:
        """Remove what was meant for a runner that is gone; changed limits are for every runner."""
        for command in self.commands():
            if command.name != "adjust":
                self.remove_command(command)


def runs_folder() -> Path:
    """Return the folder of all runs; it may not exist."""
    return home() / "runs"


def make_run_dir(run_id: str) -> RunDir:
    """Make the directory of a new run, with mode 0700."""
    path = private_folder("runs", run_id)
    for part in ("batches", "commands", "logs"):
        (path / part).mkdir(mode=0o700, exist_ok=True)
    return RunDir(path)


def find_run_dir(run_id: str) -> RunDir:
    """Return the directory of a run by its id; raises RunNotFoundError with the near match."""
    path = runs_folder() / run_id
    if not run_id or Path(run_id).name != run_id or not (path / "plan.json").is_file():
        known = [run.run_id for run in all_run_dirs()]
        raise RunNotFoundError(
            f"There is no run {run_id!r} in {str(runs_folder())!r}; there are {known[:10]}.",
            did_you_mean(run_id, known, "List them with dn.runs() or `%distil ps`."),
        )
    return RunDir(path)


def all_run_dirs() -> list[RunDir]:
    """Return all runs, newest first."""
    folder = runs_folder()
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if (path / "plan.json").is_file()]
    return [
        RunDir(path) for path in sorted(found, key=lambda p: (p / "plan.json").stat().st_mtime, reverse=True)
    ]


def _is_zombie(pid: int) -> bool:
    """Whether a process has ended but was not waited for (Linux; elsewhere it is not told)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False

"""The runner's end of a spool: takes the files of given rows as the kernel writes them, and notices its end.

Without pydantic and without a thread: a file that is not there yet costs one look a turn.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from distilnb.children import is_held
from distilnb.engine.flow import Flow
from distilnb.engine.journal import START_AGAIN, Journal
from distilnb.engine.plan import Plan
from distilnb.engine.rundir import RunDir
from distilnb.errors import StoreError
from distilnb.rows import write_text

LOCK = "spool.lock"
_REASON = "spool.error"
_FILES_A_TURN = 20  # the turn must stay short


class SpooledFile(NamedTuple):
    """A file of given rows that is there: its stage, its path below the run directory, its rows."""

    stage: str
    path: str
    n_rows: int


class Intake:
    """Which files of given rows were taken, in their order."""

    def __init__(self, run: RunDir, plan: Plan) -> None:
        self._run = run
        self._files: dict[str, list[SpooledFile]] = {
            stage.name: [
                SpooledFile(stage.name, file["path"], file["n_rows"])
                for file in plan.options["spooled"][stage.name]
            ]
            for stage in plan.stages
            if stage.kind == "spool"
        }
        self._n_taken = dict.fromkeys(self._files, 0)
        self._told_ended: set[str] = set()
        self.lack = ""  # why the rest of the rows will never come

    def took_before(self, stage: str) -> None:
        """Note a file that the journal has; of a stage that is not spooled nothing is noted."""
        if stage in self._n_taken:
            self._n_taken[stage] += 1

    def feed(self, journal: Journal, flow: Flow) -> None:
        """Journal the files that came since, and let their rows flow on."""
        files = self.take()
        if files:
            made = []
            with journal.turn():
                for file in files:
                    made.append(journal.add_batch(file.stage, file.path, file.n_rows, 0))
                    journal.count(file.stage, {"done": file.n_rows, "made": file.n_rows})
            for batch in made:
                flow.arrived(batch)
        for stage in self._ended():
            flow.ended(stage)

    def ending(self, flow: Flow) -> tuple[str, str, str] | None:
        """Return how the run ends for lack of rows, once all that can be done without them is done."""
        is_now = self.lack and flow.is_quiet()
        return ("failed", "rows", f"{self.lack} {START_AGAIN}") if is_now else None

    def take(self) -> list[SpooledFile]:
        """Return the files that came since, some at a time; notes when no more can come."""
        if self.is_whole or self.lack:
            return []
        is_written = is_being_written(self._run)  # before the look: the last file comes before the lock goes
        found: list[SpooledFile] = []
        for stage, files in self._files.items():
            first = self._n_taken[stage]
            for file in files[first : first + _FILES_A_TURN]:
                if not (self._run.path / file.path).is_file():
                    break
                found.append(file)
                self._n_taken[stage] += 1
        if not found and not is_written and not self.is_whole:
            self.lack = self._tell_lack()
        return found

    def _ended(self) -> list[str]:
        """Return the stages that are whole now; each is returned once."""
        new = [
            name
            for name, files in self._files.items()
            if self._n_taken[name] == len(files) and name not in self._told_ended
        ]
        self._told_ended.update(new)
        return new

    @property
    def is_whole(self) -> bool:
        """Whether every file was taken."""
        return all(self._n_taken[name] == len(files) for name, files in self._files.items())

    def _tell_lack(self) -> str:
        stage, files = next((n, f) for n, f in self._files.items() if self._n_taken[n] < len(f))
        n_rows, n_all = sum(f.n_rows for f in files[: self._n_taken[stage]]), sum(f.n_rows for f in files)
        reason = read_reason(self._run)
        what = (
            f"The rest could not be written: {reason}"
            if reason
            else "The process that started the run ended while it was writing them."
        )
        return f"Only {n_rows:,} of the {n_all:,} rows of {stage!r} arrived. {what}"


def missing_rows(run: RunDir, plan: Plan) -> str:
    """Return why rows given in the program are not all there and never will be, or ""."""
    intake = Intake(run, plan)
    while intake.take():
        continue
    return intake.lack


def is_being_written(run: RunDir) -> bool:
    """Whether some process holds the lock of the spool."""
    return is_held(run.path / LOCK)


def tell_reason(run: RunDir, reason: str) -> None:
    """Note why the rest of the rows cannot be written, where that can be written."""
    with contextlib.suppress(StoreError):
        write_text(run.path / _REASON, reason)


def read_reason(run: RunDir) -> str:
    """Return what `tell_reason` noted, or ""."""
    try:
        return (run.path / _REASON).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

"""The workers of a run as the runner keeps them: started, restarted when they die, given up when they always do."""

from __future__ import annotations

import contextlib
import selectors
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from distilnb.engine.deaths import is_own_doing
from distilnb.engine.rundir import RunDir
from distilnb.engine.spawning import Spawned
from distilnb.engine.vitals import LastWords
from distilnb.engine.watch import Finding, Watch
from distilnb.engine.wire import Message
from distilnb.engine.workers import Worker

TICK_S = 0.05  # the longest that the runner sleeps: how long a command may lie in its folder
MAX_EQUAL_DEATHS = 3  # of a worker without a row acknowledged between: the stage has failed
MAX_DEATHS_AT_ROWS = 20  # at rows, of workers that had done none before: it is the step, not the rows
FIRST_BACK_OFF_S = 0.1
GRACE_S = 10.0  # for workers to end after they were told
EXIT_TICK_S = (
    0.003  # between two looks whether they have: `Popen.wait` sleeps ever longer, the user waits as long
)


@dataclass
class Death:
    """A worker that is gone: how, at whose row (None: at nobody's), and whether a new one will be started."""

    worker: Worker
    exit: int | None
    words: LastWords | None
    n_in_a_row: int
    is_last: bool  # this worker died so often without any result that the run must end

    @property
    def text(self) -> str:
        """How it ended, in words."""
        return self.worker.killed_for or exit_text(self.exit)

    @property
    def is_own_doing(self) -> bool:
        """Whether it ended by what it ran, as far as can be told, and not by somebody's signal."""
        return self.worker.is_own_doing if self.worker.killed_for else is_own_doing(self.exit)


@dataclass
class Crew:
    """All workers of one run, by name."""

    run_dir: RunDir
    names: Sequence[str]
    watch: Watch = field(default_factory=Watch)
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    workers: dict[str, Worker] = field(default_factory=dict)
    ahead: dict[str, Spawned] = field(default_factory=dict)  # started before this process was loaded
    _n_deaths: dict[str, int] = field(default_factory=dict)
    _n_deaths_at_rows: dict[str, int] = field(default_factory=dict)
    _restart_at: dict[str, float] = field(default_factory=dict)

    def start(self, name: str, first: Message) -> Worker:
        """Start a worker and tell it the first message."""
        worker = Worker.start(name, self.run_dir, self.selector, self.ahead.pop(name, None))
        worker.tell(first)
        worker.send()
        self.workers[name] = worker
        return worker

    def receive(self) -> list[tuple[Worker, Message]]:
        """Return what workers said, waiting a moment when none has."""
        messages: list[tuple[Worker, Message]] = []
        for key, _ in self.selector.select(TICK_S):
            worker: Worker = key.data
            messages += [(worker, message) for message in worker.receive()]
        return messages

    def send(self) -> None:
        """Bring what workers are to be told on its way."""
        for worker in self.workers.values():
            worker.send()

    def tell_all(self, message: Message) -> None:
        """Queue a message for every worker."""
        for worker in self.workers.values():
            worker.tell(message)

    # --- death and return ---

    def look(self) -> Iterator[Finding]:
        """Look whether the workers are well; those that are stuck, or over a limit, are killed here."""
        for finding in self.watch.look(list(self.workers.values())):
            if finding.kind in ("stuck", "overdue"):
                worker = self.workers[finding.worker]
                worker.killed_for, worker.is_own_doing = finding.why, finding.is_own_doing
                worker.kill()
            yield finding

    def bury_dead(self) -> Iterator[Death]:
        """Take the dead workers out; a new one of the name is due after a while that grows with each death."""
        for worker in [worker for worker in self.workers.values() if worker.is_dead()]:
            words, n_done = worker.vitals.words(), worker.vitals.n_done
            exit_code = worker.close()
            name = worker.name
            del self.workers[name]
            if words is None:
                n_deaths = self._n_deaths[name] = self._n_deaths.get(name, 0) + 1
                is_last, pause_s = n_deaths >= MAX_EQUAL_DEATHS, FIRST_BACK_OFF_S * 4 ** (n_deaths - 1)
            else:  # the row is to blame: each has two deaths and no more
                n_deaths = 1 if n_done else self._n_deaths_at_rows.get(name, 0) + 1
                self._n_deaths_at_rows[name] = n_deaths
                is_last, pause_s = n_deaths >= MAX_DEATHS_AT_ROWS, FIRST_BACK_OFF_S
            self._restart_at[name] = time.monotonic() + pause_s
            yield Death(worker, exit_code, words, n_deaths, is_last)

    def due(self) -> list[str]:
        """Return the names whose new worker is to be started now; each is returned once."""
        names = [name for name, at in self._restart_at.items() if time.monotonic() >= at]
        for name in names:
            del self._restart_at[name]
        return names

    def bore_fruit(self, name: str) -> None:
        """Note that a worker has finished rows: its deaths so far do not count any more."""
        self._n_deaths[name] = 0

    def start_none(self) -> None:
        """Start no new workers."""
        self._restart_at.clear()

    @property
    def is_idle(self) -> bool:
        """Whether all workers are there and have built their steps."""
        return len(self.workers) == len(self.names) and all(
            worker.is_ready for worker in self.workers.values()
        )

    @property
    def is_drained(self) -> bool:
        """Whether every worker has finished what it had in flight, and none is to come."""
        return all(worker.is_drained for worker in self.workers.values()) and not self._restart_at

    # --- the end ---

    def end(self, *, gently: bool, is_hurried: Callable[[], bool]) -> None:
        """Let all workers go: asked to, with some patience as long as nobody is in a hurry, or killed."""
        living: Iterable[Worker] = list(self.workers.values())
        for worker in living:
            with contextlib.suppress(OSError):
                if gently:
                    worker.tell({"do": "exit"})
                    worker.send()
                else:
                    worker.kill()
        deadline = time.monotonic() + GRACE_S
        for worker in living:
            while worker.process.poll() is None and time.monotonic() < deadline and not is_hurried():
                worker.wait(EXIT_TICK_S)
            if worker.process.poll() is None:
                worker.kill()
            worker.close()


def exit_text(code: int | None) -> str:
    """Say how a process ended.

    >>> exit_text(-9)
    'killed by SIGKILL'
    """
    if code is None:
        return "lost its connection"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"

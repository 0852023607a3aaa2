"""The workers of a run as the runner keeps them: started, restarted when they die, given up when they always do."""

from __future__ import annotations

import contextlib
import selectors
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from distilnb.engine.rundir import RunDir
from distilnb.engine.wire import Message
from distilnb.engine.workers import Worker

TICK_S = 0.05  # the longest that the runner sleeps: how long a command may lie in its folder
MAX_EQUAL_DEATHS = 3  # of a worker without a row acknowledged between: the stage has failed
FIRST_BACK_OFF_S = 0.1
GRACE_S = 10.0  # for workers to end after they were told


@dataclass
class Death:
    """A worker that is gone: its exit code, and whether a new one will be started."""

    worker: Worker
    exit: int | None
    n_in_a_row: int

    @property
    def is_last(self) -> bool:
        """Whether a worker of this role died so often without any result that the run must end."""
        return self.n_in_a_row >= MAX_EQUAL_DEATHS

    @property
    def text(self) -> str:
        """How it ended, in words."""
        return exit_text(self.exit)


@dataclass
class Crew:
    """All workers of one run, by role."""

    run_dir: RunDir
    roles: Sequence[str]
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    workers: dict[str, Worker] = field(default_factory=dict)
    _n_deaths: dict[str, int] = field(default_factory=dict)
    _restart_at: dict[str, float] = field(default_factory=dict)

    def start(self, role: str, first: Message) -> Worker:
        """Start a worker and tell it the first message."""
        worker = Worker.start(role, self.run_dir, self.selector)
        worker.tell(first)
        worker.send()
        self.workers[role] = worker
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

    def bury_dead(self) -> Iterator[Death]:
        """Take the dead workers out; a new one of the role is due after a while that grows with each death."""
        for worker in [worker for worker in self.workers.values() if worker.is_dead()]:
            exit_code = worker.close()
            del self.workers[worker.role]
            n_deaths = self._n_deaths[worker.role] = self._n_deaths.get(worker.role, 0) + 1
            self._restart_at[worker.role] = time.monotonic() + FIRST_BACK_OFF_S * 4 ** (n_deaths - 1)
            yield Death(worker, exit_code, n_deaths)

    def due(self) -> list[str]:
        """Return the roles whose new worker is to be started now; each is returned once."""
        roles = [role for role, at in self._restart_at.items() if time.monotonic() >= at]
        for role in roles:
            del self._restart_at[role]
        return roles

    def bore_fruit(self, role: str) -> None:
        """Note that a worker has finished rows: its deaths so far do not count any more."""
        self._n_deaths[role] = 0

    def start_none(self) -> None:
        """Start no new workers."""
        self._restart_at.clear()

    @property
    def is_complete(self) -> bool:
        """Whether a worker of every role is there. A dead worker's work must stay queued until then."""
        return len(self.workers) == len(self.roles)

    @property
    def is_drained(self) -> bool:
        """Whether every worker has finished what it had in flight, and none is to come."""
        return all(worker.is_drained for worker in self.workers.values()) and not self._restart_at

    # --- the end ---

    def end(self, *, gently: bool) -> None:
        """Let all workers go: asked to, with some patience, or killed."""
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
            worker.wait(max(0.0, deadline - time.monotonic()))
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

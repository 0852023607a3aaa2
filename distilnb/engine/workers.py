"""A worker process as its runner holds it: a fresh interpreter on the other end of a socket."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import socket
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field

from distilnb.engine.rundir import RunDir
from distilnb.engine.spawning import Spawned, role_of, spawn_worker
from distilnb.engine.vitals import Vitals
from distilnb.engine.wire import LineSplitter, Message, encode

EXIT_PATIENCE_S = 0.5  # for a process that hung up to end by itself, so that its exit code tells why
KILL_PATIENCE_S = 5.0  # for a killed one; the kernel may hold it in a disk's wait


@dataclass
class Worker:
    """One worker. Nothing here blocks: a worker busy in a long step must not hold its runner up."""

    name: str  # `<role>-<number>`
    process: subprocess.Popen[bytes]
    connection: socket.socket
    selector: selectors.BaseSelector
    vitals: Vitals
    is_ready: bool = False  # it has built its steps
    is_drained: bool = False
    pulled: set[str] = field(default_factory=set)  # sources that this process has opened
    heard: Counter[str] = field(default_factory=Counter)  # how much finished work it has told of, by stage
    killed_for: str = ""  # why its runner killed it
    is_own_doing: bool = False  # whether that was for what it ran
    _splitter: LineSplitter = field(default_factory=LineSplitter)
    _outbox: bytearray = field(default_factory=bytearray)
    _hung_up_at: float | None = None

    @classmethod
    def start(
        cls, name: str, run_dir: RunDir, selector: selectors.BaseSelector, spawned: Spawned | None = None
    ) -> Worker:
        """Start a worker, or take on the process of one that was started ahead; as `spawn_worker`."""
        process = spawned or spawn_worker(str(run_dir.path), name)
        try:
            vitals = Vitals(process.memory)
        except BaseException:
            process.connection.close()
            raise
        finally:
            os.close(process.memory)
        worker = cls(name, process.process, process.connection, selector, vitals)
        selector.register(process.connection, selectors.EVENT_READ, worker)
        return worker

    @property
    def role(self) -> str:
        """What kind of worker it is: `rows` or `ask`."""
        return role_of(self.name)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def tell(self, message: Message) -> None:
        """Queue a message; `send` brings it on its way."""
        self._outbox += encode(message)

    def send(self) -> None:
        """Write as much of the queue as the socket takes now."""
        if not self._outbox or self._hung_up_at is not None:
            return
        try:
            sent = self.connection.send(self._outbox)
            del self._outbox[:sent]
        except BlockingIOError:
            pass
        except OSError:
            # What it said before it went is still to be read: the end of the stream follows.
            self._outbox.clear()

    def receive(self) -> list[Message]:
        """Read what the worker said; the end of the stream is the end of the worker."""
        try:
            data = self.connection.recv(1 << 20)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self._hang_up()
            return []
        messages = self._splitter.feed(data)
        self.heard.update(message["stage"] for message in messages if message["say"] == "out")
        return messages

    def _hang_up(self) -> None:
        self._hung_up_at = time.monotonic()
        self.selector.unregister(self.connection)
        self.connection.close()

    def is_dead(self) -> bool:
        """Whether the worker is gone, and all that it said has been read."""
        if self._hung_up_at is None:
            # A child that the user's code forked may hold the other end open after its parent.
            if self.process.poll() is not None and not select.select([self.connection], [], [], 0)[0]:
                self._hang_up()
                return True
            return False
        silent_s = time.monotonic() - self._hung_up_at
        if self.process.poll() is not None or silent_s > EXIT_PATIENCE_S + KILL_PATIENCE_S:
            return True
        if silent_s > EXIT_PATIENCE_S:
            self.kill()
        return False

    def kill(self) -> None:
        """Kill the process and what it has started: they are a process group of their own."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def wait(self, timeout_s: float) -> None:
        """Wait for the process to end, for so long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)

    def close(self) -> int | None:
        """Let go of a worker that is gone, end what it has started, and return its exit code."""
        self.kill()  # the group outlives its leader as long as it has members, so its number is not another's
        if self._hung_up_at is None:
            self._hang_up()
        self.vitals.close()
        return self.process.poll()

"""A worker process as its runner holds it: a fresh interpreter on the other end of a socket."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from distilnb.engine.rundir import RunDir
from distilnb.engine.wire import LineSplitter, Message, encode

_MODULES = {"rows": "distilnb.engine.row_worker", "ask": "distilnb.engine.ask_worker"}


def interpreter(module: str) -> list[str]:
    """Return the command that runs `main` of a module in a fresh interpreter."""
    # Not `-m`, which would import the package twice, and never the user's `__main__`.
    return [sys.executable, "-c", f"from {module} import main; main()"]


def child_environment() -> Mapping[str, str]:
    """Return the environment of runner and workers."""
    return {
        **os.environ,
        "PYTHONSAFEPATH": "1",  # from Python 3.11 on: a stray `re.py` beside the notebook breaks no import
        "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1",
        # To look for plugins (tools that trace a program) pydantic opens every installed package.
        "PYDANTIC_DISABLE_PLUGINS": os.environ.get("PYDANTIC_DISABLE_PLUGINS", "__all__"),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }


@dataclass
class Worker:
    """One worker. Writes never block: a worker busy in a long step must not hold its runner up."""

    role: str
    process: subprocess.Popen[bytes]
    connection: socket.socket
    selector: selectors.BaseSelector
    is_drained: bool = False
    pulled: set[str] = field(default_factory=set)  # sources that this process has opened
    _splitter: LineSplitter = field(default_factory=LineSplitter)
    _outbox: bytearray = field(default_factory=bytearray)
    _has_hung_up: bool = False

    @classmethod
    def start(cls, role: str, run_dir: RunDir, selector: selectors.BaseSelector) -> Worker:
        """Start a worker. Call it from the runner's main thread: its death signal is bound to that thread."""
        mine, theirs = socket.socketpair()
        mine.setblocking(False)
        with run_dir.log(role).open("ab") as log:
            process = subprocess.Popen(
                [*interpreter(_MODULES[role]), str(run_dir.path), str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                env=child_environment(),
                start_new_session=True,  # a notebook's interrupt goes to its whole process group
            )
        theirs.close()
        worker = cls(role, process, mine, selector)
        selector.register(mine, selectors.EVENT_READ, worker)
        return worker

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def tell(self, message: Message) -> None:
        """Queue a message; `send` brings it on its way."""
        self._outbox += encode(message)

    def send(self) -> None:
        """Write as much of the queue as the socket takes now."""
        if not self._outbox:
            return
        try:
            sent = self.connection.send(self._outbox)
            del self._outbox[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._has_hung_up = True

    def receive(self) -> list[Message]:
        """Read what the worker said; an end of the stream marks it dead."""
        try:
            data = self.connection.recv(1 << 20)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self._has_hung_up = True
            return []
        return self._splitter.feed(data)

    def is_dead(self) -> bool:
        """Whether the worker is gone, or unreachable."""
        return self._has_hung_up

    def kill(self) -> None:
        """Kill the process."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)

    def wait(self, timeout_s: float) -> None:
        """Wait for the process to end, for so long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)

    def close(self) -> int | None:
        """Make sure that the process is gone and return its exit code."""
        if self.connection.fileno() >= 0:
            self.selector.unregister(self.connection)
            self.connection.close()
        self.wait(0.5)
        if self.process.poll() is None:
            self.kill()
            self.wait(5.0)
        return self.process.returncode

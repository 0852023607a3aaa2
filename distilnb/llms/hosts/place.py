"""The folder of a model host: who holds the model, where it listens, and what it has told.

<home>/hosts/<digest>/
lock         held by the living host
starting     held by the client that starts one
host.json    pid, socket, label, state and devices of the last host
socket       where it listens; in a private temporary folder where this path would be too long
host.log     what host and engine print
events.jsonl one line for each load and each end
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from distilnb.children import is_held
from distilnb.errors import StoreError
from distilnb.home import home, private_folder
from distilnb.rows import write_text
from distilnb.spec.digest import digest_of
from distilnb.version import __version__

MAX_SOCKET_BYTES = 100  # the system takes 108 at most, 104 on macOS
MAX_LOG_BYTES = 4 << 20
TAIL_BYTES = 1 << 16
CONNECT_TIMEOUT_S = 5.0
MARK = "DISTILNB_HOST"  # in the environment of a host and of all that it starts: the path of its folder

# What of the environment decides where and from what an engine loads.
_ENVIRONMENT = ("CUDA_VISIBLE_DEVICES", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "ROCR_VISIBLE_DEVICES")


class Info(NamedTuple):
    """What a host tells of itself."""

    pid: int
    socket: str
    label: str
    state: str  # starting, loading, ready or leaving
    devices: str = ""  # the value of CUDA_VISIBLE_DEVICES that it chose
    birth: int = 0  # when the process began (`birth_of`): numbers of processes are used again


@dataclass(frozen=True)
class Place:
    """The paths of one model's host."""

    path: Path

    @property
    def log(self) -> Path:
        """What host and engine print."""
        return self.path / "host.log"

    def info(self) -> Info | None:
        """Return what the last host told of itself; None when there was none."""
        try:
            return Info(**json.loads((self.path / "host.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def tell(self, info: Info) -> None:
        """Write down what a host tells of itself; a full disk must not end it."""
        with contextlib.suppress(StoreError):
            write_text(self.path / "host.json", json.dumps(info._asdict()))

    def add_event(self, event: str, **data: Any) -> None:
        """Note that something happened; a full disk must not end a host."""
        line = json.dumps({"at": time.time(), "event": event, "pid": os.getpid(), **data}, ensure_ascii=False)
        with contextlib.suppress(OSError), (self.path / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def events(self) -> list[dict[str, Any]]:
        """Return what happened to the hosts of this model, oldest first."""
        try:
            text = (self.path / "events.jsonl").read_text(encoding="utf-8")
        except OSError:
            return []
        return [json.loads(line) for line in text.splitlines()]

    def log_tail(self, n_lines: int = 15) -> str:
        """Return the last lines that host and engine printed."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
                lines = log.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-n_lines:])

    def trim(self) -> None:
        """Begin the log and the events anew where they have grown long."""
        for path in (self.log, self.path / "events.jsonl"):
            with contextlib.suppress(OSError):
                if path.stat().st_size > MAX_LOG_BYTES:
                    path.unlink()

    # --- the sign of life ---

    def take_lock(self) -> int | None:
        """Take the lock of a living host and return its descriptor; None when another one holds it."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        for _ in range(100):  # somebody may only look whether it is held
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(0.01)
            else:
                return descriptor
        os.close(descriptor)
        return None

    def is_alive(self) -> bool:
        """Whether a host holds the lock."""
        return is_held(self.path / "lock")

    def accepts(self) -> bool:
        """Whether a host listens."""
        info = self.info()
        if info is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(CONNECT_TIMEOUT_S)
                connection.connect(info.socket)
        except OSError:
            return False
        return True

    @contextlib.contextmanager
    def starting(self, timeout_s: float) -> Iterator[bool]:
        """Keep others from starting a host meanwhile; gives False when somebody else did not end in time."""
        descriptor = os.open(self.path / "starting", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    if time.monotonic() > deadline:
                        yield False
                        return
                    time.sleep(0.02)
                else:
                    break
            yield True
        finally:
            os.close(descriptor)

    def kill(self) -> None:
        """Kill the host and all that it has started, whether or not it still lives.

        A number is believed to be that of a host, or of what it started, only where its environment says so, or
        where it is of that host's session; where the system shows neither, only as long as the host
        holds its lock.
        """
        info = self.info()
        found = _processes_of(self.path, info)
        if found is None:
            found = [info.pid] if info is not None and self.is_alive() else []
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if info is not None and not self.is_alive():
            remove_socket(self.path, info.socket)


def place_of(settings: Mapping[str, Any]) -> Place:
    """Return the place of the host for a model's settings, its folder made with mode 0700.

    Another machine, another installation of Python or distilnb, and other visible devices are another host. Raises
    StoreError when the folder cannot be made.
    """
    environment = {name: os.environ.get(name) for name in _ENVIRONMENT}
    digest = digest_of([__version__, platform.node(), sys.executable, environment, settings], size_bytes=8)
    return Place(private_folder("hosts", digest))


def all_places() -> list[Place]:
    """Return the places of all hosts that ever were, below the present home."""
    folder = home() / "hosts"
    if not folder.is_dir():
        return []
    return [Place(path) for path in sorted(folder.iterdir()) if (path / "lock").exists()]


def remove_socket(folder: Path, path: str) -> None:
    """Remove a host's socket, and the temporary folder that was made for it."""
    with contextlib.suppress(OSError):
        os.unlink(path)
        if os.path.dirname(path) != str(folder):
            os.rmdir(os.path.dirname(path))


def _processes_of(folder: Path, info: Info | None) -> list[int] | None:
    """Return the processes whose environment names the folder, and those of the session of its last host.

    The latter because a process that gives itself a title (vLLM's do) writes it over its environment. The system
    gives no number away that is still the number of a session. None where the system shows nothing.
    """
    mark = f"{MARK}={folder}".encode()
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return None
    named = [pid for pid in pids if mark in _environment_of(pid)]
    if info is None or birth_of(info.pid) not in (0, info.birth):  # the number is somebody else's now
        return named
    return [pid for pid in pids if pid in named or _session_of(pid) == info.pid]


def birth_of(pid: int) -> int:
    """Return when a process began, in ticks since the machine did; 0 where it is gone or the system does not say."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _environment_of(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:  # it ended, or is somebody else's
        return []


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0

"""Starting a model host, and ending hosts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distilnb.children import child_environment
from distilnb.errors import StoreError
from distilnb.llms.hosts.messages import encode
from distilnb.llms.hosts.place import MARK, Place, all_places, place_of

BIND_PATIENCE_S = 60.0  # for a process that was started to listen: it loads the model after that
LEAVE_PATIENCE_S = 30.0  # for a host that listens no more to give back the device's memory
_POLL_S = 0.02


@dataclass(frozen=True)
class HostSpec:
    """What a host is started with. `settings` make its identity; `secrets` are variables that only it gets to see."""

    engine: str  # "module:Class"
    label: str
    settings: Mapping[str, Any]
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    def place(self) -> Place:
        """Return where its host is; raises StoreError when its folder cannot be made."""
        return place_of({"engine": self.engine, **self.settings})


def ensure_host(spec: HostSpec, place: Place) -> bool:
    """See that a host listens; of many callers, in whatever processes, one starts it. Blocks.

    Returns False when the process that was started ended before it listened. Raises StoreError when none can be
    started.
    """
    if place.accepts():
        return True
    with place.starting(BIND_PATIENCE_S + LEAVE_PATIENCE_S) as is_mine:
        if not is_mine or place.accepts():
            return True  # somebody else is at it: the caller connects, and comes again where that fails
        _clear_away(place)
        return _start(spec, place)


def _clear_away(place: Place) -> None:
    """Wait for a host that listens no more to end; kill what is left of one."""
    deadline = time.monotonic() + LEAVE_PATIENCE_S
    while place.is_alive() and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    place.kill()


def _start(spec: HostSpec, place: Place) -> bool:
    place.trim()
    try:
        with place.log.open("ab") as log:
            process = subprocess.Popen(
                # Not `-m`, which would import the package twice, and never the user's `__main__`.
                [sys.executable, "-c", "from distilnb.llms.hosts.host import main; main()", str(place.path)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # neither a notebook's interrupt nor the end of a run's workers reaches it
                env={**child_environment(), MARK: str(place.path)},
            )
    except OSError as error:
        raise StoreError(
            f"The host of {spec.label} cannot be started: {error}.",
            "Free some disk space, memory or processes; then ask again.",
        ) from error
    assert process.stdin is not None
    said = {
        "engine": spec.engine,
        "label": spec.label,
        "settings": dict(spec.settings),
        "secrets": dict(spec.secrets),
    }
    try:
        process.stdin.write(json.dumps(said).encode() + b"\n")
        process.stdin.close()
    except BrokenPipeError:
        pass  # it is gone at once; its log tells why
    # Collect the exit status, or the ended host would stay as a zombie as long as this process lives.
    threading.Thread(target=process.wait, name="reap-model-host", daemon=True).start()
    deadline = time.monotonic() + BIND_PATIENCE_S
    while process.returncode is None and time.monotonic() < deadline:
        if place.accepts():
            return True
        time.sleep(_POLL_S)
    return False


def unload_hosts(place: Place | None = None, *, timeout_s: float = LEAVE_PATIENCE_S) -> list[str]:
    """Tell hosts to give their model back, wait until they have, and return the labels of those models.

    Requests that they are at are answered by the host that the next one starts. With a `place` only the host there.
    One that does not end in time is killed.
    """
    leaving: list[tuple[Place, str]] = []
    for one in all_places() if place is None else [place]:
        info = one.info()
        if info is not None and one.is_alive():
            _tell_to_leave(info.socket, info.pid)
            leaving.append((one, info.label))
    deadline = time.monotonic() + timeout_s
    for one, _ in leaving:
        while one.is_alive() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if one.is_alive():
            one.kill()
    return [label for _, label in leaving]


def _tell_to_leave(path: str, pid: int) -> None:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1.0)
            connection.connect(path)
            connection.sendall(encode({"do": "unload"}))
    except OSError:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)

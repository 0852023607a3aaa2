"""The processes of a run, as they are started: fresh interpreters, a worker's on the other end of a socket.

A runner starts its workers before it loads itself, since they take longest to load: so this module imports little.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from distilnb.children import child_environment
from distilnb.engine.vitals import shared_memory

_RUNNER = "distilnb.engine.runner"
_MODULES = {"rows": "distilnb.engine.row_worker", "ask": "distilnb.engine.ask_worker"}


def interpreter(module: str) -> list[str]:
    """Return the command that runs `main` of a module in a fresh interpreter; that of a runner starts workers first."""
    # Not `-m`, which would import the package twice, and never the user's `__main__`.
    if module == _RUNNER:
        first = "import distilnb.engine.spawning as spawning; ahead = spawning.spawn_ahead()"
        return [sys.executable, "-c", f"{first}; from {module} import main; main(ahead)"]
    return [sys.executable, "-c", f"from {module} import main; main()"]


def log_path(folder: str, who: str) -> str:
    """Return the log file of the runner or of a worker in a run directory."""
    return os.path.join(folder, "logs", f"{who}.log")


class Spawned:
    """A worker's process, the runner's end of its socket, and the memory of its vitals, as a descriptor."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket, memory: int) -> None:
        self.process = process
        self.connection = connection
        self.memory = memory


def spawn_worker(folder: str, name: str) -> Spawned:
    """Start the worker of a run directory.

    Call it from the runner's main thread: its death signal is bound to that thread. Raises OSError.
    """
    mine, theirs = socket.socketpair()
    mine.setblocking(False)
    memory = -1
    try:
        memory = shared_memory()
        with open(log_path(folder, name), "ab") as log:
            process = subprocess.Popen(
                [
                    *interpreter(_MODULES[role_of(name)]),
                    *(str(part) for part in (folder, theirs.fileno(), os.getpid(), name, memory)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno(), memory],
                env=child_environment(),
                start_new_session=True,  # a notebook's interrupt goes to its whole process group
            )
    except BaseException:
        mine.close()
        if memory >= 0:
            os.close(memory)
        raise
    finally:
        theirs.close()
    return Spawned(process, mine, memory)


def spawn_ahead() -> dict[str, Spawned]:
    """Start the workers that the command line of a runner names behind its run directory.

    They load while it does. One that cannot be started is left to the runner, which has a journal to tell it in.
    """
    spawned: dict[str, Spawned] = {}
    try:
        for name in sys.argv[2:]:
            spawned[name] = spawn_worker(sys.argv[1], name)
    except OSError:
        pass
    return spawned


def role_of(name: str) -> str:
    """Return the role of a worker of that name.

    >>> role_of("rows-1")
    'rows'
    """
    return name.partition("-")[0]

"""What the system tells about a process: whether it is stopped, waits to run, or has used the processor (Linux)."""

from __future__ import annotations

import os
from typing import NamedTuple


class Sight(NamedTuple):
    """A process at one moment. `cpu_s` is the time on a processor so far, of all its threads, in steps of 10 ms."""

    is_stopped: bool  # by a signal or a debugger
    is_runnable: bool  # some thread runs, waits for a processor, or waits for a disk
    cpu_s: float


def look_at(pid: int) -> Sight | None:
    """Return how a process stands; None where the system does not tell, or there is no such process."""
    try:
        state, fields = _read_stat(f"/proc/{pid}/stat")
        states = {state}
        for thread in os.listdir(f"/proc/{pid}/task"):
            try:
                states.add(_read_stat(f"/proc/{pid}/task/{thread}/stat")[0])
            except OSError:  # it ended in between
                continue
    except (OSError, IndexError, ValueError):
        return None
    ticks = int(fields[11]) + int(fields[12])  # in user code and in the kernel
    return Sight(state in "Tt", bool(states & {"R", "D"}), ticks / os.sysconf("SC_CLK_TCK"))


def _read_stat(path: str) -> tuple[str, list[str]]:
    """Return the state and what follows the name, which may itself hold blanks and parentheses."""
    with open(path, encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return fields[0], fields

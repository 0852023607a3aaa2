"""What a run is doing, seen from outside: its processes by kind, its phase, and everything, when it hangs."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from distilnb.engine.reading import RunReader
from distilnb.engine.rundir import all_run_dirs
from tests.conftest import is_alive

PHASES = ("start()", "start-up", "flow", "join", "global", "finish", "over")
PATIENCE_S = 180.0  # a hang is longer, also on a machine that others load
POLL_S = 0.02
STACKS_S = 3.0  # for processes to write where they are


def processes_of_home(home: Path) -> dict[int, str]:
    """Return the living processes whose environment names the home; each is runner, rows-0, …, else kernel."""
    found = {}
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.environ().get("DISTILNB_HOME") != str(home):
                continue
            if not is_alive(process):
                continue
            command = process.cmdline()
        except psutil.Error:
            continue
        found[process.pid] = _kind_of(command)
    return found


def _kind_of(command: Sequence[str]) -> str:
    program = " ".join(command[1:3])
    if "engine.runner" in program:
        return "runner"
    if "engine.row_worker" in program or "engine.ask_worker" in program:
        return next((word for word in command if re.fullmatch(r"(rows|ask)-\d+", word)), "kernel")
    return "kernel"


def phase_of(reader: RunReader) -> str:
    """Return how far the journal says the run is.

    start-up: no worker has made a row; join: it has made some, not all; global: its rows are all there, its result is
    not; finish: after it; over: the run has ended.
    """
    journal = reader.journal()
    facts = journal.facts() if journal else {}
    counts = journal.counts() if journal else {}
    done = set(facts.get("done", ()))
    if facts and facts.get("state") not in ("running", "stopping"):
        return "over"
    if facts.get("ended:dedup"):
        return "finish"
    if set(reader.plan.stage("dedup").inputs) <= done:
        return "global"
    if counts.get("both", {}).get("done") and "both" not in done:
        return "join"
    return "flow" if counts.get("prepare") else "start-up"


def wait_until(is_so: Callable[[], bool], what: str, home: Path, timeout_s: float = PATIENCE_S) -> None:
    """Wait until something is so; when it does not come to that, tell what everybody was doing."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain: {what}\n{describe(home)}")
        time.sleep(POLL_S)


def describe(home: Path) -> str:
    """Return all that can be seen of the runs below a home: processes, status, events, logs, stacks."""
    processes = processes_of_home(home)
    asked = [pid for pid in processes if _ask_for_stacks(pid)]
    _wait_for_stacks(home, len(asked))
    lines = [f"process {pid} {kind}: {_state_of(pid)}" for pid, kind in processes.items()]
    for run in all_run_dirs():
        reader = RunReader(run)
        lines += [repr(reader.status()), reader.status().error]
        lines += [f"  {event.kind} {event.step} {event.data}" for event in reader.events()]
        reader.close()
        for log in sorted((run.path / "logs").iterdir()):
            lines += [f"--- {log.name}", run.log_tail(log.stem, 60)]
    return "\n".join(lines)


def _state_of(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        waits_in = Path(f"/proc/{pid}/wchan").read_text()
        return f"{process.status()}, waits in {waits_in}, {process.num_threads()} threads"
    except (psutil.Error, OSError) as error:
        return str(error)


def _wait_for_stacks(home: Path, n_asked: int) -> None:
    """Wait until so many processes have written their stacks to their logs; one that is stopped never does."""
    deadline = time.monotonic() + STACKS_S
    while n_asked and time.monotonic() < deadline:
        logs = [path.read_bytes() for path in home.rglob("logs/*") if path.is_file()]
        if sum(text.count(b"(most recent call first)") > 0 for text in logs) >= n_asked:
            return
        time.sleep(POLL_S)


def _ask_for_stacks(pid: int) -> bool:
    """Have a process that registered faulthandler for SIGUSR1 write its stacks to its log; others are let be."""
    try:
        caught = next(
            line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt")
        )
        if int(caught.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1:
            os.kill(pid, signal.SIGUSR1)
            return True
    except (OSError, StopIteration):
        pass
    return False

"""What a measured program costs, all its processes together: CPU, memory, open files, threads (Linux).

A run of distilnb lives on in processes that its kernel let go. The harness declares itself the reaper of such
orphans: they become its children, so that none is lost and the CPU of each can be read when it has ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

SAMPLE_S = 0.05
_PR_SET_CHILD_SUBREAPER = 36
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_HISTORY_EVERY = 20  # samples: one point a second

# distilnb's processes are told apart by the module that they run; every other child is "child".
_MODULE = re.compile(rb"from distilnb\.engine\.(\w+) import")
_ROLES = {b"runner": "runner", b"row_worker": "rows", b"ask_worker": "ask"}


def adopt_orphans() -> None:
    """Make this process the parent of orphans among its descendants."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def descendants(pid: int) -> Iterator[int]:
    """Yield the processes below one, itself not; those that come or go meanwhile may be missed."""
    for child in _children(pid):
        yield child
        yield from descendants(child)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_bytes().split())
    return found


def role_of(pid: int) -> str:
    """Return what a process of distilnb does, "child" for any other, "" for one that is gone."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    match = _MODULE.search(command)
    return _ROLES.get(match[1], match[1].decode()) if match else "child"


def is_running(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process so far, its children not counted; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


@dataclass
class Peak:
    """The most that was seen of processes of one role at once."""

    rss_bytes: int = 0
    n_files: int = 0
    n_threads: int = 0

    def raise_to(self, other: Peak) -> None:
        """Take the larger of each."""
        self.rss_bytes = max(self.rss_bytes, other.rss_bytes)
        self.n_files = max(self.n_files, other.n_files)
        self.n_threads = max(self.n_threads, other.n_threads)

    def add(self, other: Peak) -> None:
        """Add what a further process has."""
        self.rss_bytes += other.rss_bytes
        self.n_files += other.n_files
        self.n_threads += other.n_threads


@dataclass
class Seen:
    """What the samples of one measured program showed. `tree` is all but the kernel, its first process."""

    whole: Peak = field(default_factory=Peak)
    tree: Peak = field(default_factory=Peak)
    by_role: dict[str, Peak] = field(default_factory=lambda: defaultdict(Peak))
    n_processes: int = 0
    cpu_of: dict[int, tuple[str, float]] = field(
        default_factory=dict
    )  # pid → role, CPU seconds when last seen
    history: list[tuple[float, Peak]] = field(default_factory=list)  # seconds, tree; one a second

    def cpu_by_role(self) -> dict[str, float]:
        """Return the CPU seconds by role, up to a sample before each process ended."""
        sums: dict[str, float] = defaultdict(float)
        for role, seconds in self.cpu_of.values():
            sums[role] += seconds
        return {role: round(seconds, 3) for role, seconds in sums.items()}

    def growth(self) -> dict[str, float]:
        """Return how much the tree's last quarter stood above its second, as ratios: 1.0 is flat."""
        quarter = len(self.history) // 4
        if quarter < 2:
            return {}
        second = [peak for _, peak in self.history[quarter : 2 * quarter]]
        last = [peak for _, peak in self.history[-quarter:]]
        return {
            name: round(max(getattr(p, name) for p in last) / max(1, *(getattr(p, name) for p in second)), 3)
            for name in ("rss_bytes", "n_files", "n_threads")
        }


class Watch(threading.Thread):
    """Samples a program and everything it started, every 50 ms, until it is stopped."""

    def __init__(self, kernel: int, *, not_measured: Callable[[int], bool]) -> None:
        super().__init__(daemon=True)
        self.kernel = kernel
        self.seen = Seen()
        self._not_measured = not_measured
        self._stopped = threading.Event()
        self._began = time.monotonic()
        self._n_samples = 0
        self.start()

    def members(self) -> list[int]:
        """Return the kernel and all that descends from it, or was adopted from it."""
        found: list[int] = []
        for child in _children(os.getpid()):
            if not self._not_measured(child):
                found += [child, *descendants(child)]
        return found

    def run(self) -> None:
        """Take samples until `stop`."""
        while not self._stopped.wait(SAMPLE_S):
            self._sample()

    def stop(self) -> Seen:
        """End the sampling and return what was seen."""
        self._stopped.set()
        self.join()
        return self.seen

    def _role(self, pid: int) -> str:
        if pid == self.kernel:
            return "kernel"
        role = role_of(pid)
        # A process that is about to end has no command line any more.
        return self.seen.cpu_of[pid][0] if role in ("", "child") and pid in self.seen.cpu_of else role

    def _sample(self) -> None:
        whole, tree = Peak(), Peak()
        by_role: dict[str, Peak] = defaultdict(Peak)
        n_processes = 0
        for pid in self.members():
            role, now = self._role(pid), _look(pid)
            if not role or now is None:
                continue
            n_processes += 1
            whole.add(now)
            by_role[role].add(now)
            if role != "kernel":
                tree.add(now)
            self.seen.cpu_of[pid] = (role, cpu_s(pid))
        self.seen.whole.raise_to(whole)
        self.seen.tree.raise_to(tree)
        for role, peak in by_role.items():
            self.seen.by_role[role].raise_to(peak)
        self.seen.n_processes = max(self.seen.n_processes, n_processes)
        if self._n_samples % _HISTORY_EVERY == 0:
            self.seen.history.append((time.monotonic() - self._began, tree))
        self._n_samples += 1


def _look(pid: int) -> Peak | None:
    """Return what one process holds now, None when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return Peak(pages * _PAGE, len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")))
    except OSError:
        return None


def reap_adopted(not_measured: Callable[[int], bool], *, patience_s: float) -> tuple[float, int]:
    """Wait for adopted processes; return their CPU seconds and how many had to be killed when the patience was over."""
    deadline = time.monotonic() + patience_s
    cpu, killed = 0.0, set()
    while adopted := [pid for pid in _children(os.getpid()) if not not_measured(pid)]:
        for pid in adopted:
            ended, _, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                cpu += usage.ru_utime + usage.ru_stime
            elif time.monotonic() > deadline:
                killed.add(pid)
                kill_tree(pid)
        time.sleep(0.005)
    return cpu, len(killed)


def kill_tree(pid: int) -> None:
    """Kill a process and all below it."""
    for one in [*descendants(pid), pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)

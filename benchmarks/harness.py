"""One measurement: a driver in a fresh interpreter with an empty home, the server reset, everything counted."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.data import write_rows
from benchmarks.drivers import RESULT_MARK
from benchmarks.peers import Peer
from benchmarks.processes import Seen, Watch, cpu_s, is_running, kill_tree, reap_adopted, role_of
from benchmarks.workloads import MODELS, Workload
from tests.servers import MockLLM, mock_llm

ROOT = Path(__file__).resolve().parents[1]
Record = dict[str, Any]

_POLL_S = 0.02
_GONE_AFTER_S = 1.0  # what a kill leaves behind is looked for after this
_TIMEOUT_S = 300.0
_ENDS_WITHIN_S = 15.0  # a detached runner may take a moment after its result
_COUNTERS = (
    "requests",
    "ok",
    "max_in_flight",
    "rejected_429",
    "injected_errors",
    "duplicate_prompts",
    "duplicate_prompts_after_ok",
)


@dataclass
class Bench:
    """What measurements of one workload share: its server, its input files, the cores that they run on."""

    workload: Workload
    folder: Path
    rows: int
    server: MockLLM | None = None
    cores: Sequence[int] = ()  # of the measured programs; empty: any
    _files: dict[str, Path] = field(default_factory=dict)

    def data_file(self, suffix: str) -> Path:
        """Return the file of input rows, made at first use."""
        if suffix not in self._files:
            self._files[suffix] = self.folder / f"rows{suffix}"
            write_rows(self._files[suffix], self.rows)
        return self._files[suffix]

    def is_server(self, pid: int) -> bool:
        """Whether a process is the server, which is not measured."""
        return self.server is not None and pid == self.server.pid

    def stats(self) -> dict[str, Any]:
        """Return the server's counters, none without one."""
        return self.server.stats() if self.server else {}


@contextlib.contextmanager
def bench(workload: Workload, rows: int, *, pin: bool = False) -> Iterator[Bench]:
    """Start what a workload needs, for the length of a with block.

    `pin` gives the server the first core for itself and the measured programs the others.
    """
    cores = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="distilnb-bench-")))
        made = Bench(workload, folder, rows, cores=cores[1:] if pin and len(cores) > 1 else ())
        if workload.server is not None:
            made.server = stack.enter_context(mock_llm(**{**MODELS, **workload.server}))
            if made.cores:
                os.sched_setaffinity(made.server.pid, cores[:1])
        yield made


def measure(bench: Bench, peer: Peer) -> list[Record]:
    """Measure a peer once, and return what was found: a record, for kills one for each that is killed."""
    protocol = bench.workload.protocol
    if protocol == "kill":
        kills = bench.workload.kills if peer.lives_on else bench.workload.kills[:1]
        return [_measured(bench, peer, partial(_killed, kill=kill)) for kill in kills]
    return [_measured(bench, peer, _edited if protocol == "edit" else _once)]


def _measured(bench: Bench, peer: Peer, run: Callable[[Bench, Peer, Path], Record]) -> Record:
    """Run with a fresh work folder and a reset server; add what the server saw."""
    work = Path(tempfile.mkdtemp(prefix="work-", dir=bench.folder))
    (work / "tmp").mkdir()
    server_cpu = cpu_s(bench.server.pid) if bench.server else 0.0
    if bench.server:
        bench.server.reset()
    try:
        record = run(bench, peer, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if bench.server:
        stats = bench.stats()
        record["server"] = {name: stats[name] for name in _COUNTERS}
        record["server_cpu_s"] = round(cpu_s(bench.server.pid) - server_cpu, 2)
    return {
        "workload": bench.workload.name,
        "peer": peer.name,
        "n": bench.rows,
        "load": round(os.getloadavg()[0], 1),
        **record,
    }


def _once(bench: Bench, peer: Peer, work: Path) -> Record:
    return Program(bench, peer, work).to_the_end()


def _edited(bench: Bench, peer: Peer, work: Path) -> Record:
    """The same program twice over one work folder; the second time with another last prompt."""
    first = Program(bench, peer, work).to_the_end()
    before = bench.stats()["requests"]
    again = Program(bench, peer, work, edit="B").to_the_end()
    return {
        **again,
        "first_wall_s": first.get("wall_s"),
        "first_requests": before,
        "rerun_requests": bench.stats()["requests"] - before,
    }


def _killed(bench: Bench, peer: Peer, work: Path, kill: str) -> Record:
    """Kill at half, look for orphans, let it go on or call it again."""
    program = Program(bench, peer, work)
    program.run_until(lambda: bench.stats()["ok"] >= bench.rows // 2)
    if program.has_ended:
        return {**program.to_the_end(), "kill": kill, "error": "it ended before half of it was answered"}
    before = program.members()
    targets = [pid for pid, role in before.items() if kill in ("all", role)]
    in_flight = bench.stats()["in_flight"]
    for pid in targets:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    time.sleep(_GONE_AFTER_S)
    may_live = _survivors(before, kill, lives_on=peer.lives_on)
    orphans = [pid for pid in before if pid not in (*targets, *may_live) and is_running(pid)]
    for pid in orphans:
        kill_tree(pid)
    if kill in ("kernel", "all"):
        program.abandon(keep_children=peer.lives_on)
        program = Program(bench, peer, work)
    record = program.to_the_end()
    stats = bench.stats()
    return {
        **record,
        "kill": kill,
        "n_killed": len(targets),
        "in_flight": in_flight,
        "orphans": len(orphans) + record["left_behind"],
        "resent": stats["requests"] - bench.rows,
        "paid_twice": stats["duplicate_prompts_after_ok"],
    }


def _survivors(before: dict[int, str], kill: str, *, lives_on: bool) -> set[int]:
    """Return which processes may live on when those of a role were killed."""
    if kill == "all" or (kill == "kernel" and not lives_on):
        return set()
    if kill == "runner":
        return {pid for pid, role in before.items() if role == "kernel"}
    return {pid for pid, role in before.items() if role != kill}


class Program:
    """A driver that runs, and everything that it started."""

    def __init__(self, bench: Bench, peer: Peer, work: Path, *, edit: str = "A") -> None:
        self._bench = bench
        self._log = work / "driver.log"
        self._began = time.monotonic()
        self._limit_s = float(bench.workload.options.get("timeout_s", _TIMEOUT_S))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(peer, work, edit),
                cwd=work,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(work),
                start_new_session=True,
            )
        if bench.cores:  # before it has threads or children, which inherit it
            os.sched_setaffinity(self._process.pid, bench.cores)
        self._watch = Watch(self._process.pid, not_measured=bench.is_server)
        self._status: int | None = None
        self._cpu_s = 0.0
        self._is_late = False

    def _command(self, peer: Peer, work: Path, edit: str) -> list[str]:
        bench, workload = self._bench, self._bench.workload
        command = [str(peer.python), "-m", f"benchmarks.drivers.{peer.driver}", workload.function]
        command += [
            "--rows",
            str(bench.rows),
            "--concurrency",
            str(workload.concurrency),
            "--work",
            str(work),
        ]
        command += ["--variant", peer.variant, "--edit", edit]
        if bench.server:
            command += ["--url", bench.server.base_url]
        if workload.function in ("w1", "result") and peer.variant not in ("list", "arrow", "datasets"):
            command += [
                "--data",
                str(bench.data_file(".arrow" if peer.variant.endswith("-arrow") else ".jsonl")),
            ]
        return command

    @property
    def has_ended(self) -> bool:
        """Whether the driver itself has ended."""
        return self._status is not None

    def members(self) -> dict[int, str]:
        """Return the living processes, each with its role."""
        roles = {pid: role_of(pid) for pid in self._watch.members()}
        roles[self._process.pid] = "kernel"
        return {pid: role for pid, role in roles.items() if role}

    def run_until(self, holds: Callable[[], bool]) -> None:
        """Wait for a condition, or the end."""
        while not self._has_just_ended() and not holds():
            time.sleep(_POLL_S)

    def to_the_end(self) -> Record:
        """Wait for the end; return what the driver told and what it all cost."""
        self.run_until(lambda: False)
        adopted_s, left_behind = reap_adopted(self._bench.is_server, patience_s=_ENDS_WITHIN_S)
        seen = self._watch.stop()
        record = {**self._told(), **_costs(seen), "cpu_s": round(self._cpu_s + adopted_s, 2)}
        return {**record, "left_behind": left_behind}

    def abandon(self, *, keep_children: bool) -> None:
        """Stop looking at a driver that was killed."""
        self.run_until(lambda: False)
        self._watch.stop()
        if not keep_children:
            reap_adopted(self._bench.is_server, patience_s=0.0)

    def _has_just_ended(self) -> bool:
        if self._status is None:
            pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
                self._process.returncode = self._status
                self._cpu_s = usage.ru_utime + usage.ru_stime
            elif time.monotonic() - self._began > self._limit_s and not self._is_late:
                self._is_late = True
                kill_tree(self._process.pid)
        return self._status is not None

    def _told(self) -> Record:
        """Return the driver's result, or why there is none."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in reversed(lines):
            if line.startswith(RESULT_MARK):
                return {
                    name: round(value, 4) if isinstance(value, float) else value
                    for name, value in json.loads(line.removeprefix(RESULT_MARK)).items()
                }
        why = f"not done after {self._limit_s:.0f} s" if self._is_late else f"exit {self._status}"
        tail = "\n".join(lines[-12:])
        sys.stderr.write(f"{why}:\n{tail}\n")
        return {"error": f"{why}: {lines[-1][:200] if lines else ''}"}


def _costs(seen: Seen) -> Record:
    megabyte = 2**20
    return {
        "rss_mb": round(seen.whole.rss_bytes / megabyte, 1),
        "tree_rss_mb": round(seen.tree.rss_bytes / megabyte, 1),
        "rss_mb_by_role": {role: round(p.rss_bytes / megabyte, 1) for role, p in seen.by_role.items()},
        "n_processes": seen.n_processes,
        "n_files": seen.tree.n_files,
        "n_threads": seen.tree.n_threads,
        "cpu_s_by_role": seen.cpu_by_role(),
        "growth": seen.growth(),
    }


def _environment(work: Path) -> dict[str, str]:
    """Return an environment without keys, whose home is the work folder."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.endswith(("_API_KEY", "_TOKEN", "_BASE_URL")) and name != "PYTHONDONTWRITEBYTECODE"
    }
    return {
        **kept,
        "HOME": str(work),
        "XDG_CACHE_HOME": str(work / "cache"),
        "HF_HOME": str(work / "huggingface"),
        "TMPDIR": str(work / "tmp"),
        "DISTILNB_HOME": str(work / "distilnb"),
        "PYTHONPATH": str(ROOT),
        "NO_PROXY": "127.0.0.1,localhost",
    }

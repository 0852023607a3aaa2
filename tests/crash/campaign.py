"""A campaign: runs that are killed again and again, and what must be true of each in the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from distilnb.engine.reading import RunReader
from distilnb.engine.rundir import RunDir, all_run_dirs
from tests.crash.pipelines import MAX_IN_FLIGHT, VARIANTS
from tests.crash.watching import PHASES, describe, phase_of, processes_of_home, wait_until
from tests.servers import MockLLM

ROOT = Path(__file__).parents[2]
KINDS = ("kernel", "runner", "rows-0", "rows-1", "ask-0", "all")
LOSE_REQUESTS = ("runner", "ask-0", "all")  # a runner's workers end with it
AIMS = ("flow", "flow", "flow", "flow", "join")  # where requests are in flight: most of a run's kills
RARE_AIMS = ("start-up", "global", "finish")
MIN_IN_FLIGHT = 3


class Kill(NamedTuple):
    """What was killed, how far the run was, and how many requests the server was answering."""

    kind: str
    phase: str
    n_in_flight: int


class Result(NamedTuple):
    """What a run has made: ids, order and rows of each stage, and its errors."""

    rows: dict[str, list[tuple[str, Any]]]
    errors: list[tuple[str, str, str]]


@dataclass
class Campaign:
    """Runs killed by chance, drawn from a seed; every kill is kept for the table."""

    server: MockLLM
    folder: Path
    seed: int
    kills: list[Kill] = field(default_factory=list)
    n_runs: int = 0
    n_asked_twice: int = 0
    n_may_be_asked_twice: int = 0
    _undisturbed: dict[str, Result] = field(default_factory=dict)
    _n_homes: int = 0

    def assault(self, number: int) -> None:
        """Start a run, kill each kind of process once while it goes, and hold the result against the undisturbed."""
        random = Random(f"{self.seed}:{number}")
        variant = VARIANTS[number % len(VARIANTS)] if random.random() < 0.5 else "file"
        expected = self._expected(variant)
        with self._home() as home:
            before = len(self.kills)
            run = Assault(self.server, home, self.folder, variant, random, self.kills).end()
            self.n_runs += 1
            found = result_of(run)
            told = f"seed {self.seed}, run {number} ({variant}), {self.kills[before:]}"
            assert found.errors == expected.errors, told
            assert found.rows == expected.rows, told
            n_twice = self.server.stats()["duplicate_prompts_after_ok"]
            n_may = MAX_IN_FLIGHT * sum(kill.kind in LOSE_REQUESTS for kill in self.kills[before:])
            assert n_twice <= n_may, told
            self.n_asked_twice += n_twice
            self.n_may_be_asked_twice += n_may

    def assault_start(self, number: int) -> None:
        """Kill the kernel while it is in `start()`: there is no run then, or one that can be resumed."""
        expected = self._expected("rows")
        with self._home() as home:
            random = Random(f"{self.seed}:start:{number}")
            run = Assault(self.server, home, self.folder, "rows", random, self.kills).end_of_start()
            self.n_runs += 1
            assert result_of(run) == expected, f"seed {self.seed}, start {number}, {self.kills[-1]}"

    def _expected(self, variant: str) -> Result:
        if variant not in self._undisturbed:
            with self._home() as home:
                run = Assault(self.server, home, self.folder, variant, Random(0), []).end(undisturbed=True)
                self._undisturbed[variant] = result_of(run)
                assert self.server.stats()["duplicate_prompts_after_ok"] == 0
        return self._undisturbed[variant]

    @contextlib.contextmanager
    def _home(self) -> Iterator[Path]:
        """Give a run a home of its own and a server that has seen nothing; see that no process is left of it."""
        self._n_homes += 1
        home = self.folder / f"home{self._n_homes}"
        before, os.environ["DISTILNB_HOME"] = os.environ["DISTILNB_HOME"], str(home)
        wait_until(lambda: self.server.stats()["in_flight"] == 0, "the server to come to rest", home)
        self.server.reset()
        try:
            yield home
            wait_until(lambda: not processes_of_home(home), "all processes of the run to end", home)
        finally:
            for pid in processes_of_home(home):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            os.environ["DISTILNB_HOME"] = before

    # --- the table ---

    def table(self) -> str:
        """Return the kills by kind and phase, and how many of them met requests in flight."""
        cells = Counter((kill.kind, kill.phase) for kill in self.kills)
        busy = Counter(kill.kind for kill in self.kills if kill.n_in_flight)
        lines = [f"seed {self.seed}: {len(self.kills)} kills in {self.n_runs} runs"]
        lines += ["".join(f"{name:>12}" for name in ("killed", *PHASES, "all", "in flight"))]
        for kind in KINDS:
            figures = [cells[kind, phase] for phase in PHASES]
            lines.append(f"{kind:>12}" + "".join(f"{n:>12}" for n in (*figures, sum(figures), busy[kind])))
        sums = [sum(cells[kind, phase] for kind in KINDS) for phase in PHASES]
        lines.append(
            f"{'all':>12}" + "".join(f"{n:>12}" for n in (*sums, len(self.kills), sum(busy.values())))
        )
        in_flight = sum(kill.n_in_flight for kill in self.kills if kill.kind in LOSE_REQUESTS)
        lines.append(
            f"asked twice: {self.n_asked_twice}; in flight at the kills: {in_flight} as the server saw it, "
            f"{self.n_may_be_asked_twice} by the models' concurrency"
        )
        return "\n".join(lines)


def result_of(run: RunDir) -> Result:
    """Read all that a run has made."""
    reader = RunReader(run)
    try:
        rows = {}
        for stage in reader.plan.stages:
            batch = reader.rows(stage.name)
            rows[stage.name] = list(zip(batch.ids, batch.rows, strict=True))
        errors = sorted((error["row_id"], error["step"], error["kind"]) for error in reader.errors())
        return Result(rows, errors)
    finally:
        reader.close()


class Assault:
    """One run from its start to its end, with what befalls it."""

    def __init__(
        self, server: MockLLM, home: Path, folder: Path, variant: str, random: Random, kills: list[Kill]
    ) -> None:
        self.server = server
        self.home = home
        self.random = random
        self.kills = kills
        self.asks = variant != "rows"
        self._reader: RunReader | None = None
        self._start = ["-m", "tests.crash.kernel", "start", variant, server.base_url, str(folder)]
        self._kernel = self._fresh(self._start)

    def end(self, *, undisturbed: bool = False) -> RunDir:
        """Let the run come to its end, killing each kind of process once on the way; returns its directory."""
        try:
            aims = sorted([*AIMS, self.random.choice(RARE_AIMS)], key=PHASES.index)
            kinds = self.random.sample(KINDS, len(KINDS))
            for aim, kind in zip(aims, kinds, strict=True) if not undisturbed else ():
                self._strike(kind, aim)
            self._see_to_its_end()
            return self._run()
        finally:
            self._drop(self._kernel)
            if self._reader is not None:
                self._reader.close()

    def end_of_start(self) -> RunDir:
        """Kill the kernel at some moment of its `start()`, and let the run, or the next one, come to its end."""
        try:
            wait_until(lambda: self._has_said("starting"), "the kernel to begin", self.home)
            time.sleep(self.random.uniform(0, 0.1))
            self._kernel.kill()
            self._kernel.wait()
            has_started = self._said.read_text().count("\n") > 1
            self.kills.append(Kill("kernel", self._phase() if has_started else "start()", 0))
            self._resume()
            self._see_to_its_end()
            return self._run()
        finally:
            self._drop(self._kernel)
            if self._reader is not None:
                self._reader.close()

    # --- a kill ---

    def _strike(self, kind: str, aim: str) -> None:
        self._wait_for(aim)
        time.sleep(self.random.uniform(0, 0.08))
        # A worker that was killed a moment ago may not be back yet.
        wait_until(
            lambda: bool(self._victims(kind)) or self._phase() == "over", f"a {kind} to kill", self.home
        )
        phase = self._phase()
        if phase == "over":
            return
        n_in_flight = self.server.stats()["in_flight"]
        pids = self._victims(kind)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if pids:
            self.kills.append(Kill(kind, phase, n_in_flight))
            self._mend(kind)

    def _victims(self, kind: str) -> list[int]:
        processes = processes_of_home(self.home)
        pids = [pid for pid, what in processes.items() if kind in (what, "all")]
        self.random.shuffle(pids)
        return pids if kind == "all" else pids[:1]

    def _mend(self, kind: str) -> None:
        """Do what a user does after such a kill, in a fresh process."""
        if kind in ("runner", "all"):
            is_gone = lambda: set(processes_of_home(self.home).values()) <= {"kernel"}  # noqa: E731
            wait_until(is_gone, "the workers to end with their runner", self.home, 60.0)
        if kind in ("kernel", "runner", "all"):
            self._drop(self._kernel)
            self._resume()

    def _resume(self) -> None:
        """Go on in a fresh process. Where the start itself was killed there may be no run: then it is started again."""
        runs = all_run_dirs()
        if not runs:
            self._kernel = self._fresh(self._start)
            return
        by_command = self.random.random() < 0.4 and not runs[0].is_alive()
        program = ["-m", "distilnb", "resume"] if by_command else ["-m", "tests.crash.kernel", "resume"]
        self._kernel = self._fresh([*program, runs[0].run_id])

    def _see_to_its_end(self) -> None:
        for _ in range(4):
            wait_until(lambda: self._kernel.poll() is not None, "the run to end", self.home)
            reader = RunReader(self._run())
            status = reader.status()
            reader.close()
            if status.state == "finished":
                return
            # The kernel that waited may have ended with its run lost.
            self._drop(self._kernel)
            self._resume()
        raise AssertionError(f"the run does not finish: {status!r} {status.error}\n{describe(self.home)}")

    # --- looking ---

    def _run(self) -> RunDir:
        runs = all_run_dirs()
        assert len(runs) == 1, runs
        return runs[0]

    def _phase(self) -> str:
        if self._reader is None:
            runs = all_run_dirs()
            if not runs:
                return "start-up"
            self._reader = RunReader(runs[0])
        return phase_of(self._reader)

    def _wait_for(self, aim: str) -> None:
        """Wait until the run is as far as that, or has passed it."""

        def has_come() -> bool:
            phase = self._phase()
            if phase in ("flow", "join") and aim in ("flow", "join"):
                return not self.asks or self.server.stats()["in_flight"] >= MIN_IN_FLIGHT
            return PHASES.index(phase) >= PHASES.index(aim)

        if aim == "start-up":
            wait_until(lambda: bool(all_run_dirs()) and bool(self._victims("all")), "a run", self.home)
        else:
            wait_until(has_come, aim, self.home)

    # --- kernels ---

    def _fresh(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        self._said = self.home.with_suffix(".out")
        with self._said.open("wb") as out:
            return subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, "DISTILNB_HOME": str(self.home), "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )

    def _has_said(self, word: str) -> bool:
        return word in self._said.read_text(errors="replace") or self._kernel.poll() is not None

    @staticmethod
    def _drop(kernel: subprocess.Popen[bytes]) -> None:
        """End a kernel that is of no more use, and take its exit code."""
        kernel.kill()
        kernel.wait()

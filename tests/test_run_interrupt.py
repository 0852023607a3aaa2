"""Graceful first, hard second: in start-up, while it runs, in a pause, and while it finishes."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distilnb.engine import events
from distilnb.engine.rundir import RunDir
from distilnb.pipeline import Pipeline
from distilnb.run import Run, runs
from distilnb.spec.step import Step
from tests.conftest import processes_of, wait_until_gone
from tests.runs import wait_for

PHASES = ["load", "process", "unload"]


class Blocking(Step):
    """Takes longer than anybody waits, in one phase of its life."""

    phase: str
    marker: str

    def load(self) -> None:
        self._block("load")

    def process(self, rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:  # type: ignore[override]
        self._block("process")
        yield rows

    def unload(self) -> None:
        self._block("unload")

    def _block(self, phase: str) -> None:
        if phase == self.phase:
            Path(self.marker).touch()
            threading.Event().wait(120)


def pipeline(phase: str, marker: Path) -> Pipeline:
    return Pipeline("blocking").from_dicts([{"a": 1}]).then(Blocking(phase=phase, marker=str(marker)))


SCRIPT = """
import sys
from pathlib import Path
from tests.test_run_interrupt import pipeline
pipeline(sys.argv[1], Path(sys.argv[2])).run()
"""


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "blocked"


def await_marker(marker: Path) -> None:
    deadline = time.monotonic() + 30
    while not marker.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def interrupt_twice(phase: str, marker: Path, *, pause: bool = False) -> tuple[int, str, Run]:
    """Send two interrupts to a script whose run blocks, the second once the first was answered."""
    words = [sys.executable, "-c", SCRIPT, phase, str(marker)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as script:
        await_marker(marker)
        (run,) = runs()
        if pause:
            run.pause()
            wait_for(run, lambda run: any(isinstance(event, events.Paused) for event in run.events()))
        assert script.stderr is not None
        script.send_signal(signal.SIGINT)
        told = ""
        while "Ctrl-C again" not in told:
            line = script.stderr.readline()
            assert line, told
            told += line
        assert processes_of(Path(run.path))  # the first one is graceful: it waits for what is at work
        assert script.poll() is None
        script.send_signal(signal.SIGINT)
        _, rest = script.communicate(timeout=30)
        return script.returncode, told + rest, run


@pytest.mark.parametrize("phase", ["load", "process"], ids=["start-up", "run"])
@pytest.mark.parametrize("pause", [False, True], ids=["going", "paused"])
def test_the_second_interrupt_ends_a_run_at_once(phase: str, pause: bool, marker: Path, home: Path) -> None:
    status, told, run = interrupt_twice(phase, marker, pause=pause)
    assert status == 1
    assert f"RunNotFinishedError: Run {run.id!r} is stopped (user)." in told
    assert wait_until_gone(home, 4.0) == []
    assert [e.name for e in run.events() if isinstance(e, events.CommandTaken)][-2:] == ["stop", "abort"]


def test_the_second_interrupt_ends_a_finished_run_that_unloads(marker: Path, home: Path) -> None:
    status, told, run = interrupt_twice("unload", marker)
    assert status == 0, told
    assert run.status().state == "finished"
    assert wait_until_gone(home, 4.0) == []


@pytest.mark.parametrize("phase", PHASES)
def test_an_abort_ends_a_run_at_once_in_any_phase(phase: str, marker: Path, home: Path) -> None:
    run = pipeline(phase, marker).start()
    await_marker(marker)
    wait_for_state(run, "finished" if phase == "unload" else "running")
    run.abort()
    assert wait_until_gone(home, 4.0) == []
    assert run.status().state == ("finished" if phase == "unload" else "stopped")


def wait_for_state(run: Run, state: str) -> None:
    deadline = time.monotonic() + 30
    while run.status().state != state:
        assert time.monotonic() < deadline, repr(run)
        time.sleep(0.01)


def test_a_second_stop_is_as_gentle_as_the_first(marker: Path, home: Path) -> None:
    run = pipeline("process", marker).start()
    await_marker(marker)
    for _ in range(3):
        run.stop()
    wait_for(run, lambda run: len([e for e in run.events() if isinstance(e, events.CommandTaken)]) == 3)
    assert run.wait(0.5).state == "stopping"
    assert processes_of(Path(run.path))
    assert len([e for e in run.events() if isinstance(e, events.Stopping)]) == 1
    run.abort()
    assert wait_until_gone(home, 4.0) == []


def test_a_stop_in_start_up_ends_before_any_row(home: Path) -> None:
    run = (
        Pipeline("early", llm="rehearsal").from_dicts([{"a": 1}] * 50).generate(prompt="Say {{ a }}.").start()
    )
    run.stop()
    assert run.wait(30).state == "stopped"
    assert wait_until_gone(home) == []
    run.resume()
    assert run.wait(30).state == "finished"
    assert len(run.to_pandas()) == 50


def test_an_interrupt_while_the_runner_is_started_leaves_neither_run_nor_process(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(run: RunDir, pid: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunDir, "write_pid", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Pipeline("interrupted").from_dicts([{"a": 1}]).map(double).start()
    assert wait_until_gone(home) == []
    assert runs() == []


def double(a: int) -> dict[str, int]:
    return {"b": 2 * a}

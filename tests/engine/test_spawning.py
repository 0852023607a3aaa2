"""Workers that are started before their runner is loaded: taken on by it, and gone with it when it is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from distilnb.children import child_environment
from distilnb.engine.spawning import interpreter, spawn_ahead
from distilnb.pipeline import Pipeline
from distilnb.run import Run
from tests.conftest import wait_until_gone


def finished(home: Path) -> Run:
    run = Pipeline("ahead").from_dicts([{"i": 1}, {"i": 2}]).keep("i").start()
    assert run.wait(60).state == "finished"
    wait_until_gone(home)
    return run


def test_the_runner_takes_on_the_workers_that_were_started_ahead(home: Path) -> None:
    run = finished(home)
    started = [event for event in run.events() if event.kind == "worker_started"]
    assert [event.name for event in started] == ["rows-0"]  # type: ignore[attr-defined]  # each kind has its own fields
    assert "WorkerDied" not in {type(event).__name__ for event in run.events()}


def test_a_runner_that_finds_another_at_work_takes_its_workers_along(home: Path) -> None:
    run = finished(home)
    program = (
        "import fcntl, os, sys\n"
        "file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, f"{run.path}/lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        done = subprocess.run(
            [*interpreter("distilnb.engine.runner"), run.path, "rows-0", "rows-1"],
            input=json.dumps({"secrets": {}}).encode() + b"\n",
            env=child_environment(),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert b"is running already" in done.stderr
        assert other.stdin is not None
        other.stdin.close()
    assert wait_until_gone(home) == []


def test_a_worker_that_cannot_be_started_ahead_is_left_to_the_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["-c", str(tmp_path / "absent"), "ask-0"])
    before = psutil.Process().children()
    n_files = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    assert spawn_ahead() == {}
    assert psutil.Process().children() == before
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) == n_files


def test_workers_are_started_before_anything_heavy_is_loaded() -> None:
    program = "import sys, distilnb.engine.spawning; sys.exit(' '.join(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    loaded = set(done.stderr.split())
    assert "distilnb.engine.spawning" in loaded
    assert not loaded & {"asyncio", "dataclasses", "inspect", "json", "pathlib", "sqlite3"}

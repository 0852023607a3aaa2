"""What every test gets: a home of its own, and the promise that no process stays behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the test an empty DISTILNB_HOME, no keys, and end what runs it left."""
    folder = tmp_path / "home"
    monkeypatch.setenv("DISTILNB_HOME", str(folder))
    for name in [name for name in os.environ if name.endswith(("_API_KEY", "_BASE_URL", "HF_TOKEN"))]:
        monkeypatch.delenv(name)
    yield folder
    end_processes_of(folder)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the runners and workers of runs below a folder: their command line names it."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in part for part in process.info["cmdline"] or ()):
            found.append(process)
    return found


def end_processes_of(folder: Path) -> None:
    """Kill what a test's runs left, by pid."""
    for process in processes_of(folder):
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_until_gone(folder: Path, timeout_s: float = 10.0) -> list[psutil.Process]:
    """Wait until no process of a run below the folder is left; return those that still are."""
    deadline = time.monotonic() + timeout_s
    while (left := [p for p in processes_of(folder) if is_alive(p)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def is_alive(process: psutil.Process) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

"""A journal that cannot be written (full disk, read-only disk, file gone) ends the run, and `status` tells why."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distilnb.pipeline import Pipeline
from distilnb.run import Run, attach
from tests.conftest import processes_of, wait_until_gone
from tests.runs import wait_for

N_ROWS = 400


def slowly(i: int) -> dict[str, str]:
    time.sleep(0.01)
    return {"text": "x" * 2000}


def pipeline(n_rows: int = N_ROWS) -> Pipeline:
    """Rows that arrive in many small batches, each a turn of the journal."""
    letters = [{"i": i} for i in range(n_rows)]
    start = Pipeline("disk").from_dicts(letters).generate(llm="rehearsal", prompt="Say {{ i }}.")
    return start.map(slowly, makes=["text"], name="text")


def some_are_done(run: Run) -> bool:
    return run.status().step("text").done > 0


def runner_pid(run: Run) -> int:
    found = processes_of(Path(run.path))
    return next(process.pid for process in found if "engine.runner " in " ".join(process.cmdline()))


def numbers(run: Run) -> list[int]:
    return sorted(run.to_pandas()["i"])


@pytest.mark.skipif(sys.platform != "linux", reason="not shipped: another process's limits, outside Linux")
def test_a_runner_that_may_write_no_more_fails_with_the_cause_and_resumes(home: Path) -> None:
    run = pipeline().start()
    wait_for(run, some_are_done)
    limit = 8192  # bytes of a file: less than the journal has by now
    resource.prlimit(runner_pid(run), resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    status = run.wait(30)
    assert status.state == "failed"
    assert "The journal cannot be written" in status.error
    assert wait_until_gone(home) == []
    done = status.step("text").done
    assert len(run.rows("text")) == done
    again = attach(run.id).resume()
    assert again.wait(60).state == "finished"
    assert numbers(again) == list(range(N_ROWS))
    assert again.status().error == ""


def test_a_deleted_journal_ends_the_run_and_a_resume_begins_anew(home: Path) -> None:
    run = pipeline().start()
    wait_for(run, some_are_done)
    for path in Path(run.path).glob("journal.sqlite*"):
        path.unlink()
    status = attach(run.id).wait(30)
    assert status.state == "failed"
    assert "was deleted" in status.error
    assert wait_until_gone(home) == []
    again = attach(run.id).resume()
    assert again.wait(60).state == "finished"
    assert numbers(again) == list(range(N_ROWS))


def test_a_deleted_run_directory_leaves_no_process(home: Path) -> None:
    run = pipeline().start()
    wait_for(run, some_are_done)
    path = Path(run.path)
    shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)  # what was written meanwhile
    assert wait_until_gone(home, 30) == []


# --- on a disk of its own: in a child that may mount one ------------------------------

MOUNTED = """
import os, subprocess, sys, time
from pathlib import Path

home = Path(os.environ["DISK"])  # an argument would make this a process of the run
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", home], check=True)
os.environ["DISTILNB_HOME"] = str(home / "home")

from distilnb.run import attach
from tests.conftest import wait_until_gone
from tests.runs import wait_for
from tests.test_unwritable_journal import N_ROWS, numbers, pipeline, some_are_done

run = pipeline().start()
if sys.argv[1] == "full":
    wait_for(run, some_are_done)
    with open(home / "ballast", "wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(4096))
        except OSError:
            pass
    status = run.wait(60)
    assert wait_until_gone(home) == []
    os.unlink(home / "ballast")
    subprocess.run(["mount", "-o", "remount,size=64m", home], check=True)
else:
    # Nothing may be open for writing when a disk is made read-only, so the runner finds it so when it starts.
    wait_for(run, some_are_done)
    run.stop()
    run.wait(30)
    assert wait_until_gone(home) == []
    subprocess.run(["mount", "-o", "remount,ro", home], check=True)
    assert len(attach(run.id).rows("text")) > 0
    try:
        status = attach(run.id).resume().wait(30)
        print("state:", status.state, status.error)
    except Exception as error:
        print("refused:", error)
    subprocess.run(["mount", "-o", "remount,rw", home], check=True)
    status = None

if status is not None:
    print("state:", status.state, status.error)
assert wait_until_gone(home) == []
again = attach(run.id).resume()
assert again.wait(90).state == "finished", again
assert numbers(again) == list(range(N_ROWS))
assert wait_until_gone(home) == []
print("whole")
"""


def mounted(folder: Path, how: str) -> Iterator[str]:
    command = ["unshare", "--map-root-user", "--user", "--mount"] if os.geteuid() else ["unshare", "--mount"]
    may = shutil.which("unshare") and subprocess.run(
        [*command, "mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if not may or may.returncode:
        pytest.skip("not shipped: the right to mount a disk of its own")
    done = subprocess.run(
        [*command, sys.executable, "-c", MOUNTED, how],
        env={**os.environ, "DISK": str(folder)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    yield from done.stdout.splitlines()


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_the_cause_and_it_resumes(tmp_path: Path) -> None:
    told, *_, last = mounted(tmp_path, "full")  # what to do may stand in a line of its own
    assert told.startswith("state: failed")
    assert "full" in told or "No space left" in told
    assert last == "whole"


@pytest.mark.slow
def test_a_read_only_disk_can_be_read_and_refuses_a_resume_until_it_is_writable(tmp_path: Path) -> None:
    told, *_, last = mounted(tmp_path, "read-only")
    assert "ead-only" in told
    assert last == "whole"

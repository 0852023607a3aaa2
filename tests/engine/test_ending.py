"""The end of a run that the journal cannot tell."""

from __future__ import annotations

import time
from pathlib import Path

from distilnb.engine.ending import SIZE_BYTES, read_end, take_space, tell_end
from distilnb.engine.rundir import RunDir, make_run_dir


def run_dir(home: Path) -> RunDir:
    return make_run_dir("run")


def test_the_end_has_its_space_before_it_is_told(home: Path) -> None:
    run = run_dir(home)
    take_space(run)
    assert (run.path / "end.json").stat().st_size == SIZE_BYTES
    assert read_end(run) is None
    tell_end(run, "failed", "runner", "no space left, 空き容量がない" * 500)
    assert (run.path / "end.json").stat().st_size == SIZE_BYTES
    end = read_end(run)
    assert end is not None
    assert (end.state, end.reason) == ("failed", "runner")
    assert end.error.startswith("no space left, 空き容量がない")
    assert abs(end.at - time.time()) < 60


def test_a_new_runner_forgets_the_end_before(home: Path) -> None:
    run = run_dir(home)
    take_space(run)
    tell_end(run, "failed", "runner", "x")
    take_space(run)
    assert read_end(run) is None


def test_the_log_tells_the_end_when_nothing_else_can_be_written(home: Path, capfd: object) -> None:
    run = run_dir(home)
    tell_end(run, "failed", "runner", "read-only")  # without `take_space` there is no file to write into
    told = capfd.readouterr().err  # type: ignore[attr-defined]
    run.log("runner").write_text(told)
    end = read_end(run)
    assert end is not None
    assert end.error == "read-only"

"""What a runner makes of things that come in one turn: the order in which they count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from distilnb.engine import launch
from distilnb.engine.runner import Runner
from distilnb.engine.wire import failed_message
from distilnb.pipeline import Pipeline

DAMAGED = failed_message("load", ValueError("line 7 is damaged"))


@pytest.fixture
def runner(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    """A runner that has begun, without its workers."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n')
    graph = Pipeline("turns").from_files(path).keep("n").graph
    monkeypatch.setattr(launch, "start_runner", mock.Mock())
    options = {"rows": None, "max_cost": None, "max_tokens": None, "cache": "on", "on_error": "quarantine"}
    runner = Runner(
        launch.launch(graph, pipeline="turns", text=str, options={**options, "row_workers": 1}), {}
    )
    runner._restore()
    yield runner
    runner.journal.close()


def turn(runner: Runner, *messages: dict[str, Any]) -> None:
    """Let the runner hear messages of its worker in one turn."""
    worker = SimpleNamespace(name="rows-0")
    with mock.patch.object(runner.crew, "receive", return_value=[(worker, message) for message in messages]):
        runner._turn()


def test_a_source_that_has_failed_has_not_ended(runner: Runner) -> None:
    # A worker has several pulls to do: to those behind the failed one it says that there is nothing more.
    turn(runner, DAMAGED, {"say": "source_end", "stage": "load"})
    assert runner.end == ("failed", "ValueError", "Step 'load' failed: ValueError: line 7 is damaged")
    assert "ended:load" not in runner.reader.facts()
    assert not runner.flow.has_ended("load")


def test_a_source_that_has_ended_before_something_fails_has(runner: Runner) -> None:
    turn(runner, {"say": "source_end", "stage": "load"}, failed_message("keep", ValueError("no")))
    assert runner.end is not None
    assert runner.end[0] == "failed"
    assert runner.reader.facts()["ended:load"] is True


def test_of_two_failures_the_first_is_told(runner: Runner) -> None:
    turn(runner, DAMAGED, failed_message("load", ValueError("made no row")))
    assert runner.end is not None
    assert "line 7 is damaged" in runner.end[2]


def test_a_failure_does_not_make_an_abort_another_end(runner: Runner) -> None:
    runner.run_dir.command("abort")
    turn(runner, DAMAGED)
    assert runner.end == ("stopped", "user", "")
    assert runner.failed_step == ""


def test_a_failure_in_a_graceful_stop_is_told(runner: Runner) -> None:
    runner.run_dir.command("stop")
    turn(runner, DAMAGED)
    assert runner.end is not None
    assert runner.end[0] == "failed"
    assert runner.failed_step == "load"

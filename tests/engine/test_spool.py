"""Many rows given in the program reach the run while it works: in order, under their names, or the run says why not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distilnb.engine import spool
from distilnb.engine.flow import Flow
from distilnb.engine.intake import Intake, is_being_written, missing_rows, read_reason
from distilnb.engine.journal import Journal
from distilnb.engine.plan import Plan, Stage
from distilnb.engine.rundir import RunDir, find_run_dir
from distilnb.errors import RunError, RunFailedError
from distilnb.ids import IdMaker
from distilnb.pipeline import Pipeline
from distilnb.rows import Batch, Row, write_batch
from distilnb.run import Run, attach
from distilnb.spec import inline

N_ROWS = 5000
TIMEOUT_S = 120.0
STAGE = Stage("load", "spool", ("load",))


def rows_with_equals(n_rows: int = N_ROWS) -> list[Row]:
    return [{"i": i // 3, "text": f"row {i // 3:100d}"} for i in range(n_rows)]


def pipeline(rows: list[Row] | None = None) -> Pipeline:
    given = rows_with_equals() if rows is None else rows
    return Pipeline("spooled").from_dicts(given, name="load").filter("i % 2 == 0", name="even")


@pytest.fixture(autouse=True)
def many_is_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few rows count as many, and nobody digest them ahead of the start."""
    monkeypatch.setattr(inline, "MANY_ROWS", 100)
    monkeypatch.setattr(inline.Inline, "_digest_ahead", lambda self: None)
    monkeypatch.setattr(spool, "ROWS_AT_ONCE", 100)
    monkeypatch.setattr(spool, "SPOOLED_AT_ONCE_S", 0.0)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Hold the thread that spools until the event is set."""
    opened = threading.Event()
    write_rest = spool.Spool._write_rest

    def wait_then_write(self: spool.Spool, finish: Any) -> None:
        opened.wait(TIMEOUT_S)
        write_rest(self, finish)

    monkeypatch.setattr(spool.Spool, "_write_rest", wait_then_write)
    yield opened
    opened.set()
    for thread in threading.enumerate():
        if thread.name.startswith("spool-"):
            thread.join(TIMEOUT_S)


def finish(run: Run) -> Batch:
    status = run.wait(TIMEOUT_S)
    assert status.state == "finished", status.error
    join_spools()
    return run._reader.rows("load")


def join_spools() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("spool-"):
            thread.join(TIMEOUT_S)


def test_a_start_returns_before_the_last_row_is_written_and_the_run_has_them_all(
    gate: threading.Event,
) -> None:
    run = pipeline().start()
    assert is_being_written(run._dir)
    assert not (run._dir.path / run._reader.plan.options["spooled"]["load"][-1]["path"]).exists()
    assert run.status().step("load").total == N_ROWS
    gate.set()
    made = finish(run)
    assert made.rows == rows_with_equals()
    assert made.ids == IdMaker("load").make_all(rows_with_equals())
    assert made.list_orders() == [[i] for i in range(N_ROWS)]
    assert len(run.rows("even")) == sum(row["i"] % 2 == 0 for row in rows_with_equals())


def test_a_late_spool_and_one_at_once_write_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    late = finish(pipeline().start())
    monkeypatch.setattr(spool, "ROWS_AT_ONCE", N_ROWS)
    monkeypatch.setattr(inline, "MANY_ROWS", N_ROWS)
    at_once = pipeline().start(new=True)
    assert not is_being_written(at_once._dir)
    assert finish(at_once) == late


def test_renamed_columns_are_named_by_what_they_are_after(gate: threading.Event) -> None:
    from distilnb.steps.sources import LoadDataFromDicts

    source = LoadDataFromDicts(name="load", data=rows_with_equals(), output_mappings={"text": "instruction"})
    run = (Pipeline("renamed") >> source).filter("i % 2 == 0").start()
    gate.set()
    renamed = [{"i": row["i"], "instruction": row["text"]} for row in rows_with_equals()]
    assert finish(run).ids == IdMaker("load").make_all(renamed)


def test_the_rows_option_limits_what_is_spooled() -> None:
    assert len(finish(pipeline().start(rows=2500))) == 2500


def test_a_second_start_returns_the_run_whose_rows_are_on_their_way(gate: threading.Event) -> None:
    rows = rows_with_equals()
    written = pipeline(rows)
    run = written.start()
    assert written.start().id == run.id  # the very objects: no digest is waited for
    assert pipeline(rows).start().id == run.id  # as in a cell that runs again
    gate.set()
    assert pipeline().start().id == run.id  # equal ones: their digests are
    assert pipeline([*rows_with_equals(N_ROWS - 1), {"i": 0, "text": "other"}]).start().id != run.id
    finish(run)


def test_what_names_the_run_by_its_rows_follows_when_they_are_digested(gate: threading.Event) -> None:
    written = pipeline()
    run = written.start()
    assert run._dir.plan().digest == ""
    before = (run._dir.path / "plan.json").stat().st_mtime_ns
    gate.set()
    finish(run)
    rows = written.graph.steps["load"].data  # type: ignore[attr-defined]
    text = (run._dir.path / "pipeline.yaml").read_text(encoding="utf-8")
    assert run._dir.plan().digest != ""
    assert run._dir.plan().stages == run._reader.plan.stages
    assert (run._dir.path / "plan.json").stat().st_mtime_ns == before
    assert rows.digest in text
    assert attach(run.id).pipeline_file().graph.digest == written.graph.digest


def test_a_late_row_that_cannot_be_stored_fails_the_run_with_its_reason(gate: threading.Event) -> None:
    long = [{"i": i, "text": f"{i:100d}"} for i in range(N_ROWS)]  # too long for the text of the pipeline
    rows: list[Row] = [*long, {"i": 1, "text": object()}]
    run = pipeline(rows).start()
    gate.set()
    status = run.wait(TIMEOUT_S)
    assert status.state == "failed"
    assert "of the 5,001 rows of 'load' arrived" in status.error
    assert "object" in status.error
    with pytest.raises(RunFailedError, match="could not be written"):
        run.distiset()
    assert status.step("even").done + status.step("even").dropped == status.step("load").done > 0


# --- processes that end ---------------------------------------------------------------------------------------

_SCRIPT = """
import sys, threading
from distilnb.engine import spool
from distilnb.pipeline import Pipeline
from distilnb.spec import inline

inline.MANY_ROWS = spool.ROWS_AT_ONCE = 100
spool.SPOOLED_AT_ONCE_S = 0.0
if sys.argv[1] == "hold":
    write_next, n_written = spool._Writer.write_next, 0
    def hold(self):
        global n_written
        if n_written == 3:
            threading.Event().wait(300)
        n_written += 1
        write_next(self)
    spool._Writer.write_next = hold
rows = [{"i": i} for i in range(9000)]
run = Pipeline("script").from_dicts(rows, name="load").filter("i % 2 == 0", name="even").start()
print(run.id, flush=True)
"""


def test_a_kernel_that_dies_in_the_middle_fails_the_run_clearly_and_it_cannot_be_resumed() -> None:
    kernel = subprocess.Popen([sys.executable, "-c", _SCRIPT, "hold"], stdout=subprocess.PIPE, text=True)
    assert kernel.stdout
    with kernel, kernel.stdout:
        run = attach(kernel.stdout.readline().strip())
        os.kill(kernel.pid, signal.SIGKILL)
    status = run.wait(TIMEOUT_S)
    assert status.state == "failed"
    for told in (
        "of the 9,000 rows of 'load' arrived",
        "The process that started the run ended",
        "in the cache",
    ):
        assert told in status.error
    # What did arrive is done, and can be read.
    assert status.step("load").done in (2064, 4064)
    assert len(run.rows("even")) * 2 == status.step("load").done
    with pytest.raises(RunError, match=r"(?s)cannot go on to its end.*Start the pipeline again"):
        run.resume()


def test_a_script_that_ends_after_its_start_writes_all_rows_before() -> None:
    script = [sys.executable, "-c", _SCRIPT, "go"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    run = attach(done.stdout.strip())
    assert missing_rows(run._dir, run._reader.plan) == ""
    assert run.wait(TIMEOUT_S).state == "finished"
    assert len(run.rows("load")) == 9000


def test_a_forked_child_does_not_keep_the_lock(gate: threading.Event) -> None:
    run = pipeline().start()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reader, 1)  # until the test lets it go
        os._exit(0)
    try:
        gate.set()
        finish(run)
        assert not is_being_written(find_run_dir(run.id))
    finally:
        os.write(writer, b"x")
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)


# --- the runner's end -----------------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path: Path) -> tuple[RunDir, Plan]:
    (tmp_path / "batches").mkdir()
    run = RunDir(tmp_path)
    files = [{"path": f"batches/load/{number:06d}.json", "n_rows": 1} for number in range(3)]
    return run, Plan("run", "p", "digest", (STAGE,), {}, {"spooled": {"load": files}})


def put(run: RunDir, number: int) -> None:
    write_batch(
        run.batches("load") / f"{number:06d}.json", Batch([{"i": number}], [f"load:{number}"], [[number]])
    )


def test_files_are_taken_in_their_order_as_they_come(parts: tuple[RunDir, Plan]) -> None:
    run, plan = parts
    lock = spool._take_lock(run.path / "spool.lock")
    intake = Intake(run, plan)
    put(run, 0)
    put(run, 2)
    assert [file.path for file in intake.take()] == ["batches/load/000000.json"]
    assert intake.take() == []
    put(run, 1)
    assert [file.path[-6:] for file in intake.take()] == ["1.json", "2.json"]
    assert (intake.is_whole, intake.lack) == (True, "")
    os.close(lock)
    spool._held.discard(lock)


def test_a_runner_that_takes_over_goes_on_behind_what_the_journal_has(
    parts: tuple[RunDir, Plan], tmp_path: Path
) -> None:
    run, plan = parts
    for number in range(3):
        put(run, number)
    journal = Journal(tmp_path / "journal.sqlite")
    intake = Intake(run, plan)
    intake.took_before("load")
    flow = Flow(plan)
    assert not flow.all_done()
    intake.feed(journal, flow)
    paths = [batch.path for batch in journal.reader().batches("load")]
    assert paths == ["batches/load/000001.json", "batches/load/000002.json"]
    assert flow.all_done()
    journal.close()


def test_a_lack_is_told_only_when_nobody_writes_any_more(parts: tuple[RunDir, Plan]) -> None:
    run, plan = parts
    lock = spool._take_lock(run.path / "spool.lock")
    put(run, 0)
    intake = Intake(run, plan)
    intake.take()
    assert intake.take() == []
    assert intake.lack == ""
    os.close(lock)
    spool._held.discard(lock)
    assert intake.take() == []
    assert "Only 1 of the 3 rows of 'load' arrived" in intake.lack
    assert read_reason(run) == ""

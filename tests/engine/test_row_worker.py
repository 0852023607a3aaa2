"""The row worker without its process: what it answers to messages."""

from __future__ import annotations

from pathlib import Path

from distilnb.engine.reading import RunReader
from distilnb.engine.row_worker import RowWorker
from distilnb.engine.rundir import find_run_dir
from distilnb.engine.vitals import Vitals, shared_memory
from distilnb.pipeline import Pipeline


def test_a_source_that_broke_is_never_told_to_have_ended(tmp_path: Path) -> None:
    """Pulls are on their way when a source raises; its iterator has nothing more for them, and has not ended."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}\n{oops}\n{"n": 4}\n')
    run = Pipeline("p").from_files(path).keep("n").start()
    assert run.wait(60).state == "failed"
    worker = RowWorker(find_run_dir(run.id), Vitals(shared_memory()))
    assert [reply["say"] for reply in worker.handle({"do": "secrets", "values": {}})] == ["ready"]
    pull = {"do": "pull", "stage": "load", "offset": 0, "limit": None, "seen": []}
    first, second = (list(worker.handle(pull)) for _ in range(2))
    assert [reply["say"] for reply in first] == ["out", "failed"]
    assert [reply["say"] for reply in second] == ["failed"]
    assert first[1]["what"] == second[0]["what"]


def test_a_join_does_its_last_work_when_all_that_it_said_was_heard() -> None:
    """Else a partner that a retry brings back would find nobody there to meet."""
    pipeline = Pipeline("p").from_dicts([{"n": 1}]).map(lambda n: {"m": n}, name="a")
    pipeline = pipeline.map(lambda n: {"k": n}, name="b", after="load").combine(name="both")
    run = pipeline.start()
    assert run.wait(60).state == "finished"
    run_dir = find_run_dir(run.id)
    worker = RowWorker(run_dir, Vitals(shared_memory()))
    assert [reply["say"] for reply in worker.handle({"do": "secrets", "values": {}})] == ["ready"]
    reader = RunReader(run_dir)
    journal = reader.journal()
    assert journal is not None
    batches = [batch for name in ("a", "b") for batch in journal.batches(name)]
    said = [
        reply["say"]
        for number, batch in enumerate(batches)
        for reply in worker.handle(
            {
                "do": "batch",
                "stage": "both",
                "batch": batch.id,
                "path": batch.path,
                "input": number,
                "todo": None,
            }
        )
    ]
    reader.close()
    assert said == ["out"]
    end = {"do": "end", "stage": "both"}
    assert [reply["say"] for reply in worker.handle({**end, "heard": 0})] == ["not_ended"]
    assert [reply["is_last"] for reply in worker.handle({**end, "heard": 1})] == [True]

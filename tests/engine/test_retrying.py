"""What a retry opens and takes back, when the word of a failure is still on its way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distilnb.engine.deaths import Deaths
from distilnb.engine.flow import Flow, Job
from distilnb.engine.journal import Journal
from distilnb.engine.lineage import Lineage
from distilnb.engine.plan import Plan, Stage
from distilnb.engine.retry_orders import write_order
from distilnb.engine.retrying import Retrying
from distilnb.engine.rundir import RunDir
from distilnb.rows import Batch, Gone, write_batch

STAGES = (
    Stage("load", "spool", ("load",)),
    Stage("left", "rows", ("left",), ("load",), tells_gone=True),
    Stage("right", "rows", ("right",), ("load",), tells_gone=True),
    Stage("both", "join", ("both",), ("left", "right")),
)
PLAN = Plan("run", "p", "digest", STAGES)
ROW = "load:a:0"


def error(step: str, kind: str) -> dict[str, Any]:
    texts = dict.fromkeys(("reason", "prompt", "reply", "traceback"), "")
    return {"row_id": ROW, "step": step, "kind": kind, "attempts": 1, "is_partial": False, "row": 0, **texts}


@pytest.mark.parametrize("left_first", [True, False])
def test_a_join_that_used_a_withdrawn_word_gives_the_partner_back(tmp_path: Path, left_first: bool) -> None:
    """The join's message comes after the retry: its error is taken up at once, whatever the order of its entries."""
    journal = Journal(tmp_path / "journal.sqlite")
    lineage = Lineage(journal.connection)
    row, lost = Batch([{"a": 1}], [ROW], [[0]]), Batch(gone=[Gone(ROW, [0], "left", "it failed")])
    for name, batch in (("load", row), ("left", lost), ("right", row)):
        write_batch(tmp_path / f"{name}.json", batch)
    with journal.turn():
        loaded = journal.add_batch("load", "load.json", 1, 0)
        journal.begin_out()
        gone = journal.add_batch("left", "left.json", 0, 1)
        journal.acknowledge(loaded.id, "left", [0])
        journal.add_errors([error("left", "ValueError")])
        journal.count("left", {"failed": 1})
        journal.begin_out()
        partner = journal.add_batch("right", "right.json", 1, 0)
        journal.acknowledge(loaded.id, "right", [0])
    flow = Flow(PLAN)
    for batch_ref in (gone, partner):
        flow.arrived(batch_ref)
    flow.ended("load")
    assert [work.batch.id for work in flow.next_work() if isinstance(work, Job)] == [gone.id, partner.id]

    retrying = Retrying(RunDir(tmp_path), PLAN, journal)
    write_order(RunDir(tmp_path), [1], {})
    with journal.turn():
        told = retrying.tell(flow, Deaths(), retrying.take_orders())
    assert told == [("rows", {"do": "forget", "stage": "both", "batch": gone.id, "entry": 0, "era": 0})]
    assert [work for work in flow.next_work() if isinstance(work, Job)] == [Job(STAGES[1], 0, loaded, [0])]

    batches = [gone.id, partner.id] if left_first else [partner.id, gone.id]
    took = {batch_id: [0] for batch_id in batches}
    message = {"errors": [error("both", "MissingPartnerError")]}
    with journal.turn():
        out = journal.begin_out()
        for batch_id, entries in took.items():
            journal.acknowledge(batch_id, "both", entries)
            flow.acknowledged("both", batch_id, entries)
        journal.add_errors(message["errors"])
        journal.count("both", {"failed": 1})
        retrying.heard(STAGES[3], out, took, message)
        retrying.tell(flow, Deaths(), retrying.take_changes())
    assert [work for work in flow.next_work() if isinstance(work, Job)] == [Job(STAGES[3], 1, partner, [0])]
    assert set(lineage.open_entries()) == {("left", loaded.id, 0), ("both", partner.id, 0)}
    assert [one["state"] for one in journal.reader().errors()] == ["retried", "retried"]
    assert {name: figures["failed"] for name, figures in journal.reader().counts().items()} == {
        "left": 0,
        "both": 0,
    }
    assert retrying.through(gone.id, "both", {0}) == {0}
    assert retrying.through(partner.id, "both", {0}) == set()
    journal.close()


@pytest.mark.parametrize("is_heard", [True, False])
def test_a_partner_that_a_join_let_go_on_without_the_row_does_not_wait_again(
    tmp_path: Path, is_heard: bool
) -> None:
    """The join's message comes after the retry: the joined row stays, and the mended one is to wait for nobody."""
    journal = Journal(tmp_path / "journal.sqlite")
    lineage = Lineage(journal.connection)
    row, lost = Batch([{"a": 1}], [ROW], [[0]]), Batch(gone=[Gone(ROW, [0], "left", "it failed")])
    for name, batch in (("load", row), ("left", lost), ("right", row), ("both", row)):
        write_batch(tmp_path / f"{name}.json", batch)
    with journal.turn():
        loaded = journal.add_batch("load", "load.json", 1, 0)
        journal.begin_out()
        gone = journal.add_batch("left", "left.json", 0, 1)
        journal.acknowledge(loaded.id, "left", [0])
        journal.add_errors([error("left", "ValueError")])
        journal.begin_out()
        partner = journal.add_batch("right", "right.json", 1, 0)
        journal.acknowledge(loaded.id, "right", [0])
    run_dir = RunDir(tmp_path)
    retrying = Retrying(run_dir, PLAN, journal)
    write_order(run_dir, [1], {})
    with journal.turn():
        retrying.take_orders()
        out = journal.begin_out()
        journal.add_batch("both", "both.json", 1, 0)
        for batch_ref in (gone, partner):
            journal.acknowledge(batch_ref.id, "both", [0])
        retrying.heard(STAGES[3], out, {gone.id: [0], partner.id: [0]}, {"errors": []})
    assert set(lineage.open_entries()) == {("left", loaded.id, 0)}
    assert retrying.through(partner.id, "both", {0}) == {0}
    assert retrying.marks(STAGES[3]) == {"era": 0, "went_on": [ROW]}
    assert Retrying(run_dir, PLAN, journal).marks(STAGES[3]) == {"era": 0, "went_on": [ROW]}

    # Done again it fails again: another retry of it would change nothing in what the join has made, whether that has
    # heard of it or not.
    write_batch(tmp_path / "again.json", lost)
    with journal.turn():
        out = journal.begin_out()
        again = journal.add_batch("left", "again.json", 0, 1)
        journal.acknowledge(loaded.id, "left", [0])
        journal.add_errors([error("left", "ValueError")])
        retrying.heard(STAGES[1], out, {loaded.id: [0]}, {"errors": [error("left", "ValueError")]})
        if is_heard:
            journal.begin_out()
            journal.acknowledge(again.id, "both", [0])
        write_order(run_dir, [2], {})
        retrying.take_orders()
    assert [one["state"] for one in journal.reader().errors()] == ["retried", "open"]
    assert list(lineage.orders().values()) == [1, 0]
    journal.close()


def test_of_two_words_of_one_row_in_a_file_each_is_taken_back(tmp_path: Path) -> None:
    """A stage that passed on two losses of a row in one message: the second retry withdraws the second word."""
    stages = (STAGES[0], STAGES[1], Stage("after", "rows", ("after",), ("left",), tells_gone=True))
    journal = Journal(tmp_path / "journal.sqlite")
    row, lost = Batch([{"a": 1}], [ROW], [[0]]), Gone(ROW, [0], "left", "it failed")
    write_batch(tmp_path / "load.json", row)
    for name, words in (("left", [lost]), ("again", [lost]), ("after", [lost, lost])):
        write_batch(tmp_path / f"{name}.json", Batch(gone=words))
    run_dir, took = RunDir(tmp_path), {}
    retrying = Retrying(run_dir, Plan("run", "p", "digest", stages), journal)
    with journal.turn():
        loaded = journal.add_batch("load", "load.json", 1, 0)
    for number, name in enumerate(("left", "again"), 1):
        with journal.turn():
            out = journal.begin_out()
            took[journal.add_batch("left", f"{name}.json", 0, 1).id] = [0]
            journal.acknowledge(loaded.id, "left", [0])
            journal.add_errors([error("left", "ValueError")])
            retrying.heard(stages[1], out, {loaded.id: [0]}, {"errors": [error("left", "ValueError")]})
        if number == 1:  # a retry, before the stage that follows has told what it makes of the first word
            write_order(run_dir, [1], {})
            with journal.turn():
                retrying.take_orders()
    with journal.turn():
        out = journal.begin_out()
        passed_on = journal.add_batch("after", "after.json", 0, 2)
        for batch_id, entries in took.items():
            journal.acknowledge(batch_id, "after", entries)
        retrying.heard(stages[2], out, took, {"errors": []})
    assert len(Lineage(journal.connection).withdrawn()[passed_on.id]) == 1
    write_order(run_dir, [2], {})
    with journal.turn():
        retrying.take_orders()
    assert len(Lineage(journal.connection).withdrawn()[passed_on.id]) == 2
    journal.close()


def test_a_row_whose_partner_went_on_is_not_opened(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    row, lost = Batch([{"a": 1}], [ROW], [[0]]), Batch(gone=[Gone(ROW, [0], "left", "it failed")])
    for name, batch in (("load", row), ("left", lost), ("right", row), ("both", row)):
        write_batch(tmp_path / f"{name}.json", batch)
    with journal.turn():
        loaded = journal.add_batch("load", "load.json", 1, 0)
        journal.begin_out()
        gone = journal.add_batch("left", "left.json", 0, 1)
        journal.acknowledge(loaded.id, "left", [0])
        journal.add_errors([error("left", "ValueError")])
        journal.begin_out()
        partner = journal.add_batch("right", "right.json", 1, 0)
        journal.begin_out()
        journal.add_batch("both", "both.json", 1, 0)
        for batch_ref in (gone, partner):
            journal.acknowledge(batch_ref.id, "both", [0])
    retrying = Retrying(RunDir(tmp_path), PLAN, journal)
    order = write_order(RunDir(tmp_path), [1], {})
    with journal.turn():
        assert not retrying.take_orders()
    assert Lineage(journal.connection).orders() == {order.name: 0}
    assert [one["state"] for one in journal.reader().errors()] == ["open"]
    journal.close()

"""The runner's bookkeeping: who gets which rows when, and when it is all done."""

from __future__ import annotations

from distilnb.engine.flow import PULLS_AHEAD, End, Flow, Gather, Job, Pull
from distilnb.engine.journal import BatchRef
from distilnb.engine.plan import Plan, Stage


def make_flow(*stages: Stage) -> Flow:
    return Flow(Plan("run", "p", "digest", stages))


LOAD = Stage("load", "source", ("load",), window=0)
ASK = Stage("ask", "ask", ("ask",), ("load",), "ask", window=64)


def batch(number: int, stage: str, n_rows: int, n_gone: int = 0) -> BatchRef:
    return BatchRef(number, stage, f"{number}.json", n_rows, n_gone)


def test_a_source_is_pulled_a_little_ahead_and_again_for_each_answer() -> None:
    flow = make_flow(LOAD, ASK)
    assert list(flow.next_work()) == [Pull(LOAD, 0)] * PULLS_AHEAD
    assert list(flow.next_work()) == []
    flow.arrived(batch(1, "load", 10))
    flow.pulled("load")
    assert list(flow.next_work()) == [Pull(LOAD, 10), Job(ASK, 0, batch(1, "load", 10), None)]


def test_a_source_is_not_pulled_while_its_consumer_is_far_behind() -> None:
    flow = make_flow(LOAD, ASK)
    list(flow.next_work())
    for number in range(1, 8):
        flow.arrived(batch(number, "load", 64))
    flow.pulled("load")
    work = list(flow.next_work())
    assert [item.batch.id for item in work if isinstance(item, Job)] == [1]
    assert not [item for item in work if isinstance(item, Pull)]


def test_the_next_batch_starts_when_half_the_window_is_empty() -> None:
    flow = make_flow(LOAD, ASK)
    flow.arrived(batch(1, "load", 64))
    flow.arrived(batch(2, "load", 64))
    first = [work for work in flow.next_work() if isinstance(work, Job)]
    assert [job.batch.id for job in first] == [1]
    flow.acknowledged("ask", 1, range(32))
    assert not [work for work in flow.next_work() if isinstance(work, Job)]
    flow.acknowledged("ask", 1, [32])
    assert [work.batch.id for work in flow.next_work() if isinstance(work, Job)] == [2]


def test_a_dead_workers_rows_wait_again_without_those_it_finished() -> None:
    flow = make_flow(LOAD, ASK)
    flow.arrived(batch(1, "load", 4))
    list(flow.next_work())
    flow.acknowledged("ask", 1, [0, 2])
    flow.lost_worker("ask")
    assert [work for work in flow.next_work() if isinstance(work, Job)] == [
        Job(ASK, 0, batch(1, "load", 4), [1, 3], again=True)
    ]


def test_a_restart_gives_only_what_is_not_acknowledged() -> None:
    flow = make_flow(LOAD, ASK)
    flow.arrived(batch(1, "load", 3), {"ask": {0, 1, 2}})
    flow.arrived(batch(2, "load", 3), {"ask": {1}})
    flow.ended("load")
    assert list(flow.next_work()) == [Job(ASK, 0, batch(2, "load", 3), [0, 2], again=True)]


def test_a_stage_is_done_when_its_inputs_are_and_nothing_is_left() -> None:
    flow = make_flow(LOAD, ASK)
    flow.arrived(batch(1, "load", 2))
    list(flow.next_work())
    flow.ended("load")
    assert flow.is_done("load")
    assert not flow.all_done()
    flow.acknowledged("ask", 1, [0, 1])
    assert flow.all_done()


def test_a_global_stage_gathers_once_its_inputs_have_ended() -> None:
    dedup = Stage("dedup", "global", ("dedup",), ("load",))
    flow = make_flow(LOAD, dedup)
    list(flow.next_work())
    flow.arrived(batch(1, "load", 5))
    flow.pulled("load")
    assert [type(work) for work in flow.next_work()] == [Pull]
    flow.ended("load")
    assert list(flow.next_work()) == [Gather(dedup)]
    assert list(flow.next_work()) == []
    flow.ended("dedup")
    assert flow.all_done()


def test_a_join_ends_after_the_last_batch_of_every_input() -> None:
    other = Stage("other", "source", ("other",))
    join = Stage("join", "join", ("join",), ("load", "other"))
    flow = make_flow(LOAD, other, join)
    list(flow.next_work())
    flow.arrived(batch(1, "load", 1))
    flow.arrived(batch(2, "other", 1))
    flow.ended("load")
    flow.ended("other")
    work = list(flow.next_work())
    assert [type(item) for item in work] == [Job, Job, End]
    assert [item.input_index for item in work if isinstance(item, Job)] == [0, 1]


def test_lost_rows_must_be_acknowledged_too() -> None:
    flow = make_flow(LOAD, ASK)
    flow.arrived(batch(1, "load", 1, n_gone=1))
    list(flow.next_work())
    flow.ended("load")
    flow.acknowledged("ask", 1, [0])
    assert not flow.all_done()
    flow.acknowledged("ask", 1, [1])
    assert flow.all_done()


def test_a_death_gives_back_only_what_that_worker_had() -> None:
    rows = Stage("keep", "rows", ("keep",), ("load",), window=3000)
    turns = iter(["rows-0", "rows-1", "rows-1", "rows-0"])
    flow = Flow(
        Plan("run", "p", "digest", (LOAD, rows)), lambda stage: "rows-0" if stage == LOAD else next(turns)
    )
    list(flow.next_work())
    for number in range(3):
        flow.arrived(batch(number, "load", 10))
    flow.ended("load")
    jobs = [work for work in flow.next_work() if isinstance(work, Job)]
    assert [flow.holder(job) for job in jobs] == ["rows-0", "rows-1", "rows-1"]
    assert (flow.load_of("rows-0"), flow.load_of("rows-1")) == (10, 20)
    flow.lost_worker("rows-0")
    assert (flow.load_of("rows-0"), flow.busy_stages("rows-1")) == (0, ["keep"])
    again = [work for work in flow.next_work() if isinstance(work, Job)]
    assert [job.batch.id for job in again] == [0]


def test_pulls_that_are_answered_after_the_end_of_their_source_change_nothing() -> None:
    flow = make_flow(LOAD, ASK)
    list(flow.next_work())
    flow.arrived(batch(1, "load", 10))
    flow.pulled("load")
    flow.ended("load")
    for _ in range(PULLS_AHEAD):
        flow.pulled("load")
    assert list(flow.next_work()) == [Job(ASK, 0, batch(1, "load", 10), None)]
    assert flow.busy_stages("rows") == []


def test_work_waits_while_nobody_may_do_it() -> None:
    worker: list[str | None] = [None]
    flow = Flow(Plan("run", "p", "digest", (LOAD, ASK)), lambda stage: worker[0])
    assert list(flow.next_work()) == []
    worker[0] = "rows-0"
    assert list(flow.next_work()) == [Pull(LOAD, 0)] * PULLS_AHEAD


JOIN = Stage("join", "join", ("join",), ("load", "other"))
OTHER = Stage("other", "source", ("other",))


def test_entries_that_are_opened_again_are_given_out_beside_those_in_flight() -> None:
    flow = make_flow(LOAD, ASK)
    flow.arrived(batch(1, "load", 4))
    flow.ended("load")
    list(flow.next_work())
    flow.acknowledged("ask", 1, [0, 1])
    flow.revived("ask", batch(1, "load", 4), [1])
    assert list(flow.next_work()) == [Job(ASK, 0, batch(1, "load", 4), [1])]
    assert flow.load_of("ask") == 3
    flow.acknowledged("ask", 1, [2, 3])
    assert not flow.all_done()
    flow.lost_worker("ask")
    assert list(flow.next_work()) == [Job(ASK, 0, batch(1, "load", 4), [1], again=True)]
    flow.acknowledged("ask", 1, [1])
    assert flow.all_done()


def test_an_end_that_was_on_its_way_does_not_end_a_stage_that_was_opened_again() -> None:
    flow = make_flow(LOAD, OTHER, JOIN)
    flow.ended("load")
    flow.ended("other")
    assert list(flow.next_work()) == [End(JOIN)]
    flow.reopened("join")
    assert not flow.ended("join")
    assert list(flow.next_work()) == [End(JOIN)]
    assert flow.ended("join")
    assert flow.all_done()


def test_a_withdrawn_entry_is_waited_for_by_nobody() -> None:
    flow = make_flow(LOAD, OTHER, JOIN)
    waiting, held = batch(1, "load", 1, n_gone=1), batch(2, "other", 1, n_gone=1)
    flow.arrived(held)
    list(flow.next_work())
    flow.arrived(waiting)
    assert flow.withdrawn(waiting, 1) == []
    assert flow.withdrawn(held, 1) == [(JOIN, "rows")]
    jobs = [work for work in flow.next_work() if isinstance(work, Job)]
    assert jobs == [Job(JOIN, 0, waiting, [0])]
    flow.ended("load")
    flow.ended("other")
    flow.acknowledged("join", 1, [0])
    flow.acknowledged("join", 2, [0])
    assert list(flow.next_work()) == [End(JOIN)]


def test_a_replaced_stage_begins_anew() -> None:
    flow = make_flow(LOAD, ASK)
    flow.arrived(batch(1, "load", 4))
    flow.arrived(batch(2, "load", 64))
    list(flow.next_work())
    flow.replaced(["ask"])
    assert flow.load_of("ask") == 0
    flow.acknowledged("ask", 1, [0])
    flow.arrived(batch(3, "load", 2))
    assert [work for work in flow.next_work() if isinstance(work, Job)] == [
        Job(ASK, 0, batch(3, "load", 2), None)
    ]


def test_what_goes_by_batch_is_complete_once_nothing_can_come_before_a_job_is_done() -> None:
    offline = Stage("ask", "ask", ("ask",), ("load",), "ask", window=100, is_offline=True)
    behind = Stage("judge", "ask", ("judge",), ("ask",), "ask", window=100, is_offline=True)
    flow = make_flow(LOAD, offline, behind)
    assert list(flow.next_work())
    assert not flow.is_parked()  # the source is asked for rows
    flow.arrived(batch(1, "load", 40))
    assert not flow.is_parked()  # a batch waits to be given
    list(flow.next_work())
    for _ in range(PULLS_AHEAD + 1):
        flow.pulled("load")
    flow.ended("load")
    assert list(flow.next_work()) == []
    assert flow.is_parked()
    flow.arrived(batch(2, "ask", 10))  # a job has brought rows for the next
    assert not flow.is_parked()
    list(flow.next_work())
    assert flow.is_parked()


def test_a_full_window_is_all_that_can_come() -> None:
    offline = Stage("ask", "ask", ("ask",), ("load",), "ask", window=100, is_offline=True)
    flow = make_flow(LOAD, offline)
    flow.ended("load")
    flow.arrived(batch(1, "load", 100))
    flow.arrived(batch(2, "load", 100))
    assert [work.batch.id for work in flow.next_work() if isinstance(work, Job)] == [1]
    assert flow.is_parked()
    flow.acknowledged("ask", 1, range(60))
    assert not flow.is_parked()

"""No hang, ever: stopped, blocked and dying workers are seen and replaced, and rows that kill them are named.

Every wait here is bounded; real processes are stopped and killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from distilnb.engine.launch import launch
from distilnb.llms.openai import OpenAILLM
from distilnb.pipeline import Pipeline
from distilnb.rows import Row
from distilnb.run import Run
from distilnb.spec.step import GeneratorStep, GlobalStep, Step, StepResources
from distilnb.steps.sources import LoadDataFromDicts
from distilnb.tasks.generation import TextGeneration
from tests.conftest import is_alive, processes_of, wait_until_gone
from tests.runs import wait_for
from tests.servers import MockLLM, mock_llm

BAD = 17
N_ROWS = 60
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def server() -> Iterator[MockLLM]:
    with mock_llm(latency_ms=20) as running:
        yield running


@pytest.fixture
def llm(server: MockLLM) -> OpenAILLM:
    server.reset()
    return OpenAILLM(model="m", base_url=server.base_url, max_concurrency=4)


def numbered(name: str, n_rows: int = N_ROWS) -> Pipeline:
    return Pipeline(name).from_dicts([{"i": i} for i in range(n_rows)])


def start(pipeline: Pipeline, **options: Any) -> Run:
    """Start with options that only the engine knows: limits that nobody wants to wait for."""
    graph = pipeline.graph
    return Run(
        launch(graph, pipeline=pipeline.name, text=pipeline.to_yaml, options={"rows": None, **options})
    )


def workers(run: Run) -> dict[str, int]:
    """Return the pids of living workers by name."""
    found = {}
    for process in processes_of(Path(run.path)):
        command = process.info["cmdline"]  # as it was found: it may be gone by now
        if len(command) > 6 and is_alive(process):
            found[command[6]] = process.pid
    return found


def all_pids(run: Run) -> list[int]:
    return [process.pid for process in processes_of(Path(run.path))]


def events(run: Run, kind: str) -> list[dict[str, Any]]:
    return [asdict(event) for event in run.events() if event.kind == kind]


def values(run: Run, column: str = "i") -> list[int]:
    return list(run.to_pandas()[column])


def without_bad(n_rows: int = N_ROWS) -> list[int]:
    return [i for i in range(n_rows) if i != BAD]


def the_error(run: Run) -> dict[str, Any]:
    errors = run.errors()
    assert len(errors) == 1, errors
    return dict(errors.iloc[0])


# --- a row that kills its worker ----------------------------------------------------


def die_by_exit() -> None:
    os._exit(3)


def die_by_segfault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def die_by_kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# A kill may come from outside, so one more of them is needed to blame the row.
HOWS = [(die_by_exit, "exit code 3", 2), (die_by_segfault, "SIGSEGV", 2), (die_by_kill, "SIGKILL", 3)]


@pytest.mark.parametrize("die, how, n_deaths", HOWS, ids=["exit", "segfault", "kill"])
def test_a_row_that_kills_a_map_step_is_quarantined_by_name(
    home: Path, die: Callable[[], None], how: str, n_deaths: int
) -> None:
    def deadly(i: int) -> dict[str, int]:
        if i == BAD:
            die()
        return {"double": 2 * i}

    run = numbered("deadly").map(deadly, makes=["double"], name="double").start()
    assert run.wait(60).state == "finished"
    assert values(run) == without_bad()
    error = the_error(run)
    assert (error["step"], error["kind"], error["attempts"]) == ("double", "WorkerDied", n_deaths)
    assert how in error["reason"]
    assert error["row_id"] == run._reader.rows("load").ids[BAD]
    assert run.status().step("double").failed == 1
    assert wait_until_gone(home) == []


def test_the_step_that_kills_is_named_among_fused_ones() -> None:
    def deadly(i: int) -> dict[str, int]:
        if i == BAD:
            os._exit(3)
        return {"second": i}

    pipeline = numbered("fused").map(lambda i: {"first": i}, makes=["first"], name="first")
    run = pipeline.map(deadly, makes=["second"], name="second").keep("i", "second").start()
    assert run.wait(60).state == "finished"
    assert values(run) == without_bad()
    assert the_error(run)["step"] == "second"
    assert [step.ended for step in run.status().steps] == [N_ROWS, N_ROWS, N_ROWS, N_ROWS - 1]


def test_many_deadly_rows_are_all_named(home: Path) -> None:
    def deadly(i: int) -> dict[str, int]:
        if i in (0, 1, 2, 30, 59):
            os._exit(3)
        return {"double": 2 * i}

    run = numbered("several").map(deadly, makes=["double"]).start()
    assert run.wait(90).state == "finished"
    assert len(run.errors()) == 5
    assert len(values(run)) == N_ROWS - 5


def test_a_step_that_every_row_kills_ends_the_run(home: Path) -> None:
    def deadly(i: int) -> dict[str, int]:
        os._exit(3)

    run = numbered("hopeless").map(deadly, makes=["double"], name="double").start()
    status = run.wait(120)
    assert status.state == "failed"
    assert "at one row after the other of step 'double', and finished none" in status.error
    assert status.step("double").state == "failed"
    assert wait_until_gone(home) == []


class DeadlyParser(TextGeneration):
    """Ends its process at one row's reply."""

    def format_output(self, output: str | None, input: Row | None = None) -> Row:
        if input and input["i"] == BAD:
            os._exit(3)
        return super().format_output(output, input)


class DeadlyPrompt(TextGeneration):
    """Ends its process at one row's prompt."""

    def format_input(self, input: Row) -> Any:
        if input["i"] == BAD:
            os._exit(3)
        return super().format_input(input)


@pytest.mark.parametrize("task", [DeadlyParser, DeadlyPrompt])
def test_a_row_that_kills_a_task_is_quarantined_by_name(
    server: MockLLM, llm: OpenAILLM, home: Path, task: type[TextGeneration]
) -> None:
    pipeline = numbered("parser").map(lambda i: {"instruction": f"Say {i}."}, makes=["instruction"])
    run = pipeline.then(task(name="answer", llm=llm)).start()
    assert run.wait(60).state == "finished"
    assert sorted(values(run)) == without_bad()
    error = the_error(run)
    assert (error["step"], error["kind"], error["attempts"]) == ("answer", "WorkerDied", 2)
    assert server.stats()["duplicate_prompts_after_ok"] <= 2 * 4
    assert wait_until_gone(home) == []


class WhereAmI(Step):
    """Adds the pid of its process."""

    @property
    def outputs(self) -> list[str]:
        return ["pid"]

    def process(self, *inputs: Rows) -> Iterator[Rows]:
        time.sleep(0.02)
        yield [{**row, "pid": os.getpid()} for row in inputs[0]]


class DeadlyJoin(Step):
    """Ends its process at one pair."""

    @property
    def inputs(self) -> list[str]:
        return ["i"]

    def process(self, *inputs: Rows) -> Iterator[Rows]:
        for rows in zip(*inputs, strict=True):
            if rows[0]["i"] == BAD:
                os._exit(3)
        yield [{**a, **b} for a, b in zip(*inputs, strict=True)]


def test_a_pair_that_kills_a_join_is_quarantined_by_name(home: Path) -> None:
    with Pipeline("join") as pipeline:
        load = LoadDataFromDicts(name="load", data=[{"i": i} for i in range(N_ROWS)])
        branches = [WhereAmI(name="left"), WhereAmI(name="right")]
        load >> branches >> DeadlyJoin(name="join")
    run = pipeline.start()
    assert run.wait(60).state == "finished"
    assert values(run) == without_bad()
    error = the_error(run)
    assert (error["step"], error["kind"]) == ("join", "WorkerDied")
    assert wait_until_gone(home) == []


class DeadlyGlobal(GlobalStep):
    """Ends its process, whatever the rows."""

    def process(self, *inputs: Rows) -> Iterator[Rows]:
        os._exit(3)
        yield inputs[0]


class DeadlySource(GeneratorStep):
    """Ends its process after some rows."""

    @property
    def outputs(self) -> list[str]:
        return ["i"]

    def process(self, offset: int = 0) -> Iterator[tuple[Rows, bool]]:  # type: ignore[override]
        os._exit(3)
        yield [{"i": 1}], True


class DeadlyLoad(Step):
    """Ends its process before it has seen a row."""

    def load(self) -> None:
        os._exit(3)

    def process(self, *inputs: Rows) -> Iterator[Rows]:
        yield inputs[0]


@pytest.mark.parametrize(
    "pipeline, step",
    [
        (lambda: numbered("global").then(DeadlyGlobal(name="all")), "all"),
        (lambda: Pipeline("source").then(DeadlySource(name="make")), "make"),
        (lambda: numbered("load").then(DeadlyLoad(name="slow")), "slow"),
    ],
    ids=["global", "source", "load"],
)
def test_a_step_that_kills_its_worker_every_time_ends_the_run(
    home: Path, pipeline: Callable[[], Pipeline], step: str
) -> None:
    status = pipeline().start().wait(60)
    assert status.state == "failed"
    assert f"died 3 times (exit code 3) without finishing a row of {step!r}" in status.error
    assert wait_until_gone(home) == []


# --- stuck and busy -----------------------------------------------------------------


def slow(i: int) -> dict[str, int]:
    time.sleep(0.05)
    return {"double": 2 * i}


def test_a_stopped_row_worker_is_seen_and_replaced(home: Path) -> None:
    run = numbered("stopped").map(slow, makes=["double"], name="double").start()
    wait_for(run, lambda run: len(workers(run)) == 1 and bool(events(run, "worker_started")))
    time.sleep(0.5)
    stopped_at = time.time()
    os.kill(workers(run)["rows-0"], signal.SIGSTOP)
    assert run.wait(60).state == "finished"
    assert values(run) == list(range(N_ROWS))
    seen = [event for event in run._reader.events() if event.kind == "worker_stuck"]
    assert [(event.step, event.name) for event in seen] == [("double", "rows-0")]
    assert seen[0].at - stopped_at < 10  # generous: the promise of 2 s is measured, not tested
    assert len(run.errors()) == 0
    assert wait_until_gone(home) == []


def test_a_stopped_ask_worker_is_seen_and_replaced(server: MockLLM, llm: OpenAILLM, home: Path) -> None:
    run = numbered("stopped").generate(llm=llm, prompt="Say {{ i }}.").start()
    wait_for(run, lambda run: run.status().step("generate").done >= 4)
    os.kill(workers(run)["ask-0"], signal.SIGSTOP)
    assert run.wait(60).state == "finished"
    assert values(run) == list(range(N_ROWS))
    assert len(events(run, "worker_stuck")) == 1
    assert server.stats()["duplicate_prompts_after_ok"] <= 4
    assert wait_until_gone(home) == []


def test_a_worker_stopped_while_it_starts_is_replaced(home: Path) -> None:
    run = numbered("early").map(slow, makes=["double"], name="double").start()
    wait_for(run, lambda run: bool(workers(run)))
    os.kill(workers(run)["rows-0"], signal.SIGSTOP)
    assert run.wait(60).state == "finished"
    assert values(run) == list(range(N_ROWS))
    assert len(events(run, "worker_stuck")) == 1


def test_stopping_everything_for_a_while_loses_nothing_and_kills_nobody(
    server: MockLLM, llm: OpenAILLM, home: Path
) -> None:
    pipeline = numbered("suspend").generate(llm=llm, prompt="Say {{ i }}.")
    run = pipeline.map(slow, makes=["double"], name="double").start()
    wait_for(run, lambda run: run.status().step("double").done + run.status().step("generate").done >= 8)
    pids = all_pids(run)
    assert len(pids) == 3
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(4)
    assert run.status().state == "running"
    for pid in pids:  # the runner first: it is awake before its workers
        os.kill(pid, signal.SIGCONT)
    assert run.wait(60).state == "finished"
    assert sorted(values(run)) == list(range(N_ROWS))
    assert events(run, "worker_died") == events(run, "worker_stuck") == []
    assert server.stats()["duplicate_prompts_after_ok"] == 0
    assert wait_until_gone(home) == []


def hold_the_lock(i: int) -> dict[str, int]:
    if i == BAD:
        sum(range(20_000_000_000))  # C code: no other thread of the process gets a turn
    return {"double": 2 * i}


def test_c_code_that_holds_the_lock_is_busy_then_poison(home: Path) -> None:
    run = start(numbered("busy").map(hold_the_lock, makes=["double"], name="double"), blocked_limit_s=4.0)
    wait_for(run, lambda run: "is busy with 'double'" in repr(run.status().notes))
    assert "is busy with 'double'" in repr(run)
    assert run.wait(90).state == "finished"
    assert values(run) == without_bad()
    error = the_error(run)
    assert (error["step"], error["kind"], error["attempts"]) == ("double", "WorkerDied", 2)
    assert "lets nothing else run" in error["reason"]
    assert run.status().notes == ()
    assert wait_until_gone(home) == []


def test_busy_code_that_ends_in_time_is_only_told() -> None:
    def holds(i: int) -> dict[str, int]:
        return {"double": sum(range(200_000_000)) if i == BAD else i}

    run = numbered("hasty").map(holds, makes=["double"], name="double").start()
    assert run.wait(90).state == "finished"
    assert values(run) == list(range(N_ROWS))
    assert events(run, "worker_died") == events(run, "worker_stuck") == []
    assert [event["step"] for event in events(run, "worker_busy")] == ["double"]


def sleep_with_the_lock(i: int) -> dict[str, int]:
    if i == BAD:
        ctypes.PyDLL(None).sleep(3600)  # unlike CDLL it keeps Python's lock
    return {"double": 2 * i}


def test_c_code_that_sleeps_with_the_lock_is_stuck_and_its_row_poison(home: Path) -> None:
    run = numbered("locked").map(sleep_with_the_lock, makes=["double"], name="double").start()
    assert run.wait(60).state == "finished"
    assert values(run) == without_bad()
    error = the_error(run)
    assert (error["step"], error["kind"], error["attempts"]) == ("double", "WorkerDied", 2)
    assert "no sign of life and no processor used" in error["reason"]
    assert [event["step"] for event in events(run, "worker_stuck")] == ["double"] * 2


def sleep_for_ever(i: int) -> dict[str, int]:
    if i == BAD:
        time.sleep(3600)
    return {"double": 2 * i}


def test_a_row_that_never_ends_is_poison_after_the_limit(home: Path) -> None:
    run = start(numbered("sleep").map(sleep_for_ever, makes=["double"], name="double"), row_limit_s=1.0)
    assert run.wait(90).state == "finished"
    assert values(run) == without_bad()
    error = the_error(run)
    assert (error["kind"], error["attempts"]) == ("WorkerDied", 2)
    assert "no progress for 1 s" in error["reason"]
    assert wait_until_gone(home) == []


def test_slow_rows_below_the_limit_are_left_alone() -> None:
    run = start(numbered("steady", 20).map(slow, makes=["double"]), row_limit_s=0.9)
    assert run.wait(60).state == "finished"
    assert values(run) == list(range(20))


class SleepyPrompt(TextGeneration):
    """Blocks the loop of the ask worker for ever, at one row."""

    def format_input(self, input: Row) -> Any:
        if input["i"] == BAD:
            time.sleep(3600)
        return super().format_input(input)


def test_a_prompt_that_blocks_the_loop_is_told_then_poison(llm: OpenAILLM, home: Path) -> None:
    pipeline = numbered("sleepy").map(lambda i: {"instruction": f"Say {i}."}, makes=["instruction"])
    run = start(pipeline.then(SleepyPrompt(name="answer", llm=llm)), blocked_limit_s=4.0)
    wait_for(run, lambda run: "worker ask-0 is busy with 'answer'" in repr(run.status().notes))
    assert run.wait(90).state == "finished"
    assert sorted(values(run)) == without_bad()
    error = the_error(run)
    assert (error["step"], error["kind"]) == ("answer", "WorkerDied")
    assert "blocks its event loop" in error["reason"]
    assert wait_until_gone(home) == []


# --- starting, and what workers start -------------------------------------------------


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.15])
def test_kills_while_workers_start_are_survived(llm: OpenAILLM, home: Path, after_s: float) -> None:
    run = numbered("early").map(slow, makes=["double"]).generate(llm=llm, prompt="Say {{ i }}.").start()
    for _ in range(2):
        wait_for(run, lambda run: len(workers(run)) == 2)
        time.sleep(after_s)
        for pid in workers(run).values():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
    assert run.wait(60).state == "finished"
    assert sorted(values(run)) == list(range(N_ROWS))
    assert wait_until_gone(home) == []


class Forks(Step):
    """Forks a child that holds all that its parent had open, and dies; a new process goes on."""

    def process(self, *inputs: Rows) -> Iterator[Rows]:
        marker = Path(os.environ["DISTILNB_HOME"]) / "child"
        if not marker.exists():
            child = os.fork()
            if not child:
                time.sleep(600)
                os._exit(0)
            marker.write_text(str(child))
            os._exit(3)
        yield inputs[0]


def test_a_child_that_outlives_its_worker_hides_no_death_and_is_ended(home: Path) -> None:
    run = numbered("forks").then(Forks(name="forks")).start()
    assert run.wait(60).state == "finished"
    assert values(run) == list(range(N_ROWS))
    child = int((home / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_runner_with_nothing_to_do_writes_its_state_and_leaves(home: Path) -> None:
    """Nothing waits for ever today; a source that is never answered stands for a run that is paused."""
    from distilnb.engine.rundir import RunDir
    from distilnb.engine.runner import Runner

    class Paused(Runner):
        def _give_work(self) -> None:
            pass

    run_dir = RunDir(Path(start(numbered("idle", 2).keep("i")).path))
    Run(run_dir).wait(30)
    runner = Paused(run_dir, {})
    runner.idle_limit_s = 0.3
    runner.run()
    status = Run(run_dir).status()
    assert (status.state, status.reason) == ("stopped", "idle")
    assert wait_until_gone(home) == []


# --- a pool of row workers --------------------------------------------------------------


@pytest.mark.parametrize("replicas", [None, 1, 3])
def test_a_class_has_one_process_or_as_many_as_it_asks_for(tmp_path: Path, replicas: int | None) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"i": {i}}}\n' for i in range(8000)))
    resources = StepResources(replicas=replicas) if replicas else StepResources()
    run = Pipeline("where").from_files(path).then(WhereAmI(name="where", resources=resources)).start()
    assert run.wait(60).state == "finished"
    rows = run.to_pandas()
    assert list(rows["i"]) == list(range(8000))
    assert rows["pid"].nunique() == (replicas or 1)


def test_one_dead_worker_of_several_costs_only_its_own_rows(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"i": {i}}}\n' for i in range(8000)))
    step = WhereAmI(name="where", resources=StepResources(replicas=2))
    run = Pipeline("two").from_files(path).then(step).start()
    wait_for(run, lambda run: run.status().step("where").done > 0)
    pids = workers(run)
    assert sorted(pids) == ["rows-0", "rows-1", "rows-2"]
    os.kill(pids["rows-1"], signal.SIGKILL)
    assert run.wait(60).state == "finished"
    assert list(run.to_pandas()["i"]) == list(range(8000))
    assert {event["name"] for event in events(run, "worker_died")} == {"rows-1"}


def test_a_run_that_only_asks_has_no_row_worker(llm: OpenAILLM) -> None:
    run = numbered("asks").generate(llm=llm, prompt="Say {{ i }}.").start()
    wait_for(run, lambda run: run.status().step("generate").done > 0)
    assert sorted(workers(run)) == ["ask-0"]
    run.wait(60)

"""The same over real processes: drawn pipelines whose steps travel by value, a kill, and a retry."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from distilnb.engine.reading import RunReader
from distilnb.engine.retry_orders import read_orders
from distilnb.engine.rundir import find_run_dir
from distilnb.pipeline import Pipeline
from distilnb.run import Run, attach
from distilnb.spec.graph import Graph
from distilnb.tasks.generation import TextGeneration
from tests.crash.watching import describe, processes_of_home, wait_until
from tests.property import steps
from tests.property.comparing import compare
from tests.property.graphs import draw_pipeline
from tests.property.rounds import Order, Rounds
from tests.property.steps import Deadly, DeadlyPrompt, Mark
from tests.property.test_simulated import MEMORY, N_EXAMPLES, SEED

N_REAL_EXAMPLES = max(4, N_EXAMPLES // 20)
PATIENCE_S = 180.0
MAX_LIVES = 8


@pytest.mark.timeout(3600)
def test_a_run_of_processes_makes_what_the_interpreter_makes(capsys: pytest.CaptureFixture[str]) -> None:
    n_killed = n_retried = 0

    @seed(SEED)
    @settings(
        max_examples=N_REAL_EXAMPLES,
        deadline=None,
        database=None,
        print_blob=True,
        report_multiple_bugs=False,
        phases=(Phase.generate,),  # not shrink: when a kill hits is chance here
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data(), st.sampled_from(["", "rows-0", "rows-1", "ask-0", "runner"]), st.floats(0.0, 0.6))
    def hold(data: st.DataObject, victim: str, moment_s: float) -> None:
        nonlocal n_killed, n_retried
        with (
            tempfile.TemporaryDirectory(dir=MEMORY) as name,
            mock.patch.dict(os.environ, DISTILNB_HOME=f"{name}/home"),
        ):
            home = Path(name, "home")
            pipeline = draw_pipeline(data, Path(name))
            # Not "raise": each row that fails would cost a start of all processes.
            on_error = "null" if pipeline.on_error == "null" else "quarantine"
            pipeline = replace(pipeline, graph=_with_few_deaths(pipeline.graph), on_error=on_error)
            run = Pipeline("drawn", graph=pipeline.graph).start(on_error=on_error)
            try:
                time.sleep(moment_s)
                n_killed += _kill(home, victim)
                _see_to_its_end(run, home)
                run_dir = find_run_dir(run.id)
                rounds = Rounds(pipeline, run_dir, run_dir.plan())
                compare(run_dir, rounds.follow([]))
                failures = rounds.to_retry(None)
                if failures and data.draw(st.booleans(), label="retried"):
                    steps.turn_fair()
                    run.retry()
                    n_killed += _kill(home, victim)
                    n_retried += len(failures)
                    _see_to_its_end(run, home)
                    left = read_orders(run_dir)[-1]
                    order = Order(left.name, sorted(failures), {}, sorted(failures), {}, is_live=False)
                    compare(run_dir, rounds.follow([order]))
                wait_until(lambda: not processes_of_home(home), "all processes to end", home)
            finally:
                for pid in processes_of_home(home):
                    os.kill(pid, signal.SIGKILL)

    try:
        hold()
    finally:
        with capsys.disabled():
            told = f"{N_REAL_EXAMPLES} pipelines, {n_killed} processes killed, {n_retried} rows retried"
            print(f"\nDISTILNB_SEED={SEED}: {told}")  # noqa: T201


def _with_few_deaths(graph: Graph) -> Graph:
    """Return a graph in which one step at most kills its worker: each row that does costs two restarts."""
    n_deadly = 0
    for name, step in graph.steps.items():
        if isinstance(step, Deadly):
            mild = Mark(name=name, salt=step.salt, resources=step.resources)
            graph = graph.replacing(mild if n_deadly else step.updated(one_in=8))
            n_deadly += 1
        elif isinstance(step, DeadlyPrompt):
            fields = {field: getattr(step, field) for field in TextGeneration.model_fields}
            graph = graph.replacing(TextGeneration(**fields) if n_deadly else step)
            n_deadly += 1
    return graph


def _kill(home: Path, victim: str) -> int:
    pids = [pid for pid, kind in processes_of_home(home).items() if kind == victim]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)


def _see_to_its_end(run: Run, home: Path) -> None:
    for _ in range(MAX_LIVES):
        status = run.wait(PATIENCE_S)
        if status.state == "finished":
            if not _has_waiting_order(run):
                return
            run.resume()  # the runner that was to take up a retry was killed before
            continue
        # Lost by the kill, or given up: twenty deadly rows in a row are the step's fault to the engine.
        is_given_up = (status.state, status.reason) == ("failed", "worker")
        assert status.state == "lost" or is_given_up, f"{status!r} {status.error}\n{describe(home)}"
        run = attach(run.id).resume()
    raise AssertionError(describe(home))


def _has_waiting_order(run: Run) -> bool:
    run_dir = find_run_dir(run.id)
    reader = RunReader(run_dir)
    try:
        return any(order.name not in reader.orders() for order in read_orders(run_dir))
    finally:
        reader.close()

"""Drawn pipelines, in drawn interleavings, with drawn deaths: what a run makes is what the interpreter makes."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from random import SystemRandom
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from distilnb.engine.deaths import MAX_KILLS_OF_A_ROW
from distilnb.spec.graph import Graph
from distilnb.steps.route import RouteRows
from distilnb.steps.sources import LoadDataFromFileSystem
from tests.property.comparing import compare, count_of, interpreted
from tests.property.graphs import DrawnPipeline, draw_pipeline
from tests.property.simulation import MAX_LIVES, STROKES, Blow, Sizes, World, simulated
from tests.property.steps import Mark

SEED = int(os.environ.get("DISTILNB_SEED") or SystemRandom().randrange(1, 10**6))
N_EXAMPLES = int(os.environ.get("DISTILNB_EXAMPLES") or 120)
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a disk would be most of the time

BLOWS = st.lists(st.builds(Blow, st.integers(1, 200), st.sampled_from(STROKES)), max_size=8)
SIZES = st.builds(Sizes, st.integers(1, 5), st.integers(2, 8), st.integers(1, 4), st.integers(1, 3))


@pytest.mark.timeout(3600)  # a failing example is made smaller, which may take minutes
def test_a_run_makes_what_the_interpreter_makes(capsys: pytest.CaptureFixture[str]) -> None:
    seen: Counter[str] = Counter()

    @seed(SEED)
    @settings(
        max_examples=N_EXAMPLES,
        deadline=None,
        database=None,
        print_blob=True,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data(), SIZES, BLOWS, st.integers(0, 2**32))
    def hold(data: st.DataObject, sizes: Sizes, blows: list[Blow], interleaving: int) -> None:
        with (
            tempfile.TemporaryDirectory(dir=MEMORY) as name,
            mock.patch.dict(os.environ, DISTILNB_HOME=f"{name}/home"),
        ):
            pipeline = draw_pipeline(data, Path(name))
            on_error = pipeline.on_error
            with simulated(pipeline.graph, sizes, blows, interleaving, on_error=on_error) as world:
                live_to_the_end(world)
                seen.update(world.strokes)
                seen["batches left off"] += world.n_left_off
                if world.n_found_most >= MAX_KILLS_OF_A_ROW:
                    # A few kills from outside at the same row: to the engine, the row is the cause.
                    seen["rows blamed for kills"] += 1
                    return
                interpreter, pairing = interpreted(pipeline.graph, pipeline.rows, world.run_dir)
                compare(world.run_dir, interpreter)
                n_needed, n_sent = len(pairing.replies_needed), world.n_sent()
                # Nothing is asked twice but what was in flight when its worker died.
                assert n_needed <= n_sent <= n_needed + world.n_in_flight_at_kills
                n_told, n_requests = count_of("asked", world.run_dir), world.n_requests()
                if (
                    world.strokes
                ):  # rows of a dead worker that share an answer may each tell that they asked for it
                    assert n_told <= n_requests + pairing.n_shared
                else:
                    assert n_told == n_requests
                seen.update(_features(pipeline))
                seen.update({"pipelines": 1, "replies": n_sent, "asked twice": n_sent - n_needed})

    try:
        hold()
    finally:
        told = ", ".join(f"{n} {what}" for what, n in sorted(seen.items()))
        with capsys.disabled():
            print(f"\nDISTILNB_SEED={SEED} DISTILNB_EXAMPLES={N_EXAMPLES}: {told}")  # noqa: T201 - to repeat it
    assert N_EXAMPLES < 100 or all(
        seen[what] for what in (*STROKES, "batches left off", "routes", "left", "outer", "null")
    )


def _features(pipeline: DrawnPipeline) -> Counter[str]:
    steps = pipeline.graph.steps.values()
    routes = Counter(routes=sum(isinstance(step, RouteRows) for step in steps))
    return (
        routes + Counter(getattr(step, "how", "") or "steps" for step in steps) + Counter([pipeline.on_error])
    )


def test_a_file_whose_last_rows_equal_its_first_goes_on_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": "a", "n": n} for n in (0, 1, 0, 0, 0, 1)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    load = LoadDataFromFileSystem(name="load", data_files=str(path))
    graph = Graph().appending(load).appending(Mark(name="mark"), ["load"])
    n_struck = 0
    for tick in range(1, 100, 4):
        monkeypatch.setenv("DISTILNB_HOME", str(tmp_path / f"home{tick}"))
        with simulated(graph, Sizes(2, 2, 1, 1), [Blow(tick, "rows")], seed=0) as world:
            live_to_the_end(world)
            interpreter, _ = interpreted(graph, {"load": rows}, world.run_dir)
            compare(world.run_dir, interpreter)
            n_struck += world.strokes["rows"]
    assert n_struck


def live_to_the_end(world: World) -> None:
    """Resume the run until it is finished, as its user would after a kill or a stop."""
    for _ in range(MAX_LIVES):
        state = world.live()
        if state == "finished":
            return
        assert state in ("killed", "stopped") or world.died_too_often, world.end_of_life
    raise AssertionError("the run never finishes")

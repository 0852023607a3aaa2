"""Drawn pipelines, in drawn interleavings, with drawn deaths: what a run makes is what the interpreter makes."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from distilnb.engine.deaths import MAX_KILLS_OF_A_ROW
from distilnb.errors import RunError
from distilnb.spec.graph import Graph
from distilnb.steps.route import RouteRows
from distilnb.steps.sources import LoadDataFromFileSystem
from tests.property import steps
from tests.property.comparing import compare, count_of
from tests.property.graphs import DrawnPipeline, draw_pipeline, edited
from tests.property.rounds import Rounds
from tests.property.simulation import MAX_LIVES, STROKES, Blow, Sizes, World, simulated
from tests.property.steps import Mark

SEED = int(os.environ.get("DISTILNB_SEED") or 1)  # "random" was replaced by the root's conftest
N_EXAMPLES = int(os.environ.get("DISTILNB_EXAMPLES") or 120)
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a disk would be most of the time

BLOWS = st.lists(st.builds(Blow, st.integers(1, 200), st.sampled_from(STROKES)), max_size=8)
SIZES = st.builds(Sizes, st.integers(1, 5), st.integers(2, 8), st.integers(1, 4), st.integers(1, 3))


class Retry(NamedTuple):
    """A retry of a run that is through: of all failed rows or of a step's, which may be edited; and what befalls it."""

    step: int  # number of a step of which rows failed; none of them: all
    edit: int  # which edit, 0 for none
    blows: list[Blow]


RETRIES = st.lists(
    st.builds(
        Retry,
        st.integers(0, 5),
        st.sampled_from([0, 0, 1, 2]),
        st.lists(st.builds(Blow, st.integers(1, 80), st.sampled_from(STROKES)), max_size=3),
    ),
    max_size=2,
)


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
    @given(st.data(), SIZES, BLOWS, RETRIES, st.integers(0, 2**32))
    def hold(
        data: st.DataObject, sizes: Sizes, blows: list[Blow], retries: list[Retry], interleaving: int
    ) -> None:
        with (
            tempfile.TemporaryDirectory(dir=MEMORY) as name,
            mock.patch.dict(os.environ, DISTILNB_HOME=f"{name}/home"),
        ):
            pipeline = draw_pipeline(data, Path(name))
            on_error = pipeline.on_error
            with simulated(pipeline.graph, sizes, blows, interleaving, on_error=on_error) as world:
                rounds = Rounds(pipeline, world.run_dir, world.run_dir.plan(), editions=world.editions)
                live_to_the_end(world)
                if hold_against(world, rounds, seen):
                    steps.turn_fair()
                    for retry in retries:
                        if not retry_to_the_end(world, rounds, retry) or not hold_against(
                            world, rounds, seen
                        ):
                            break
                        seen["retried rows"] += len(world.orders[-1].places)
                seen["edited"] += len(world.editions)
                seen.update(world.strokes)
                seen["batches left off"] += world.n_left_off
                seen.update(_features(pipeline))
                seen["pipelines"] += 1

    try:
        hold()
    finally:
        told = ", ".join(f"{n} {what}" for what, n in sorted(seen.items()))
        with capsys.disabled():
            print(f"\nDISTILNB_SEED={SEED} DISTILNB_EXAMPLES={N_EXAMPLES}: {told}")  # noqa: T201 - to repeat it
    wanted = (*STROKES, "batches left off", "routes", "left", "outer", "null", "retried rows", "edited")
    assert N_EXAMPLES < 100 or all(seen[what] for what in wanted)


def hold_against(world: World, rounds: Rounds, seen: Counter[str]) -> bool:
    """Assert that a run which is through has what the interpreter has; False where that cannot be told."""
    if world.n_found_most >= MAX_KILLS_OF_A_ROW:
        # A few kills from outside at the same row: to the engine, the row is the cause.
        seen["rows blamed for kills"] += 1
        return False
    if not rounds.can_be_told(world.orders):
        seen["retried across joins"] += 1
        return False
    compare(world.run_dir, rounds.follow(world.orders))
    # Nothing is asked twice but what was in flight when its worker died, and nothing that no row needs.
    n_kept, n_sent = world.n_cached(), world.n_sent()
    assert n_kept <= n_sent <= n_kept + world.n_in_flight_at_kills
    if not any(order.is_live for order in world.orders):
        assert n_kept == len(rounds.replies.known)
    n_told, n_requests = count_of("asked", world.run_dir), world.n_requests()
    if world.strokes:  # rows of a dead worker that share an answer may each tell that they asked for it
        assert n_told <= n_requests + rounds.replies.n_shared
    else:
        assert n_told == n_requests
    return True


def retry_to_the_end(world: World, rounds: Rounds, retry: Retry) -> bool:
    """Retry what has failed, and let it come to its end; False when there is nothing, and the engine says so."""
    assert rounds.last is not None
    failed = sorted({step for step, _ in rounds.last.failures})
    step = failed[retry.step] if retry.step < len(failed) else None
    using = edited(world.graph, step, retry.edit) if step and retry.edit else None
    wanted = rounds.to_retry(step)
    if not wanted:
        with pytest.raises(RunError, match="nothing to retry"):
            world.retry(step, using)
        return False
    order = world.retry(step, using)
    assert set(order.places) == wanted
    world.blows = sorted(Blow(world.n_ticks + blow.tick, blow.what) for blow in retry.blows)
    live_to_the_end(world)
    return True


def _features(pipeline: DrawnPipeline) -> Counter[str]:
    drawn = pipeline.graph.steps.values()
    routes = Counter(routes=sum(isinstance(step, RouteRows) for step in drawn))
    return (
        routes + Counter(getattr(step, "how", "") or "steps" for step in drawn) + Counter([pipeline.on_error])
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
            pipeline = DrawnPipeline(graph, {"load": rows}, frozenset(), "quarantine")
            compare(world.run_dir, Rounds(pipeline, world.run_dir, world.run_dir.plan()).follow([]))
            n_struck += world.strokes["rows"]
    assert n_struck


def live_to_the_end(world: World) -> None:
    """Resume the run until it is finished, as its user would after a kill or a stop."""
    for _ in range(MAX_LIVES):
        state = world.live()
        if state == "finished":
            if not world.has_waiting_order:
                return
            continue
        assert state in ("killed", "stopped") or world.died_too_often, world.end_of_life
    raise AssertionError("the run never finishes")

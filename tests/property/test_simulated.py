"""Drawn pipelines, in drawn interleavings, with drawn deaths: what a run makes is what the interpreter makes."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable
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
from tests.property.graphs import DrawnPipeline, draw_meeting, draw_pipeline, edited
from tests.property.rounds import Rounds
from tests.property.simulation import MAX_LIVES, STROKES, Blow, Sizes, World, simulated
from tests.property.steps import Mark

SEED = int(os.environ.get("DISTILNB_SEED") or 1)  # "random" was replaced by the root's conftest
N_EXAMPLES = int(os.environ.get("DISTILNB_EXAMPLES") or 120)
FEATURES = (
    "routes",
    "left",
    "outer",
    "null",
    "raise",
    "cut",
    "ended at a row",
    "batches left off",
    "retried rows",
    "edited",
)
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a disk would be most of the time

BLOWS = st.lists(st.builds(Blow, st.integers(1, 200), st.sampled_from(STROKES)), max_size=8)
SIZES = st.builds(
    Sizes,
    st.integers(1, 5),
    st.integers(2, 8),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([0, 30, 100]),
)


class Retry(NamedTuple):
    """A retry of a run that is through: of all failed rows or of a step's, which may be edited; and what befalls it."""

    step: int  # number of a step of which rows failed; none of them: all
    rows: list[int]  # numbers of rows in quarantine; none: all
    edit: int  # which edit, 0 for none
    blows: list[Blow]


RETRIES = st.lists(
    st.builds(
        Retry,
        st.integers(0, 5),
        st.sampled_from([[], [], [0], [1, 4], [2]]),
        st.sampled_from([0, 0, 1, 2]),
        st.lists(st.builds(Blow, st.integers(1, 80), st.sampled_from(STROKES)), max_size=3),
    ),
    max_size=2,
)


OF_ALL = Retry(step=99, rows=[], edit=0, blows=[])
LIVE_RETRIES = st.builds(
    list.__add__,
    st.lists(st.builds(Blow, st.integers(5, 60), st.just("retry")), min_size=1, max_size=3),
    st.lists(st.builds(Blow, st.integers(1, 100), st.sampled_from(["rows", "runner", "abort"])), max_size=1),
)


@pytest.mark.timeout(3600)  # a failing example is made smaller, which may take minutes
def test_a_run_makes_what_the_interpreter_makes(capsys: pytest.CaptureFixture[str]) -> None:
    seen = prove(draw_pipeline, BLOWS, RETRIES, N_EXAMPLES, capsys)
    assert N_EXAMPLES < 100 or all(seen[what] for what in (*STROKES, *FEATURES))


@pytest.mark.timeout(3600)
def test_what_failed_in_a_branch_meets_its_partners_when_it_is_mended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen = prove(draw_meeting, LIVE_RETRIES, st.just([OF_ALL]), N_EXAMPLES // 2, capsys)
    assert N_EXAMPLES < 100 or all(seen[what] for what in ("retry", "retried rows", "left", "outer"))


def prove(
    draw: Callable[[st.DataObject, Path], DrawnPipeline],
    blows_of: st.SearchStrategy[list[Blow]],
    retries_of: st.SearchStrategy[list[Retry]],
    n_examples: int,
    capsys: pytest.CaptureFixture[str],
) -> Counter[str]:
    """Let drawn pipelines be hit by drawn blows, and hold what they make against the interpreter."""
    seen: Counter[str] = Counter()

    @seed(SEED)
    @settings(
        max_examples=n_examples,
        deadline=None,
        database=None,
        print_blob=True,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data(), SIZES, blows_of, retries_of, st.integers(0, 2**32))
    def hold(
        data: st.DataObject, sizes: Sizes, blows: list[Blow], retries: list[Retry], interleaving: int
    ) -> None:
        with (
            tempfile.TemporaryDirectory(dir=MEMORY) as name,
            mock.patch.dict(os.environ, DISTILNB_HOME=f"{name}/home"),
        ):
            pipeline = draw(data, Path(name))
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
                seen["ended at a row"] += len(world.endings)
                seen["cut"] += any(stage.is_cut for stage in world.run_dir.plan().stages)
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
    return seen


def hold_against(world: World, rounds: Rounds, seen: Counter[str]) -> bool:
    """Assert that a run which is through has what the interpreter has; False where that cannot be told."""
    if world.n_found_most >= MAX_KILLS_OF_A_ROW:
        # A few kills from outside at the same row: to the engine, the row is the cause.
        seen["rows blamed for kills"] += 1
        return False
    compare(world.run_dir, rounds.follow(world.orders))
    check_endings(world, rounds)
    # Nothing is asked twice but what was in flight when its worker died, and nothing that no row needs.
    n_kept, n_sent = world.n_cached(), world.n_sent()
    assert n_kept <= n_sent <= n_kept + world.n_in_flight_at_kills
    if not any(order.is_live for order in world.orders):
        assert n_kept == len(rounds.replies.known)
    n_told, n_requests = count_of("asked", world.run_dir), world.n_requests()
    # Rows of a dead worker that share an answer may each tell that they asked for it; those that were on their way when
    # a row ended the run are left as they are, and do not tell what they asked in vain.
    if world.strokes or world.endings:
        assert n_told <= n_requests + rounds.replies.n_shared
    else:
        assert n_told == n_requests
    return True


def check_endings(world: World, rounds: Rounds) -> None:
    """Assert that with on_error="raise" the run ended at rows that failed, and at one at least; else at none."""
    assert rounds.last is not None
    if rounds.pipeline.on_error != "raise":
        assert not world.endings
    elif not world.orders:
        failed = {trouble.id for trouble in rounds.last.troubles if not trouble.goes_on}
        assert failed.issuperset(world.endings)
        assert world.endings or world.strokes or not failed


def retry_to_the_end(world: World, rounds: Rounds, retry: Retry) -> bool:
    """Retry what has failed, and let it come to its end; False when there is nothing, and the engine says so."""
    assert rounds.last is not None
    failed = sorted({step for step, _ in rounds.last.failures})
    step = failed[retry.step] if retry.step < len(failed) else None
    using = edited(world.graph, step, retry.edit) if step and retry.edit else None
    lost = sorted({trouble.id for trouble in rounds.last.troubles if not trouble.goes_on})
    rows = [lost[number % len(lost)] for number in retry.rows] if lost else []
    wanted = rounds.to_retry(step, rows or None)
    if not wanted:
        with pytest.raises(RunError, match="nothing to retry"):
            world.retry(step, using, rows=rows or None)
        return False
    order = world.retry(step, using, rows=rows or None)
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
        if world.ended_at:
            world.endings.append(world.ended_at)
            continue
        assert state in ("killed", "stopped") or world.died_too_often, world.end_of_life
    raise AssertionError("the run never finishes")

"""Looking after what is kept: the sizes of the two caches, and what may go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import distilnb as dn
from distilnb.engine.apply import apply_step
from distilnb.engine.cache import ReplyCache, open_replies, reply_key
from distilnb.engine.cache_limit import parse_size, used_bytes
from distilnb.engine.row_cache import RowCache, open_results
from distilnb.engine.rundir import find_run_dir
from distilnb.engine.upkeep import (
    Cleared,
    cache_info,
    clear_cache,
    disk_bytes,
    prunable_runs,
    prune_runs,
    results_info,
)
from distilnb.errors import InputError
from distilnb.llms.request import Reply
from distilnb.rows import Batch, Row
from distilnb.spec.step import Step

pytestmark = pytest.mark.usefixtures("home")


def fill(n_replies: int, *, text: str = "hello", model: str = "m", start: int = 0) -> None:
    """Store replies one commit at a time, as a run does."""

    async def keep() -> None:
        cache = ReplyCache()
        for number in range(start, start + n_replies):
            await cache.keep([(key_of(number), Reply(text, "stop", model, 3, 5))])
        cache.close()

    asyncio.run(keep())


def key_of(number: int) -> bytes:
    return reply_key(number.to_bytes(16, "big"), index=0, repeat=0, attempt=0)


def stored() -> set[bytes]:
    db = open_replies(ReplyCache.default_path())
    keys = {key for (key,) in db.execute("SELECT key FROM replies")}
    db.close()
    return keys


def test_info_of_no_cache_is_all_zeros() -> None:
    found = cache_info()
    assert (found.n_bytes, found.n_replies, found.oldest, dict(found.by_model)) == (0, 0, None, {})
    assert not found.path.exists()


def test_info_counts_replies_and_tokens_by_model() -> None:
    fill(3, model="small")
    fill(2, model="large", start=10)
    found = cache_info()
    assert found.n_replies == 5
    assert dict(found.by_model) == {"small": (3, 15), "large": (2, 10)}
    assert found.n_bytes > 0
    assert found.oldest is not None
    assert found.newest is not None
    assert found.oldest <= found.newest


def test_clear_deletes_all_or_what_is_chosen() -> None:
    fill(3, model="small")
    fill(2, model="large", start=10)
    assert clear_cache(model="small") == Cleared(3, 0)
    assert stored() == {key_of(10), key_of(11)}
    assert clear_cache(older_than_days=1) == Cleared(0, 0)
    db = open_replies(ReplyCache.default_path())
    db.execute("UPDATE replies SET at = ? WHERE key = ?", (time.time() - 2 * 86_400, key_of(10)))
    db.close()
    assert clear_cache(older_than_days=1) == Cleared(1, 0)
    assert clear_cache() == Cleared(1, 0)
    assert clear_cache() == Cleared(0, 0)


def test_a_cache_above_its_limit_loses_the_oldest_replies_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILNB_CACHE_LIMIT", "3 MB")
    fill(6_000, text="x" * 900)
    db = open_replies(ReplyCache.default_path())
    size = used_bytes(db)
    db.close()
    keys = stored()
    assert size < 5_000_000  # between two looks it may grow by what 2,000 replies take
    newest = 1_000
    assert {key_of(number) for number in range(6_000 - newest, 6_000)} <= keys
    assert not {key_of(number) for number in range(newest)} & keys


def test_without_a_limit_everything_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILNB_CACHE_LIMIT", "none")
    fill(3_000, text="x" * 900)
    assert len(stored()) == 3_000


# --- results of steps -------------------------------------------------------------


class Long(Step):
    """Makes a long text."""

    name: str = "long"
    inputs = ["x"]
    outputs = ["y"]
    size: int = 0

    def process(self, rows: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        yield [{**row, "y": "y" * self.size} for row in rows]


def work(n_rows: int, *, size: int = 5, start: int = 0) -> None:
    """Store results of a step, a hundred to a commit."""
    with contextlib.closing(RowCache()) as cache:
        for first in range(start, start + n_rows, 100):
            numbers = range(first, min(first + 100, start + n_rows))
            batch = Batch([{"x": n} for n in numbers], [f"s:{n}:0" for n in numbers], [[n] for n in numbers])
            outcome = cache.apply(Long(size=size, input_batch_size=100), batch, apply_step)
            assert len(outcome.batch) == len(numbers)


def known(*numbers: int, size: int) -> list[int]:
    """Return those of the rows whose result is known."""
    with contextlib.closing(RowCache()) as cache:
        batch = Batch([{"x": n} for n in numbers], [f"s:{n}:0" for n in numbers], [[n] for n in numbers])
        new: list[int] = []

        def apply(step: Step, batch: Batch) -> object:
            new.extend(row["x"] for row in batch.rows)
            return apply_step(step, batch)

        cache.apply(Long(size=size), batch, apply)  # type: ignore[arg-type]
    return [n for n in numbers if n not in new]


def test_results_of_steps_are_counted_and_cleared_beside_the_replies() -> None:
    assert (results_info().n_bytes, results_info().n_results, results_info().oldest) == (0, 0, None)
    fill(2)
    work(30)
    found = results_info()
    assert found.n_results == 30
    assert found.n_bytes == disk_bytes(RowCache.default_path()) > 0
    assert found.oldest is not None
    assert found.newest is not None
    assert time.time() - 600 < found.oldest <= found.newest <= time.time()
    assert clear_cache(model="another") == Cleared(0, 0)
    assert clear_cache(older_than_days=1) == Cleared(0, 0)
    assert clear_cache(results_only=True) == Cleared(0, 30)
    assert results_info().n_results == 0
    assert cache_info().n_replies == 2
    work(3)
    assert clear_cache(model="m") == Cleared(2, 0)
    fill(2)
    assert clear_cache() == Cleared(2, 3)
    with pytest.raises(InputError, match="have no model"):
        clear_cache(model="m", results_only=True)


def test_results_of_steps_are_kept_within_the_limit_the_oldest_going_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DISTILNB_CACHE_LIMIT", "3 MB")
    work(6_000, size=900)
    with contextlib.closing(open_results(RowCache.default_path())) as db:
        size = used_bytes(db)
    assert size < 5_000_000  # between two looks it may grow by what 2,000 results take
    assert 1_000 < results_info().n_results < 5_000
    assert known(0, 500, 5_500, 5_999, size=900) == [5_500, 5_999]


def test_what_a_refresh_has_written_anew_is_young(monkeypatch: pytest.MonkeyPatch) -> None:
    work(100)
    with contextlib.closing(open_results(RowCache.default_path())) as db:
        db.execute("UPDATE results SET at = 1")
    with contextlib.closing(RowCache(mode="refresh")) as cache:
        cache.apply(Long(size=5), Batch([{"x": 7}], ["s:7:0"], [[7]]), apply_step)
    assert clear_cache(older_than_days=1) == Cleared(0, 99)
    assert known(7, 8, size=5) == [7]


@pytest.mark.parametrize(
    "text, size",
    [("0", 0), ("10", 10), ("2k", 2_000), ("1.5 GB", 1_500_000_000), ("7mb", 7_000_000), ("NONE", None)],
)
def test_sizes(text: str, size: int | None) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "many", "10 XB", "-1 GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="which is no size"):
        parse_size(text)


# --- runs -----------------------------------------------------------------------


def ended_run(*, days_ago: float) -> dn.Run:
    run = dn.Pipeline("old").from_dicts([{"n": 1}]).keep("n").start(new=True)
    assert run.wait(60).state == "finished"
    age(find_run_dir(run.id).path, days_ago)
    return run


def age(path: Path, days_ago: float) -> None:
    then = time.time() - days_ago * 86_400
    for file in path.iterdir():
        os.utime(file, (then, then))


def test_old_finished_runs_go_and_the_others_stay() -> None:
    old, young = ended_run(days_ago=40), ended_run(days_ago=1)
    found = prunable_runs(older_than_days=30)
    assert [run.run_id for run in found] == [old.id]
    pruned = prune_runs(found)
    assert pruned.ids == (old.id,)
    assert pruned.n_bytes > 0
    assert [run.id for run in dn.runs()] == [young.id]
    assert not Path(old.path).exists()


def test_a_run_that_can_be_resumed_goes_only_when_asked_for() -> None:
    pipeline = dn.Pipeline("slow", llm=dn.llm("rehearsal", latency_s=5, max_concurrency=1))
    run = pipeline.from_dicts([{"instruction": str(n)} for n in range(4)]).generate().start()
    assert prunable_runs(older_than_days=-1, unfinished_too=True) == []  # it is alive
    run.abort()
    run.wait(30)
    age(Path(run.path), 40)
    assert prunable_runs(older_than_days=30) == []
    assert prune_runs(prunable_runs(older_than_days=30, unfinished_too=True)).ids == (run.id,)

"""The jobs that are written down: who holds which key, what is left after a kill, who may keep a job."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distilnb import errors
from distilnb.engine.jobs import KEPT_S, JobStore, new_marker, read_error, write_error
from distilnb.errors import ContentFilterError, ModelError, StoreError
from distilnb.llms.batches import Job


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path)


def make(store: JobStore, keys: dict[int, list[bytes]], run: str = "run-1") -> tuple[str, set[int]]:
    marker = new_marker()
    taken = store.make(marker, keys, model="m", endpoint="http://a", run=run, replaces=False)
    return marker, taken


def test_a_key_is_held_by_one_job_until_it_is_collected_or_dropped(store: JobStore) -> None:
    first, taken = make(store, {0: [b"a"], 1: [b"b", b"c"]})
    assert taken == {0, 1}
    second, taken = make(store, {0: [b"d"], 1: [b"c", b"e"]}, "run-2")
    assert taken == {0}  # of a request whose key another job has, nothing is held
    assert store.holders([b"a", b"b", b"c", b"d", b"e"]) == {
        b"a": first,
        b"b": first,
        b"c": first,
        b"d": second,
    }
    assert store.entries(first) == {0: [b"a"], 1: [b"b", b"c"]}
    store.collected(first, 2, {})
    store.dropped(second, None)
    assert store.holders([b"a", b"b", b"c", b"d", b"e"]) == {}
    assert {job.state for job in store.all()} == {"collected", "dropped"}


def test_a_draft_of_which_others_have_all_becomes_no_job(store: JobStore) -> None:
    make(store, {0: [b"a"]})
    marker, taken = make(store, {0: [b"a"]})
    assert taken == set()
    assert store.job(marker) is None


def test_each_step_of_a_job_is_read_by_another_process(store: JobStore, tmp_path: Path) -> None:
    marker, _ = make(store, {0: [b"a"]})
    other = JobStore(tmp_path)
    states = []
    for step in (
        lambda: store.prepared(marker, "file-1"),
        lambda: store.sending(marker),
        lambda: store.sent(marker, Job("batch_1", "going", n_total=1, created_at=5.0, expires_at=9.0)),
        lambda: store.cancelling(marker),
        lambda: store.collected(marker, 1, {}),
    ):
        step()
        record = other.job(marker)
        assert record is not None
        states.append((record.state, record.id, record.prepared, record.is_cancelling))
    assert states == [
        ("made", "", "file-1", 0),
        ("sending", "", "file-1", 0),
        ("sent", "batch_1", "file-1", 0),
        ("sent", "batch_1", "file-1", 1),
        ("collected", "batch_1", "file-1", 1),
    ]


def test_why_a_key_has_no_reply_is_told_to_all_who_waited(store: JobStore, tmp_path: Path) -> None:
    marker, _ = make(store, {0: [b"a"], 1: [b"b"]})
    told = ContentFilterError("Refused.", "Change it.", provider="openai", request_id="r", status=400)
    store.collected(marker, 1, {b"b": told})
    found = JobStore(tmp_path).failure(marker, [b"a", b"b"])
    assert type(found) is ContentFilterError
    assert (found.what, found.fix, found.provider, found.request_id, found.status) == (
        *("Refused.", "Change it.", "openai", "r"),
        400,
    )
    assert store.failure(marker, [b"a"]) is None


def test_every_error_of_a_model_is_read_as_it_was_written() -> None:
    kinds = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, ModelError)]
    assert len(kinds) > 10
    for kind in kinds:
        read = read_error(write_error(kind("What.", "Fix.", provider="p", status=500)))
        assert (type(read), str(read), read.status) == (kind, str(kind("What.", "Fix.")), 500)


def test_a_job_has_one_keeper_and_the_lock_of_a_dead_one_is_free(store: JobStore, tmp_path: Path) -> None:
    marker, _ = make(store, {0: [b"a"]})
    program = (
        "import sys, pathlib\n"
        "from distilnb.engine.jobs import JobStore\n"
        f"assert JobStore(pathlib.Path({str(tmp_path)!r})).lock({marker!r})\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    keeper = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert keeper.stdout is not None
    assert keeper.stdout.readline() == "held\n"
    assert store.lock(marker) is None
    keeper.kill()
    keeper.communicate()
    lock = store.lock(marker)
    assert lock is not None
    JobStore.unlock(lock)


def test_sweeping_takes_what_nobody_holds_and_no_job_names(store: JobStore) -> None:
    going, _ = make(store, {0: [b"a"]})
    drafted, dead = new_marker(), new_marker()
    for marker in (going, drafted, dead):
        store.file(marker).write_bytes(b"{}\n")
    lock = store.lock(drafted)
    assert lock is not None
    store.sweep()
    assert sorted(path.name for path in store.folder.glob("*.jsonl")) == sorted(
        [f"{going}.jsonl", f"{drafted}.jsonl"]
    )
    JobStore.unlock(lock)


def test_jobs_are_forgotten_when_no_provider_has_their_results_any_more(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = make(store, {0: [b"a"]})
    store.collected(old, 0, {b"a": ModelError("No.")})
    going, _ = make(store, {0: [b"b"]})
    store.sweep()
    assert store.job(old) is not None
    later = time.time() + KEPT_S + 60
    monkeypatch.setattr("distilnb.engine.jobs.time.time", lambda: later)
    store.sweep()
    assert store.job(old) is None
    assert store.failure(old, [b"a"]) is None
    record = store.job(going)
    assert record is not None
    assert record.state == "dropped"  # nobody can collect it any more
    assert store.holders([b"b"]) == {}


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("no folder")
    with pytest.raises(StoreError, match="offline jobs"):
        JobStore(tmp_path)

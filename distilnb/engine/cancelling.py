"""Offline jobs called off by the user whose run has ended: only those that no other living run waits for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from distilnb.engine.cache import ReplyCache
from distilnb.engine.jobs import JobRecord, JobStore
from distilnb.engine.keeping import CLOCK_SKEW_S, SETTLE_S
from distilnb.engine.keys import models_at
from distilnb.engine.reading import RunReader
from distilnb.engine.rundir import RunDir, runs_folder
from distilnb.errors import DistilnbError, RunError, UnknownModelError
from distilnb.llms.remote import RemoteLLM

LOCK_PATIENCE_S = 5.0  # for the workers of the run to be gone


def cancel_jobs_of(reader: RunReader, secrets: Mapping[str, str]) -> str:
    """Ask the providers to end the jobs of a run that has ended, and return in words what became of each.

    What they have done by then is paid for and stays in the job, for a resume to collect. Raises RunError where a job
    could not be called off.
    """
    run_id = reader.run.run_id
    store = JobStore(ReplyCache.default_path().parent)
    told, refused = [], []
    try:
        for record in store.of_run(run_id):
            name = record.id or record.marker
            try:
                told.append(f"job {name}: {_cancel(store, record, reader, secrets)}")
            except DistilnbError as error:
                refused.append(f"job {name}: {error}")
    finally:
        store.close()
    if refused:
        raise RunError(
            f"Run {run_id!r} has ended, but not all of its offline jobs could be cancelled. "
            + " ".join([*refused, *told]),
            "They can be cancelled at the provider, too.",
        )
    return "; ".join(told) or "no offline job was left"


def _cancel(store: JobStore, record: JobRecord, reader: RunReader, secrets: Mapping[str, str]) -> str:
    others = [run for run in store.waiting(record.marker) if run != reader.run.run_id and _is_alive(run)]
    if others:
        return f"kept, because {', '.join(others)} waits for it too"
    lock = _lock(store, record.marker)
    try:
        newest = store.job(record.marker)
        if newest is None or newest.state == "collected":
            return "collected already"
        if newest.state == "made":
            store.dropped(record.marker, None)
            return "was not handed over yet, and will not be"
        llm = _model_of(newest, reader, secrets)
        # In a thread: a notebook's loop runs already.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, _call_off(store, newest, llm)).result()
    finally:
        JobStore.unlock(lock)


async def _call_off(store: JobStore, record: JobRecord, llm: RemoteLLM) -> str:
    batches = llm.make_batches()
    try:
        job_id = record.id
        if record.state == "sending":
            since = (record.sending_at or record.made_at) - CLOCK_SKEW_S
            others = {job.id for job in store.all() if job.id and job.marker != record.marker}
            sought = await batches.find(record.marker, record.n_total, since, others)
            if sought.job is None:
                is_settled = time.time() > (record.sending_at or 0.0) + SETTLE_S
                if sought.is_unsure or not is_settled:
                    raise RunError(
                        "It may be at the provider, which does not show it yet.", "Try again later."
                    )
                store.dropped(record.marker, None)
                return "was not handed over"
            store.sent(record.marker, sought.job)
            job_id = sought.job.id
        try:
            await batches.cancel(job_id)
        except UnknownModelError:  # what a 404 stands for elsewhere
            store.dropped(record.marker, None)
            return "is not known to the provider, and forgotten"
        store.cancelling(record.marker)
        return "cancelled; what is done by now is paid for, and run.resume() collects it"
    finally:
        await batches.close()


def _model_of(record: JobRecord, reader: RunReader, secrets: Mapping[str, str]) -> RemoteLLM:
    """Return the model that a job was made for, with the key that it has now."""
    for path, llm in models_at(reader.pipeline_file().graph):
        if isinstance(llm, RemoteLLM) and (llm.label, llm.endpoint) == (record.model, record.endpoint):
            key = secrets.get(f"{path}.api_key")
            return llm.updated(api_key=key) if key else llm
    raise RunError(
        f"No step of the run asks {record.model} at {record.endpoint!r} as it is written.",
        "Cancel the job at the provider.",
    )


def _lock(store: JobStore, marker: str) -> int:
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while (lock := store.lock(marker)) is None:
        if time.monotonic() > deadline:
            raise RunError("Another process looks after it.", "Stop the runs that wait for it first.")
        time.sleep(0.05)
    return lock


def _is_alive(run: str) -> bool:
    return RunDir(runs_folder() / run).is_alive()

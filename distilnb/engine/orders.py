"""What the runner tells a worker to do next, as a message."""

from __future__ import annotations

from collections.abc import Mapping

from distilnb.engine.deaths import Deaths
from distilnb.engine.flow import End, Gather, Job, Pull
from distilnb.engine.journal import JournalReader
from distilnb.engine.limits import RunLimits
from distilnb.engine.plan import Plan
from distilnb.engine.retrying import Retrying
from distilnb.engine.wire import Message
from distilnb.engine.workers import Worker


def first_order(
    secrets: Mapping[str, str], counts: Mapping[str, Mapping[str, float]], limits: RunLimits
) -> Message:
    """Return what a new worker is told first: keys, what the run has spent so far, and its limits."""
    return {
        "do": "secrets",
        "values": dict(secrets),
        "spent_cost": sum(figures.get("cost_usd", 0.0) for figures in counts.values()),
        "spent_tokens": int(
            sum(f.get("input_tokens", 0) + f.get("output_tokens", 0) for f in counts.values())
        ),
        "limits": limits.to_json(),
    }


def order_for(
    work: Job | Pull | Gather | End,
    worker: Worker,
    plan: Plan,
    reader: JournalReader,
    deaths: Deaths,
    retrying: Retrying,
) -> Message:
    """Return the message that gives some work to a worker, and note which sources the worker has opened."""
    if isinstance(work, Job):
        return {
            "do": "batch",
            "stage": work.stage.name,
            "batch": work.batch.id,
            "path": work.batch.path,
            "input": work.input_index,
            "todo": work.todo,
            "again": work.again and not retrying.was_replaced(work.stage),
            **retrying.marks(work.stage),
            **deaths.orders(plan.stages.index(work.stage), work.batch.id),
        }
    if isinstance(work, Pull) and work.part >= 0:
        return {"do": "part", "stage": work.stage.name, "part": work.part, "skip": work.offset}
    if isinstance(work, Pull):
        seen: list[tuple[str, int]] = []
        if work.offset and work.stage.name not in worker.pulled:
            seen = [(batch.path, batch.n_rows) for batch in reader.batches(work.stage.name)]
        worker.pulled.add(work.stage.name)
        limit = plan.options.get("rows")
        return {
            "do": "pull",
            "stage": work.stage.name,
            "offset": work.offset,
            "limit": limit,
            "seen": seen,
        }
    if isinstance(work, Gather):
        inputs = [[batch.path for batch in reader.batches(name)] for name in work.stage.inputs]
        marks = {**retrying.marks(work.stage), **retrying.gather_marks(work.stage)}
        return {"do": "global", "stage": work.stage.name, "inputs": inputs, **marks}
    end: Message = {"do": "end", "stage": work.stage.name, **retrying.marks(work.stage)}
    if retrying.has_taken_back:
        end["heard"] = worker.heard[work.stage.name]
    return end

"""What a worker makes of a row that killed its workers before: the ordinary quarantine."""

from __future__ import annotations

from distilnb.engine.apply import Failure, Outcome
from distilnb.engine.deaths import Poison, reason_of
from distilnb.rows import Batch


def failure_of(row_id: str, step: str, poison: Poison) -> Failure:
    """Describe the row as `run.errors()` shows it."""
    return Failure(row_id, step, "WorkerDied", reason_of(poison), attempts=poison.n_deaths)


def quarantine(outcome: Outcome, step: str, poison: Poison) -> Outcome:
    """Quarantine all rows of an outcome at a step: the row itself, or what the steps before have made of it."""
    batch, outcome.batch = outcome.batch, Batch(gone=outcome.batch.gone)
    for row_id, order in zip(batch.ids, batch.orders, strict=True):
        outcome.fail(failure_of(row_id, step, poison), order)
    return outcome

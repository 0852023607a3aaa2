"""Orders to retry: one file each in the run directory, which stays; the journal knows those that were carried out."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from distilnb.engine.rundir import RunDir
from distilnb.rows import write_text


@dataclass(frozen=True)
class RetryOrder:
    """Which failures (by their number in the journal) are to be done again, and by which version of which step.

    A step that `versions` does not name goes on with the version that the row had.
    """

    name: str
    errors: Sequence[int]
    versions: Mapping[str, int] = field(default_factory=dict)


def write_order(run: RunDir, errors: Sequence[int], versions: Mapping[str, int]) -> RetryOrder:
    """Leave an order for the runner; raises StoreError."""
    order = RetryOrder(f"{time.time_ns()}", list(errors), dict(versions))
    folder = run.path / "retries"
    folder.mkdir(mode=0o700, exist_ok=True)
    write_text(folder / f"{order.name}.json", json.dumps(asdict(order)))
    return order


def read_orders(run: RunDir) -> list[RetryOrder]:
    """Return all orders that were ever left, oldest first."""
    paths = sorted((run.path / "retries").glob("[0-9]*.json"))
    return [RetryOrder(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]

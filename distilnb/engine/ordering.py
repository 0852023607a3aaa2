"""A retry as its user orders it: the failures are chosen and checked, and a runner is seen to take the order up."""

from __future__ import annotations

import time
from collections.abc import Mapping, MutableMapping
from typing import Any

from distilnb.engine.commands import TAKES_ORDERS, check_keys, check_may_start, start_again
from distilnb.engine.editing import EditedPipeline, edit_steps
from distilnb.engine.quarantine import RowChoice, choose_errors
from distilnb.engine.reading import RunReader
from distilnb.engine.retry_orders import RetryOrder, write_order

_POLL_S = 0.005


def order_retry(
    reader: RunReader,
    secrets: MutableMapping[str, str],
    *,
    step: str | None,
    rows: RowChoice | None,
    using: EditedPipeline | None,
    parameters: Mapping[str, Any] | None,
) -> list[dict[str, Any]]:
    """Order failed rows to be done again and return their failures; `secrets` gets the keys of edited steps.

    Raises RunError when there is nothing to retry, when `using` differs upstream, when keys are missing, or when a
    limit stopped the run that was not raised since.
    """
    chosen = choose_errors(reader.errors(), reader.plan, step=step, rows=rows)
    steps = sorted({error["step"] for error in chosen})
    is_living = _takes_orders(reader)
    if not is_living:
        check_may_start(reader)
    versions: dict[str, int] = {}
    if using is not None:
        versions, keys = edit_steps(
            reader.run,
            reader.run.plan(),  # as it is now: the digests of many rows are written after the start
            using,
            steps,
            parameters=parameters,
            held_keys=dict(secrets) if is_living else None,
        )
        secrets.update(keys)
    check_keys(reader, secrets, "retry")
    _hand_over(reader, secrets, write_order(reader.run, [error["id"] for error in chosen], versions))
    return chosen


def check_may_retry(reader: RunReader, secrets: Mapping[str, str], *, is_edited: bool) -> None:
    """Raise RunError when a retry would be refused whatever has failed; edited steps may bring the keys that miss."""
    if not _takes_orders(reader):
        check_may_start(reader)
    if not is_edited:
        check_keys(reader, secrets, "retry")


def _takes_orders(reader: RunReader) -> bool:
    return reader.status().state in TAKES_ORDERS


def _hand_over(reader: RunReader, secrets: Mapping[str, str], order: RetryOrder) -> None:
    """See that a runner takes an order up: the living one, else a new one."""
    if _takes_orders(reader):
        reader.run.command("retry")
        while _takes_orders(reader) and order.name not in reader.orders():
            time.sleep(_POLL_S)
    if order.name not in reader.orders():
        start_again(reader, secrets)

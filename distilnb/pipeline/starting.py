"""From a pipeline to a run: the last checks, the start, and waiting for the result."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

from distilnb.engine.building import literal_secrets
from distilnb.engine.launch import check_models, find_running, launch, one_start_at_a_time, run_digest
from distilnb.engine.status import RunStatus
from distilnb.errors import InputError
from distilnb.export.distiset import Distiset
from distilnb.rows import Row
from distilnb.run import Run
from distilnb.spec.check import check_graph
from distilnb.spec.graph import Graph
from distilnb.steps.sources import rows_from_dataset, rows_from_pandas
from distilnb.view.display import is_kernel
from distilnb.view.panel import follow


def start(graph: Graph, *, name: str, text: str, options: dict[str, Any], new: bool) -> Run:
    """Check everything that can be known, then start a run, or return the equal one that is going."""
    check_graph(graph)
    check_limits(options)
    check_models(graph, max_cost=options.get("max_cost"))
    with one_start_at_a_time():
        running = None if new else find_running(run_digest(graph, options))
        if running is not None:
            note = f"{running.run_id} is running already; new=True starts another."
            return Run(running, secrets=literal_secrets(graph), note=note)
        run_dir = launch(graph, pipeline=name, text=text, options=options)
    return Run(run_dir, secrets=literal_secrets(graph))


def check_limits(options: dict[str, Any]) -> None:
    """Raise InputError for a limit that makes no sense."""
    for limit in ("rows", "max_cost", "max_tokens"):
        value = options.get(limit)
        number, kinds = ("a number", (int, float)) if limit == "max_cost" else ("a whole number", (int,))
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        if value is not None and not (is_number and 0 < value < math.inf):  # which NaN is not either
            raise InputError(f"{limit} is {value!r}.", f"Give {number} above 0, or leave it out.")


def rows_of(dataset: object) -> Sequence[Row]:
    """Return rows of a list of dicts, a DataFrame or a `datasets.Dataset`."""
    if isinstance(dataset, (list, tuple)):
        return list(dataset)
    if hasattr(dataset, "iterrows"):
        return rows_from_pandas(dataset)
    if hasattr(dataset, "column_names"):
        return rows_from_dataset(dataset)
    raise InputError(
        f"A dataset was given as {type(dataset).__name__!r}.",
        "Give a list of dicts, a DataFrame or a Dataset.",
    )


def wait_for_result(run: Run, *, show: bool) -> Distiset:
    """Wait for a run, showing how it stands, and return its result."""
    try:
        if show:
            if is_kernel():
                run.panel().show()
            else:
                follow(run.status, sys.stderr)
        run.wait()
    except KeyboardInterrupt:
        if is_kernel():  # an interrupt in a notebook detaches: the run goes on
            raise
        _stop_twice(run)
    return run.distiset()


def _stop_twice(run: Run) -> RunStatus:
    """Stop gracefully; a second Ctrl-C stops at once."""
    try:
        run.stop()
        sys.stderr.write(f"\nstopping {run.id}: what is in flight ends; Ctrl-C again stops at once\n")
        return run.wait()
    except KeyboardInterrupt:
        run.abort()
        return run.wait()

"""From a pipeline to a run: the last checks, the start, and waiting for the result."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from distilnb.engine.building import literal_secrets
from distilnb.engine.launch import check_models, find_running, launch, one_start_at_a_time
from distilnb.engine.limits import BUDGET, check_limit
from distilnb.engine.spool import given_rows
from distilnb.engine.standing import note
from distilnb.engine.status import RunStatus
from distilnb.errors import InputError, did_you_mean
from distilnb.export.distiset import Distiset
from distilnb.pipeline.versions import note_run
from distilnb.rows import Row
from distilnb.run import Run
from distilnb.spec.check import check_graph
from distilnb.spec.graph import Graph
from distilnb.steps.sources import rows_from_dataset, rows_from_pandas
from distilnb.view.display import is_kernel
from distilnb.view.panel import follow

_WORDS = {"on_error": ("quarantine", "null", "raise"), "executor": ("local",)}
USUAL = {"on_error": "quarantine", "executor": "local", "cache": "on", "max_time": None}  # options of a start


def start(graph: Graph, *, name: str, text: Callable[[], str], options: dict[str, Any], new: bool) -> Run:
    """Check everything that can be known, then start a run, or return the equal one that is going."""
    for rows in given_rows(graph):
        if rows.is_long:
            rows.give_way()
    check_graph(graph)
    check_limits(options)
    check_models(graph, max_cost=options.get("max_cost"), cache=options.get("cache"))
    with one_start_at_a_time():
        running = None if new else going(graph, options)
        if running is not None:
            return running
        run_dir = launch(graph, pipeline=name, text=text, options=options)
    note(name, graph)
    note_run(name, graph, run_dir.run_id)
    return Run(run_dir, secrets=literal_secrets(graph), graph=_small(graph))


def going(graph: Graph, options: dict[str, Any]) -> Run | None:
    """Return the equal run that is going, with a note that says so, or None; `options` are all those of a start."""
    found = find_running(graph, options)
    if found is None:
        return None
    run = Run(found, secrets=literal_secrets(graph), graph=_small(graph))
    is_paused = run.status().state == "paused"
    hint = "paused; run.resume() goes on with it" if is_paused else "running already"
    run.note = f"{found.run_id} is {hint}; new=True starts another."
    return run


def _small(graph: Graph) -> Graph | None:
    """Return the graph for the run's pictures, unless many rows would live as long as the handle of the run."""
    return None if any(rows.is_long for rows in given_rows(graph)) else graph


def check_limits(options: dict[str, Any]) -> None:
    """Raise InputError for a limit that makes no sense, or for a word that stands for nothing."""
    for limit in ("rows", *BUDGET):
        check_limit(limit, options.get(limit))
    for option, words in _WORDS.items():
        value = options.get(option)
        if value is not None and value not in words:
            raise InputError(
                f"{option} is {value!r}; there is {', '.join(map(repr, words))}.",
                did_you_mean(str(value), words, "Choose one of these, or leave it out."),
            )


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


def wait_for_result(run: Run, *, show: bool, note: str = "") -> Distiset:
    """Wait for a run, showing first a note and then how it stands, and return its result."""
    try:
        if note:
            sys.stdout.write(f"{note}\n")
            sys.stdout.flush()
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

"""A route at work: decides once for each row, and writes the decision beside the row for every step that follows."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable

from distilnb.engine.apply import Failure, Outcome
from distilnb.engine.status import ROUTED
from distilnb.rows import Batch, Row
from distilnb.steps.route import RouteRows

NO_BRANCH = "meets the condition of no branch"


def route_rows(route: RouteRows, batch: Batch, moved: Callable[[], None] = lambda: None) -> Outcome:
    """Note for each row of a batch where it goes; what goes nowhere is left out, an error costs its row.

    `moved` is called whenever a row is through.
    """
    outcome = Outcome(Batch(gone=list(batch.gone)))
    rows: Iterable[Row] = batch.copies() if route.reads_rows else itertools.repeat({})
    kept: list[int] = []
    routes: list[list[str]] = []
    for index, (row_id, order, row) in enumerate(zip(batch.ids, batch.list_orders(), rows, strict=False)):
        moved()
        try:
            steps = route.choose(row_id, row)
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything; it is the row's error
            outcome.fail(Failure.of(row_id, route.name, error), order)
            continue
        if not steps:
            outcome.drop(row_id, order, route.name, NO_BRANCH)
            continue
        kept.append(index)
        routes.append(steps)
    gone = outcome.batch.gone
    outcome.batch = batch.select(kept)
    outcome.batch.gone, outcome.batch.routes = gone, routes
    shares = Counter(itertools.chain.from_iterable(routes))
    figures = {f"{ROUTED}{step}": n_rows for step, n_rows in shares.items()}
    outcome.count(route.name, done=len(kept), made=len(kept), **figures)
    return outcome

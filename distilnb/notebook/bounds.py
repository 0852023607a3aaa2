"""About the most that a preview or a retry can cost, from the prices of its models and what the cache lacks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from distilnb.engine.budget import DRAWN_TOKENS
from distilnb.engine.foresee import CHARACTERS_PER_TOKEN
from distilnb.engine.preview import preview_graph
from distilnb.engine.sample import pinned_sample, text_bytes
from distilnb.llms.parts import n_requests
from distilnb.llms.prices import price_of
from distilnb.llms.request import Request
from distilnb.spec.graph import Graph
from distilnb.spec.step import GeneratorStep, Step
from distilnb.tasks.base import Task

if TYPE_CHECKING:
    from distilnb.engine.status import RunStatus, StepStatus
    from distilnb.run import Run

TOKENS_EACH = (
    2000  # in and out, of a request of which nothing is known: long for most, so that the bound is one
)
LOOKED_ROWS = 1000
SEEN_REQUESTS = 20  # from which on what a run has paid tells what the rest of it costs,
MARGIN = 1.5  # with so much to spare
# States of a run that a new runner lets go on to its end. One that is stopping is waited for, and then goes on too.
UNFINISHED = ("stopping", "stopped", "failed", "lost")


class Bound(NamedTuple):
    """About the most that something costs (USD; None when a price is unknown), its requests, and its rows."""

    cost: float | None
    requests: int = 0
    rows: int = 0

    def plus(self, other: Bound) -> Bound:
        """Return the bound of both together."""
        cost = None if self.cost is None or other.cost is None else self.cost + other.cost
        return Bound(cost, self.requests + other.requests, self.rows + other.rows)


def most_of_preview(name: str, graph: Graph, n: int | None, *, enough: float) -> Bound:
    """Return about the most that a preview of n rows (None: all that are pinned) can cost.

    The cache is looked at only where the price of all would be above `enough`, and for no more than `LOOKED_ROWS`: it
    costs time.
    """
    tasks = _tasks(graph)
    prices = {task.name: _price_each(task) for task in tasks}
    if all(price == 0.0 for price in prices.values()):
        return Bound(0.0)
    sources = {source: step for source, step in graph.steps.items() if isinstance(step, GeneratorStep)}
    samples = {source: pinned_sample(name, step, n) for source, step in sources.items()}
    longest = max((text_bytes(row) for sample in samples.values() for row in sample.rows), default=0)
    prices = {task.name: _price_each(task, int(longest / CHARACTERS_PER_TOKEN)) for task in tasks}
    n_rows = max((len(sample) for sample in samples.values()), default=0)
    cost, requests = _sum(tasks, prices, {task.name: n_rows for task in tasks})
    if (cost is not None and cost <= enough) or n_rows > LOOKED_ROWS:
        return Bound(cost, requests, n_rows)
    open_rows: dict[str, int] = {}
    for result in preview_graph(graph, samples, asks=False):
        behind = max((open_rows.get(before, 0) for before in graph.predecessors(result.name)), default=0)
        open_rows[result.name] = min(n_rows, len(result.missing) + behind)
    return Bound(*_sum(tasks, prices, open_rows), n_rows)


def most_of_retry(run: Run, step: str | None = None, using: Graph | None = None) -> Bound:
    """Return about the most that it can cost to do the failed rows of a run again, all or those of a step.

    With `using`, the graph of an edited pipeline, its version of a failed step does them. A run that has ended before
    its end, or is about to, goes on to that too.
    """
    errors = run.errors()
    failed = errors[(errors["state"] == "open") & ~errors["is_partial"]]
    if step is not None:
        failed = failed[failed["step"] == step]
    graph = run.pipeline_file().graph
    rows = dict.fromkeys(graph.steps, 0)
    for name, count in failed["step"].value_counts().items():
        for other in graph.steps:
            if other == name or name in graph.ancestors(other):
                rows[other] += int(count)
    edited = using.steps if using is not None else {}
    at = set(failed["step"])
    tasks = [
        by if task.name in at and isinstance(by := edited.get(task.name), Task) else task
        for task in _tasks(graph)
    ]
    again = Bound(*_sum(tasks, {task.name: _price_each(task) for task in tasks}, rows), len(failed))
    status = run.status()
    if failed.empty or status.state not in UNFINISHED:
        return again
    return _within_budget(again.plus(_rest(status, graph)), status)


def most_of_rest(run: Run) -> Bound:
    """Return about the most that it can cost to let a run go on to its end; nothing for one that goes or is through."""
    status = run.status()
    if status.state not in ("paused", *UNFINISHED):
        return Bound(0.0)
    return _within_budget(_rest(status, run.pipeline_file().graph), status)


def _within_budget(bound: Bound, status: RunStatus) -> Bound:
    """Return the bound, which a budget of the run may be below."""
    budget, spent = status.limits.max_cost, status.cost_usd
    if budget is None or spent is None:
        return bound
    left = max(0.0, budget - spent)
    return bound._replace(cost=left if bound.cost is None else min(left, bound.cost))


def _rest(status: RunStatus, graph: Graph) -> Bound:
    """Bound what a run has left to ask: by what its rows have come to so far, else by the usual most.

    Nothing is looked up in the reply cache, and a source is read on by nobody.
    """
    to_come: dict[str, float | None] = {}  # rows that a step still makes, at most
    costs: list[float | None] = []
    n_requests, n_rows = 0.0, 0.0
    for name in graph.order():
        step, known = graph.steps[name], status.step(name)
        if isinstance(step, GeneratorStep):
            to_come[name] = None if known.total is None else float(max(0, known.total - known.made))
            continue
        left = 0.0 if known.state == "finished" else _left(graph, name, status, to_come)
        to_come[name] = _still_made(step, known, left)
        if not isinstance(step, Task) or left == 0.0 or _price_each(step) == 0.0:
            continue
        asks, cost = _asked_of(step, known)
        costs.append(None if left is None or cost is None else left * cost)
        n_requests += (left or 1.0) * asks
        n_rows = max(n_rows, left or 1.0)
    sure = [cost for cost in costs if cost is not None]
    return Bound(sum(sure) if len(sure) == len(costs) else None, math.ceil(n_requests), math.ceil(n_rows))


def _left(graph: Graph, name: str, status: RunStatus, to_come: Mapping[str, float | None]) -> float | None:
    """Return how many rows a step has before it, at most; None where nobody knows how many come."""
    before = graph.predecessors(name)
    coming = [more for one in before if (more := to_come[one]) is not None]
    if len(coming) < len(before):
        return None
    each = [status.step(one).made + more for one, more in zip(before, coming, strict=True)]
    return max(0.0, (max(each) if graph.is_join(name) else sum(each)) - status.step(name).ended)


def _still_made(step: Step, known: StepStatus, left: float | None) -> float | None:
    """Return how many rows a step makes of those before it: of each as many as of the others, and one at least."""
    if left is None or (left and step.expands() and not known.done):
        return None
    return left * max(1.0, known.made / max(1, known.done))


def _asked_of(step: Task, known: StepStatus) -> tuple[float, float | None]:
    """Return how many requests a row of a task takes, and what it costs, at most."""
    price = _price_each(step)
    n_each = float(step.num_generations)
    if known.asked < SEEN_REQUESTS or not known.done or known.cost_usd is None:
        return n_each, None if price is None else price * n_each
    n_each = max(1.0, (known.asked + known.cached) / known.done)
    return n_each, known.cost_usd / known.asked * n_each * MARGIN


def costs_nothing(graph: Graph) -> bool:
    """Whether every model that a graph asks is free."""
    return all(_price_each(task) == 0.0 for task in _tasks(graph))


def _sum(
    tasks: list[Task], prices: Mapping[str, float | None], rows: Mapping[str, int]
) -> tuple[float | None, int]:
    asked = {task.name: rows[task.name] * task.num_generations for task in tasks}
    costs = [0.0 if not number else prices[name] for name, number in asked.items()]
    if any(cost is None for cost in costs):
        return None, sum(asked.values())
    each = (prices[name] or 0.0 for name in asked)
    return sum(price * number for price, number in zip(each, asked.values(), strict=True)), sum(
        asked.values()
    )


def _tasks(graph: Graph) -> list[Task]:
    return [step for step in graph.steps.values() if isinstance(step, Task)]


def _price_each(task: Task, tokens_of_row: int = 0) -> float | None:
    """Return about the most that a reply costs: of several models, so many requests as it takes to the dearest one.

    A prompt that holds a whole row is as long as that, where this is more than what is usual.
    """
    dearest = 0.0
    for llm in task.llm.senders() if task.llm else ():
        price = price_of(llm)
        if price is None or (price.needs_tokens and not llm.tells_tokens):
            return None
        longest = llm.generation_kwargs.get("max_new_tokens")
        tokens_out = longest if isinstance(longest, int) else TOKENS_EACH
        is_drawn = llm.makes == "image"
        if is_drawn and price.needs_tokens:
            tokens_out = DRAWN_TOKENS
        cost = price.cost_usd(max(TOKENS_EACH, tokens_of_row), tokens_out, 1, int(is_drawn))
        dearest = max(dearest, cost * task.sendings_per_reply)
    return dearest * n_requests(task.llm.parts(Request(()))[0]) if task.llm else None

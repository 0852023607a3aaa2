"""About the most that a preview or a retry can cost, from the prices of its models and what the cache lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from distilnb.engine.budget import DRAWN_TOKENS
from distilnb.engine.foresee import CHARACTERS_PER_TOKEN
from distilnb.engine.preview import preview_graph
from distilnb.engine.sample import pinned_sample
from distilnb.llms.parts import n_requests
from distilnb.llms.prices import price_of
from distilnb.llms.request import Request
from distilnb.rows import Row
from distilnb.spec.graph import Graph
from distilnb.spec.step import GeneratorStep
from distilnb.tasks.base import Task

if TYPE_CHECKING:
    from distilnb.run import Run

TOKENS_EACH = (
    2000  # in and out, of a request of which nothing is known: long for most, so that the bound is one
)


class Bound(NamedTuple):
    """About the most that something costs (USD; None when a price is unknown), its requests, and its rows."""

    cost: float | None
    requests: int = 0
    rows: int = 0


def most_of_preview(name: str, graph: Graph, n: int | None, *, enough: float) -> Bound:
    """Return about the most that a preview of n rows (None: all that are pinned) can cost.

    The cache is looked at only where the price of all would be above `enough`: it costs time.
    """
    tasks = _tasks(graph)
    prices = {task.name: _price_each(task) for task in tasks}
    if all(price == 0.0 for price in prices.values()):
        return Bound(0.0)
    sources = {source: step for source, step in graph.steps.items() if isinstance(step, GeneratorStep)}
    samples = {source: pinned_sample(name, step, n) for source, step in sources.items()}
    longest = max((_length(row) for sample in samples.values() for row in sample.rows), default=0)
    prices = {task.name: _price_each(task, int(longest / CHARACTERS_PER_TOKEN)) for task in tasks}
    n_rows = max((len(sample) for sample in samples.values()), default=0)
    cost, requests = _sum(tasks, prices, {task.name: n_rows for task in tasks})
    if cost is not None and cost <= enough:
        return Bound(cost, requests, n_rows)
    open_rows: dict[str, int] = {}
    for result in preview_graph(graph, samples, asks=False):
        behind = max((open_rows.get(before, 0) for before in graph.predecessors(result.name)), default=0)
        open_rows[result.name] = min(n_rows, len(result.missing) + behind)
    return Bound(*_sum(tasks, prices, open_rows), n_rows)


def _length(row: Row) -> int:
    """Return the bytes of text in a row: about four a token in English, and three, a character, in Chinese."""
    texts = (str(value) for value in row.values() if not isinstance(value, bytes))
    return sum(len(text.encode("utf-8", "replace")) for text in texts)


def most_of_retry(run: Run, step: str | None = None, using: Graph | None = None) -> Bound:
    """Return about the most that it can cost to do the failed rows of a run again, all or those of a step.

    With `using`, the graph of an edited pipeline, its version of a failed step does them.
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
    return Bound(*_sum(tasks, {task.name: _price_each(task) for task in tasks}, rows), len(failed))


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
        if price is None:
            return None
        longest = llm.generation_kwargs.get("max_new_tokens")
        tokens_out = longest if isinstance(longest, int) else TOKENS_EACH
        is_drawn = llm.makes == "image"
        if is_drawn and price.needs_tokens:
            tokens_out = DRAWN_TOKENS
        cost = price.cost_usd(max(TOKENS_EACH, tokens_of_row), tokens_out, 1, int(is_drawn))
        dearest = max(dearest, cost * task.sendings_per_reply)
    return dearest * n_requests(task.llm.parts(Request(()))[0]) if task.llm else None

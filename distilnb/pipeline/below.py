"""What an edited step leaves to be done: which steps below it will ask, and how much, of the previewed rows."""

from __future__ import annotations

from collections.abc import Mapping

from distilnb.engine.preview import StepResult, preview_graph
from distilnb.errors import DistilnbError
from distilnb.pipeline.measure import Quote, quote_missing
from distilnb.rows import Batch
from distilnb.spec.check import check_graph
from distilnb.spec.graph import Graph
from distilnb.spec.registry import user_code
from distilnb.spec.step import GlobalStep, Step
from distilnb.tasks.base import Task
from distilnb.view.figures import money
from distilnb.view.text import one_line

MAX_TOLD = 6  # steps


def told_below(graph: Graph, step: str, samples: Mapping[str, Batch]) -> str:
    """Return what the steps below one will ask of these rows: "judge asks 5, to_dpo is free"; "" where none is.

    The cache is looked at, and nothing is asked. No code of the user runs for it, and no step that sees all rows: what
    stands below one of those asks "about" as much as these rows would take.
    """
    below = [name for name in graph.order() if step in graph.ancestors(name)]
    tasks = [name for name in below if isinstance(graph.steps[name], Task)]
    part = graph.keeping({name for task in tasks for name in (task, *graph.ancestors(task))})
    try:
        quotes = _quotes(part, tasks, samples) if tasks else {}
    except DistilnbError:  # it does not fit below any longer: whoever previews the whole is told
        return ""
    told = [_asks(name, *quotes[name]) for name in tasks]
    told = told[:MAX_TOLD] + [f"{len(told) - MAX_TOLD} more ask"] * (len(told) > MAX_TOLD)
    others = [name for name in below if name not in tasks]
    users = [name for name in others if _is_users(graph.steps[name])]
    free = [name for name in others if name not in users]
    if free:
        told.append(f"{_names(free)} {'is' if len(free) == 1 else 'are'} free")
    if users:  # what the user's own code asks by itself, nobody knows
        told.append(f"{_names(users)} {'asks' if len(users) == 1 else 'ask'} no model")
    return one_line(", ".join(told), 300)


def _names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_TOLD} more" if len(names) > MAX_TOLD else ""
    return f"{', '.join(names[:MAX_TOLD])}{more}"


def _quotes(part: Graph, tasks: list[str], samples: Mapping[str, Batch]) -> dict[str, tuple[Quote, bool]]:
    """Return for each task what it still asks, and whether that is known."""
    check_graph(part, is_whole=False)
    known = {
        name
        for name, step in part.steps.items()
        if not any(_hides(part.steps[one]) for one in (*part.ancestors(name), name) if one in part.steps)
    }
    looked = part.keeping(known)
    results = {result.name: result for result in preview_graph(looked, samples, asks=False)} if known else {}
    n_rows = max((len(batch) for batch in samples.values()), default=0)
    return {name: (_quote(part, name, results, n_rows), name in results) for name in tasks}


def _hides(step: Step) -> bool:
    """Whether nobody can tell, without running what may take long, what leaves a step."""
    return isinstance(step, GlobalStep) or _is_users(step)


def _is_users(step: Step) -> bool:
    """Whether code of the user's own is run."""
    is_ours = type(step).__module__.startswith("distilnb.")
    return not is_ours or step.runs_user_code or bool(user_code(step))


def _quote(graph: Graph, name: str, results: Mapping[str, StepResult], n_rows: int) -> Quote:
    task = graph.steps[name]
    assert isinstance(task, Task)
    result = results.get(name)
    if result is None:
        return quote_missing(task, {}, (), n_rows)
    waiting = {row for step in graph.ancestors(name) if step in results for row in results[step].missing}
    replies = [reply for found in result.brought.values() for reply in found]
    return quote_missing(task, result.missing, list(result.messages.values()), len(waiting), replies)


def _asks(name: str, quote: Quote, is_known: bool) -> str:
    if not quote.requests:
        return f"{name} asks nothing"
    cost = f" ({money(quote.cost_usd)})" if quote.cost_usd else ""
    return f"{name} asks {'' if is_known else 'about '}{quote.requests}{cost}"

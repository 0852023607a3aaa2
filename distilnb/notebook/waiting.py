"""Asking before money is spent: what may cost more than `confirm_cost_over` shows its quote and waits for a word.

Nothing is ever read from a prompt, so that a notebook that nobody watches (nbclient, papermill) goes on at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from distilnb.engine.preview import preview_graph
from distilnb.engine.sample import pinned_sample
from distilnb.llms.prices import price_of
from distilnb.notebook.session import Session
from distilnb.spec.graph import Graph
from distilnb.spec.parameters import with_parameters
from distilnb.spec.step import GeneratorStep
from distilnb.tasks.base import Task
from distilnb.view.confirm import ConfirmBox
from distilnb.view.display import Output, best_form
from distilnb.view.figures import money, plural
from distilnb.view.html import Bundle, escape, page

if TYPE_CHECKING:
    from distilnb.pipeline import Pipeline
    from distilnb.run import Run

T = TypeVar("T")

TOKENS_EACH = (
    2000  # in and out, of a request of which nothing is known: long for most, so that the bound is one
)
USUAL_ROWS = 5  # of a Sample to which nobody has added
MOVED = "The question moved to a later cell."


class Waiting(Generic[T]):
    """What was not done because of what it may cost: `quote` tells that, `go()` does it.

    Done once, however often it is asked for: by the button, by `go()`, or by both. Variables that hold it hold the
    result then.
    """

    def __init__(
        self, session: Session, what: str, quote: str | object, cost: float | None, do: Callable[[], T]
    ) -> None:
        self.quote = quote
        self._session = session
        self._what = what
        self._cost = cost
        self._do = do
        self._lock = threading.Lock()
        self._results: list[T] = []
        self._output: Output | None = None
        self._below = Output()
        self._box: ConfirmBox | None = None

    def go(self) -> T:
        """Do it now, or return what was done already."""
        with self._lock:
            if not self._results:
                self._results.append(self._do())
                self._session.replace_waiting(self, self._results[0])
                self._settle(self._line())
        return self._results[0]

    @property
    def is_done(self) -> bool:
        """Whether it was done."""
        return bool(self._results)

    def show(self) -> None:
        """Show the quote under the current cell, with a button where a front end draws one."""
        self._settle(MOVED)
        bundle: dict[str, Any] = dict(self._bundle())
        self._output, self._below = Output(), Output()
        if best_form() == "widgets" and self._session.settings.form() != "html":
            self._box = ConfirmBox(bundle["text/html"], "Run", self._pressed)
            bundle.update(self._box.view())
        elif best_form() == "text":
            self._session.say(bundle["text/plain"])
            self._output = None
            return
        self._output.show(bundle)
        self._below.show({"text/plain": "", "text/html": ""})

    def _pressed(self) -> None:
        """Do it, and show the result here: what is displayed by a button has no cell of its own."""
        below = self._below
        result: Any = self.go()
        if hasattr(result, "panel"):
            self._session.show_run(result, at=below)
        elif hasattr(result, "_repr_mimebundle_"):
            below.show(result._repr_mimebundle_())
        else:
            below.show({"text/plain": repr(result), "text/html": result._repr_html_()})

    def _settle(self, line: str) -> None:
        """Replace the question by a line."""
        if self._output is not None:
            self._output.show({"text/plain": line, "text/html": page(f"<div>{escape(line)}</div>")})
        if self._box is not None:
            self._box.close()
        self._output = self._box = None

    def _bundle(self) -> Bundle:
        asked = f"{self}\n"
        quote = getattr(self.quote, "_repr_html_", lambda: page(f"<div>{escape(str(self.quote))}</div>"))()
        told = page(f"<div>{escape(self._line())}</div>")
        return {"text/plain": asked.rstrip("\n"), "text/html": quote + told}

    def _line(self) -> str:
        if self.is_done:
            run_id = getattr(self._results[0], "id", "")
            told = f" · attach from anywhere: %distil attach {run_id}" if run_id else ""
            return f"{self._what}: confirmed{told}"
        limit = money(self._session.settings.confirm_cost_over)
        cost = "a cost that is not known" if self._cost is None else f"up to {money(self._cost)}"
        over = "" if self._cost is None else f", more than {limit}"
        return f"{self._what} waits: it may come to {cost}{over}. Nothing was done yet; run the line again with -y."

    def __repr__(self) -> str:
        return f"{self.quote}\n{self._line()}"

    def _ipython_display_(self) -> None:
        self._session.show_waiting(self)


def start_when_confirmed(session: Session, pipeline: Pipeline, do: partial[Run]) -> Run | Waiting[Run]:
    """Start a run, or show its quote and let it wait; `do` is the start with its options.

    An equal run that is going costs nothing: it is what comes of the start.
    """
    from distilnb.pipeline.starting import USUAL, going

    options = dict(do.keywords)
    parameters, is_new = options.pop("parameters"), options.pop("new")
    graph = with_parameters(pipeline.graph, parameters)
    limit, max_cost = session.settings.confirm_cost_over, options["max_cost"]
    if (max_cost is not None and max_cost <= limit) or all(_is_free(task) for task in _tasks(graph)):
        return do()
    if not is_new and going(graph, {**USUAL, **options}) is not None:
        return do()
    quote = pipeline.estimate(options["rows"], parameters=parameters, ask=False)
    cost = None if quote.cost_usd is None else quote.cost_usd.high
    if cost is not None and cost <= limit:
        return do()
    key = ("run", graph.digest, tuple(options.values()))
    return session.let_wait(key, Waiting(session, f"A run of {pipeline.name}", quote, cost, do))


def retry_when_confirmed(
    session: Session, run: Run, do: Callable[[], Run], step: str | None
) -> Run | Waiting[Run]:
    """Do failed rows again, or show what that may cost and let it wait."""
    errors = run.errors()
    failed = errors[(errors["state"] == "open") & ~errors["is_partial"]]
    graph = run.pipeline_file().graph
    rows = dict.fromkeys(graph.steps, 0)
    for name, count in failed["step"].value_counts().items():
        below = [other for other in graph.steps if other == name or name in graph.ancestors(other)]
        for other in below if step in (None, name) else ():
            rows[other] += int(count)
    tasks = _tasks(graph)
    cost, requests = _sum(tasks, {task.name: _price_each(task) for task in tasks}, rows)
    if not requests or (cost is not None and cost <= session.settings.confirm_cost_over):
        return do()
    quote = (
        f"{run.id} · {plural(len(failed), 'row')} to be done again · {plural(requests, 'request')} at most"
    )
    return session.let_wait(
        ("retry", run.id, step), Waiting(session, f"A retry of {run.id}", quote, cost, do)
    )


def ask_when_confirmed(
    session: Session, name: str, graph: Graph, n: int | None, do: Callable[[], T]
) -> T | Waiting[T]:
    """Preview a graph on n rows (None: all that are pinned), or show what that may cost and let it wait.

    What no price is known for is asked without a word, as long as it is for no more rows than are pinned anyway.
    """
    limit = session.settings.confirm_cost_over
    bound = most_of_preview(name, graph, n, enough=limit)
    is_small = n is None or n <= USUAL_ROWS if bound.cost is None else bound.cost <= limit
    if is_small:
        return do()
    requests = plural(bound.requests, "request")
    quote = f"{name} · a preview of {plural(bound.rows, 'row')} · {requests} at most"
    return session.let_wait(
        (graph.digest, n), Waiting(session, f"A preview of {name}", quote, bound.cost, do)
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
    n_rows = max((len(sample) for sample in samples.values()), default=0)
    cost, requests = _sum(tasks, prices, {task.name: n_rows for task in tasks})
    if cost is not None and cost <= enough:
        return Bound(cost, requests, n_rows)
    open_rows: dict[str, int] = {}
    for result in preview_graph(graph, samples, asks=False):
        behind = max((open_rows.get(before, 0) for before in graph.predecessors(result.name)), default=0)
        open_rows[result.name] = min(n_rows, len(result.missing) + behind)
    return Bound(*_sum(tasks, prices, open_rows), n_rows)


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


def _is_free(task: Task) -> bool:
    price = None if task.llm is None else price_of(task.llm)
    return price is not None and price.is_free


def _price_each(task: Task) -> float | None:
    price = None if task.llm is None else price_of(task.llm)
    if price is None or task.llm is None:
        return None
    longest = task.llm.generation_kwargs.get("max_new_tokens")
    return price.cost_usd(TOKENS_EACH, longest if isinstance(longest, int) else TOKENS_EACH)

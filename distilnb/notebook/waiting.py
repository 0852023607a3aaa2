"""Asking before money is spent: what may cost more than `confirm_cost_over` shows its quote and waits for a word.

Nothing is ever read from a prompt, so that a notebook that nobody watches (nbclient, papermill) goes on at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from distilnb.notebook.bounds import (
    UNFINISHED,
    costs_nothing,
    most_of_preview,
    most_of_rest,
    most_of_retry,
)
from distilnb.notebook.quoting import as_known
from distilnb.notebook.session import Session
from distilnb.spec.graph import Graph
from distilnb.spec.parameters import with_parameters
from distilnb.view.confirm import ConfirmBox
from distilnb.view.display import Output, best_form
from distilnb.view.figures import money, plural
from distilnb.view.html import Bundle, escape, page

if TYPE_CHECKING:
    from distilnb.pipeline import Pipeline
    from distilnb.run import Run

T = TypeVar("T")

USUAL_ROWS = 5  # of a Sample to which nobody has added
MOVED = "The question moved to a later cell."


class Waiting(Generic[T]):
    """What was not done because of what it may cost: `quote` tells that, `go()` does it.

    Its `cost` is the most that it should come to, or what is expected where that is no bound.
    Done once, however often it is asked for: by the button, by `go()`, or by both. Variables that hold it hold the
    result then. `show_at` shows a result that has buttons of its own where the button showed it, as its cell would
    have done, and returns whether it did.
    """

    def __init__(
        self,
        session: Session,
        what: str,
        quote: str | object,
        cost: float | None,
        do: Callable[[], T],
        *,
        is_bound: bool = True,
        show_at: Callable[[T, Output], bool] = lambda result, output: False,
    ) -> None:
        self.quote = quote
        self.is_looked_into = False  # a thread makes a sharper quote
        self._session = session
        self._what = what
        self._cost = cost
        self._is_bound = is_bound
        self._do = do
        self._show_at = show_at
        self._lock = threading.RLock()  # a sharper quote comes from a thread
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

    def tell(self, quote: str | object, cost: float | None, *, is_bound: bool = True) -> None:
        """Replace the quote by a newer one, also where it is shown; may be called from any thread."""
        with self._lock:
            if self._results:
                return
            self.quote, self._cost, self._is_bound = quote, cost, is_bound
            if self._output is None:
                return
            bundle: dict[str, Any] = dict(self._bundle())
            if self._box is not None:
                self._box.tell(bundle["text/html"])
                bundle.update(self._box.view())
            self._output.show(bundle)

    def renew(self, other: Waiting[T]) -> None:
        """Take the quote of an equal question that was asked later, to be shown next."""
        self.quote, self._cost, self._is_bound = other.quote, other._cost, other._is_bound

    def show(self) -> None:
        """Show the quote under the current cell, with a button where a front end draws one."""
        with self._lock:
            self._show()

    def _show(self) -> None:
        self._settle(MOVED)
        bundle: dict[str, Any] = dict(self._bundle())
        self._output, self._below = Output(), Output()
        if self._session.has_buttons:
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
        if self._show_at(result, below):
            return
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
        most = "up to" if self._is_bound else "about"
        cost = "a cost that is not known" if self._cost is None else f"{most} {money(self._cost)}"
        is_over = self._cost is not None and self._cost > self._session.settings.confirm_cost_over
        over = f", more than {limit}" if is_over else ""
        return f"{self._what} waits: it may come to {cost}{over}. Nothing was done yet; run the line again with -y."

    def __repr__(self) -> str:
        return f"{self.quote}\n{self._line()}"

    def __getattr__(self, name: str) -> NoReturn:
        """Tell a cell that wants the result, as in a notebook that nobody watches, why it is not there."""
        told = f"there is no {name!r} yet. {self._line()}" if not name.startswith("_") else repr(name)
        raise AttributeError(told)

    def _ipython_display_(self) -> None:
        self._session.show_waiting(self)


def start_when_confirmed(session: Session, pipeline: Pipeline, do: partial[Run]) -> Run | Waiting[Run]:
    """Start a run, or show its quote and let it wait; `do` is the start with its options.

    An equal run that is going costs nothing: it is what comes of the start. Only where a button can be pressed the
    cell does not wait for the quote: elsewhere it must not hang on the clock what is run.
    """
    from distilnb.pipeline.quick import QuickQuote
    from distilnb.pipeline.starting import USUAL, going

    options = dict(do.keywords)
    parameters, is_new = options.pop("parameters"), options.pop("new")
    graph = with_parameters(pipeline.graph, parameters)
    limit, max_cost = session.settings.confirm_cost_over, options["max_cost"]
    if (max_cost is not None and max_cost <= limit) or costs_nothing(graph):
        return do()
    if not is_new and going(graph, {**USUAL, **options}) is not None:
        return do()
    key = ("run", *as_known(graph), is_new, *options.values())
    look = session.looks.quote_in_time if session.has_buttons else session.looks.quote_now
    found = look(key, pipeline.name, graph, options["rows"])
    quote = found or QuickQuote(None, None, True, "its quote takes longer than a cell should")
    if quote.most_usd is not None and quote.most_usd <= limit:
        return do()
    told = quote.estimate or f"{pipeline.name} · {quote.lack}"
    expected = quote.estimate.cost_usd if quote.estimate else None
    cost = None if expected is None else expected.high
    waiting = Waiting(session, f"A run of {pipeline.name}", told, cost, do, is_bound=quote.doubt == 1.0)
    asked = session.let_wait(key, waiting, is_newer=found is not None)
    if quote.can_be_sharper:
        session.looks.sharpen(key, asked, pipeline.name, graph, options["rows"])
    return asked


def retry_when_confirmed(
    session: Session, run: Run, do: Callable[[], Run], step: str | None, using: Graph | None = None
) -> Run | Waiting[Run]:
    """Do failed rows again, by an edited graph if there is one, or show what that may cost and let it wait.

    Raises RunError where the run may not go on.
    """
    from distilnb.run.refusing import check_retry

    check_retry(run, is_edited=using is not None)
    bound = most_of_retry(run, step, using)
    if session.is_cheap(bound):
        return do()
    rows, requests = plural(bound.rows, "row"), plural(bound.requests, "request")
    rest = " · then the run goes on to its end" if run.status().state in UNFINISHED else ""
    quote = f"{run.id} · {rows} to be done again · {requests} at most{rest}"
    waiting = Waiting(session, f"A retry of {run.id}", quote, bound.cost, do)
    return session.let_wait(("retry", run.id, step, using and using.digest), waiting)


def resume_when_confirmed(session: Session, run: Run, do: Callable[[], Run]) -> Run | Waiting[Run]:
    """Let a run go on, or show what the rest of it may cost and let that wait; raises RunError where it may not."""
    from distilnb.run.refusing import check_resume

    check_resume(run)
    bound = most_of_rest(run)
    if session.is_cheap(bound):
        return do()
    spent = run.status().cost_usd
    so_far = "" if spent is None else f" · {money(spent)} so far"
    rows, requests = plural(bound.rows, "row"), plural(bound.requests, "request")
    quote = f"{run.id}{so_far} · {rows} left · about {requests}, less what is cached"
    waiting = Waiting(session, f"The rest of {run.id}", quote, bound.cost, do, is_bound=False)
    return session.let_wait(("resume", run.id), waiting)


def ask_when_confirmed(
    session: Session, name: str, graph: Graph, n: int | None, do: Callable[[], T], key: Hashable
) -> T | Waiting[T]:
    """Preview a graph on n rows (None: all that are pinned), or show what that may cost and let it wait.

    Lines of one `key`, the graph and n ask one question: they must do the same.
    What no price is known for is asked without a word, as long as it is for no more rows than a Sample usually has.
    """
    limit = session.settings.confirm_cost_over
    bound = most_of_preview(name, graph, n, enough=limit)
    is_small = bound.rows <= USUAL_ROWS if bound.cost is None else bound.cost <= limit
    if is_small:
        return do()
    requests = plural(bound.requests, "request")
    quote = f"{name} · a preview of {plural(bound.rows, 'row')} · {requests} at most"
    waiting = Waiting(session, f"A preview of {name}", quote, bound.cost, do)
    return session.let_wait((key, graph.digest, n), waiting)

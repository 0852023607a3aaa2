"""A quote for a question that must not keep its cell: at once by a few rows, then sharper where it is shown."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Protocol

from distilnb.engine.spool import given_rows
from distilnb.spec.graph import Graph
from distilnb.spec.inline import named_by_number
from distilnb.view.display import best_form

if TYPE_CHECKING:
    from distilnb.pipeline.quick import QuickQuote

SETTLE_S = 0.2  # for the cell to end: it would wait for the interpreter
PATIENCE_S = 0.5  # with a user's step that is slow on the Sample, a disk that sleeps, a network
UNWATCHED_S = (
    10.0  # the same where nobody may sit before the cell, and a busy machine must not decide what is run
)


class Question(Protocol):
    """What shows a quote, and takes a newer one from any thread."""

    is_looked_into: bool

    def tell(self, quote: str | object, cost: float | None) -> None: ...


def quote_in_time(pipeline: str, graph: Graph, rows: int | None) -> QuickQuote:
    """Return the quick quote for a run, or, where that is not there in time, one that says so; a sharper one may come.

    Raises what is wrong with the pipeline.
    """
    from distilnb.pipeline.quick import QuickQuote, quick_quote

    found: queue.SimpleQueue[QuickQuote | BaseException] = queue.SimpleQueue()

    def make() -> None:
        try:
            found.put(quick_quote(pipeline, graph, rows))
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that waits
            found.put(error)

    threading.Thread(target=make, name="distilnb-quote", daemon=True).start()
    try:
        quote = found.get(timeout=PATIENCE_S if best_form() == "widgets" else UNWATCHED_S)
    except queue.Empty:
        return QuickQuote(None, None, True, "its quote takes longer than a cell should")
    if isinstance(quote, BaseException):
        raise quote
    return quote


def as_known(graph: Graph) -> tuple[object, ...]:
    """Return what tells a graph from others without waiting for the digest of many rows: the rows themselves do."""
    with named_by_number():
        shape = graph.digest
    return shape, *(id(rows) if rows.is_pending else rows.digest for rows in given_rows(graph))


def sharpen(question: Question, pipeline: str, graph: Graph, rows: int | None) -> None:
    """Look at more rows in the background, and tell the question what that gives."""

    def look() -> None:
        from distilnb.pipeline.estimate import SAMPLE_ROWS, make_estimate

        try:
            quote = make_estimate(pipeline, graph, rows, SAMPLE_ROWS, ask=False, keeps=False)
        except Exception:  # noqa: BLE001 - the quick quote stays; a run tells what is wrong
            return
        finally:
            question.is_looked_into = False
        question.tell(quote, None if quote.cost_usd is None else quote.cost_usd.high)

    if not question.is_looked_into:
        question.is_looked_into = True
        thread = threading.Timer(SETTLE_S, look)
        thread.name, thread.daemon = "distilnb-quote", True
        thread.start()

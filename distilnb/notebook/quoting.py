"""A quote for a question that must not keep its cell: at once by a few rows, then sharper where it is shown."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import TYPE_CHECKING, Protocol

from distilnb.engine.spool import given_rows
from distilnb.spec.graph import Graph
from distilnb.spec.inline import named_by_number

if TYPE_CHECKING:
    from distilnb.pipeline.quick import QuickQuote

SETTLE_S = 0.2  # for the cell to end: it would wait for the interpreter
PATIENCE_S = 0.5  # with a user's step that is slow on the Sample, a disk that sleeps, a network


class Sharpened(Protocol):
    """What shows a quote, and takes a newer one from any thread."""

    is_looked_into: bool

    def tell(self, quote: str | object, cost: float | None) -> None: ...


class Looks:
    """The looks at rows that questions need: for one question one at a time, as they run the user's own steps.

    Questions are told apart by keys that are equal where the questions are.
    """

    def __init__(self) -> None:
        self._locks: defaultdict[object, threading.Lock] = defaultdict(threading.Lock)
        self._going: dict[object, Future[QuickQuote]] = {}  # those for which a cell did not wait to the end

    def quote_now(self, key: object, pipeline: str, graph: Graph, rows: int | None) -> QuickQuote:
        """Return the quick quote for a run, however long it takes; raises what is wrong with the pipeline."""
        from distilnb.pipeline.quick import quick_quote

        with self._locks[key]:
            return quick_quote(pipeline, graph, rows)

    def quote_in_time(self, key: object, pipeline: str, graph: Graph, rows: int | None) -> QuickQuote | None:
        """Return the same, or None where it is not there in `PATIENCE_S`; then the next call waits for the same look.

        Raises what is wrong with the pipeline.
        """
        look = self._going.get(key)
        if look is None or look.done():  # what was found meanwhile may be out of date
            look = self._going[key] = _in_thread(partial(self.quote_now, key, pipeline, graph, rows))
        wait([look], timeout=PATIENCE_S)
        if not look.done():
            return None
        self._going.pop(key, None)
        return look.result()

    def sharpen(
        self, key: object, question: Sharpened, pipeline: str, graph: Graph, rows: int | None
    ) -> None:
        """Look at more rows in the background, and tell the question what that gives."""

        def look() -> None:
            from distilnb.pipeline.estimate import SAMPLE_ROWS, make_estimate

            try:
                with self._locks[key]:  # a quick look that took too long goes on
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


def _in_thread(make: Callable[[], QuickQuote]) -> Future[QuickQuote]:
    """Return what a daemon thread makes: the interpreter's end waits for no user's step, as an executor would."""
    found: Future[QuickQuote] = Future()

    def run() -> None:
        try:
            found.set_result(make())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that waits
            found.set_exception(error)

    threading.Thread(target=run, name="distilnb-quote", daemon=True).start()
    return found


def as_known(graph: Graph) -> tuple[object, ...]:
    """Return what tells a graph from others without waiting for the digest of many rows: the rows themselves do.

    They do so when the digest is there as well: the question was not another one before. It is told by their address,
    so whatever is kept by it keeps the rows.
    """
    with named_by_number():
        shape = graph.digest
    return shape, *(id(rows) if rows.is_long else rows.digest for rows in given_rows(graph))

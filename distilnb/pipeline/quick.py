"""A quote that is there at once, whatever the size of the source: by a few of its rows, and the Sample as it is."""

from __future__ import annotations

from typing import NamedTuple

from distilnb.engine.foresee import RowsToRun
from distilnb.engine.rendering import model_of
from distilnb.engine.sample import glance, kept_sample
from distilnb.llms.prices import run_price_of
from distilnb.pipeline.estimate import SAMPLE_ROWS, Estimate, estimate_of, sources_of
from distilnb.spec.check import check_graph
from distilnb.spec.graph import Graph
from distilnb.spec.step import Step
from distilnb.tasks.base import Task
from distilnb.view.figures import count

GLANCE_ROWS = 1000  # of all sources together
PATIENCE_S = 0.05  # for one step on these rows
CHANCE = 2.0  # how far off a few hundred rows may be, beside their lengths
FEW = 6.0  # and fewer: times as far by the root of how many there are
MANY_ROWS = 300_000  # what is read on to know better, in the background


class QuickQuote(NamedTuple):
    """A quote by a few rows; `estimate` is None where not even one row is known.

    The truth is at most `doubt` times the quote's high end: 1.0 where all rows were looked at, None where nobody can
    tell at once. `can_be_sharper` is whether `make_estimate` can say more, in a few seconds. `lack` says why there is
    no estimate, or no doubt.
    """

    estimate: Estimate | None
    doubt: float | None
    can_be_sharper: bool
    lack: str = ""

    @property
    def most_usd(self) -> float | None:
        """What the run costs at most, None where that is not known."""
        if self.estimate is None or self.doubt is None or self.estimate.cost_usd is None:
            return None
        return self.estimate.cost_usd.high * self.doubt


def quick_quote(pipeline: str, graph: Graph, rows: int | None) -> QuickQuote:
    """Quote a run by what is known at once; nothing is asked, and nothing is pinned.

    Rows are counted where a source can tell without being read, else told by the size of files. Where neither can be,
    a limit of rows and the Sample are all there is to go by.
    """
    check_graph(graph)
    sources = sources_of(graph)
    n_tasks = sum(isinstance(step, Task) for step in graph.steps.values())
    n_each = max(1, GLANCE_ROWS // max(1, len(sources) * n_tasks))
    seen = {name: glance(source, rows, n_each) for name, source in sources.items()}
    uncounted = [name for name, found in seen.items() if found is None]
    if uncounted:
        what = f"the rows of {', '.join(uncounted)} cannot be counted without reading them all"
        return QuickQuote(None, None, False, f"{what}: %distil estimate does")
    samples, to_run = {}, {}
    for name, found in seen.items():
        assert found is not None  # told above
        kept = kept_sample(pipeline, sources[name])
        samples[name] = kept if len(kept) else found.batch.select(range(min(SAMPLE_ROWS, len(found.batch))))
        to_run[name] = RowsToRun(found.batch if len(found.batch) else kept, found.n_rows)
    n_rows = sum(taken.n_rows for taken in to_run.values())
    n_read = sum(to_run[name].n_rows for name, source in sources.items() if source.rows_at([]) is None)
    can_be_sharper = n_read <= MANY_ROWS
    if not all(len(taken.batch) for taken in to_run.values()):
        return QuickQuote(None, None, can_be_sharper, f"{count(n_rows)} rows, none of which was seen yet")
    is_counted = all(found.is_counted for found in seen.values() if found)
    is_whole = is_counted and all(len(found.batch) == found.n_rows for found in seen.values() if found)
    unmeasured = [name for name, found in seen.items() if found and found.is_counted and found.longer is None]
    lack = f"how long the rows of {', '.join(unmeasured)} are cannot be told" if unmeasured else ""
    note = "" if is_whole else "; ".join(filter(None, [_note(to_run, is_counted=is_counted), lack]))
    quote = estimate_of(pipeline, graph, samples, to_run, ask=False, patience_s=PATIENCE_S, note=note)
    if is_whole:
        return QuickQuote(quote, 1.0, False)
    longer = [found.longer for found in seen.values() if found]
    return QuickQuote(quote, _doubt(graph, quote, longer, to_run), can_be_sharper, lack)


def _doubt(
    graph: Graph, quote: Estimate, longer: list[float | None], to_run: dict[str, RowsToRun]
) -> float | None:
    """Return how many times as much as quoted it may be; None where nobody can tell.

    Rows that were not looked at may be longer, and none of them cached; and what only few of the rows come to is
    badly known from those, not at all from none.
    """
    n_looked, n_rows = sum(map(_n_looked, to_run.values())), sum(map(_n_rows, to_run.values()))
    times = CHANCE
    for step in quote.steps:
        if _is_free(graph.steps[step.name]):
            continue
        if step.requests is None or not step.requests.low:
            return None
        n_seen = step.requests.low * n_looked / n_rows
        here = (step.requests.low + step.cached) / step.requests.low
        times = max(times, here * max(CHANCE, 1 + FEW / n_seen**0.5))
    known = [one for one in longer if one is not None]
    return times * max(known) if len(known) == len(longer) else None


def _n_looked(taken: RowsToRun) -> int:
    return len(taken.batch)


def _n_rows(taken: RowsToRun) -> int:
    return taken.n_rows


def _is_free(step: Step) -> bool:
    prices = [run_price_of(llm) for llm in model_of(step).senders()] if isinstance(step, Task) else []
    return all(price is not None and price.is_free for price in prices)


def _note(to_run: dict[str, RowsToRun], *, is_counted: bool) -> str:
    looked, every = sum(map(_n_looked, to_run.values())), sum(map(_n_rows, to_run.values()))
    told = f"a quick quote: {count(looked)} rows stand for "
    return told + (count(every) if is_counted else f"about {count(every)}, by the size of the files")

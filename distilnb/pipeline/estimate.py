"""What `p.estimate()` returns: the quote for a run, made of the Sample, the reply cache and the models' prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distilnb.engine.forecast import Interval
from distilnb.engine.foresee import Outlook, RowsToRun, foresee
from distilnb.engine.launch import is_rehearsed
from distilnb.engine.limits import check_limit
from distilnb.engine.preview import StepResult, preview_graph, reply_seconds
from distilnb.engine.quote import StepQuote, quote_task, run_seconds, sum_of
from distilnb.engine.sample import draw_rows, pinned_sample
from distilnb.errors import InputError, UnknownStepError, did_you_mean
from distilnb.rows import Batch
from distilnb.spec.check import check_graph
from distilnb.spec.graph import Graph
from distilnb.spec.step import GeneratorStep
from distilnb.tasks.base import Task
from distilnb.view.estimate import EstimateData, estimate_bundle

if TYPE_CHECKING:
    import pandas as pd

SAMPLE_ROWS = 5
PATIENCE_S = 2.0  # for one step on all rows; a slower one runs on the Sample alone


class Estimate:
    """The quote for a run: requests, tokens, money and time, in all and for each step that asks a model.

    Every figure is an interval (`low`, `expected`, `high`), or None where it is unknown. `estimate["judge"]` is one
    step's; the repr shows all.
    """

    def __init__(self, data: EstimateData) -> None:
        self._data = data

    @property
    def steps(self) -> tuple[StepQuote, ...]:
        """The quotes of the steps that ask a model, in their order."""
        return self._data.steps

    def __getitem__(self, step: str) -> StepQuote:
        """Return the quote of one step; raises UnknownStepError with the near match."""
        known = [quote.name for quote in self.steps]
        if step not in known:
            raise UnknownStepError(
                f"There is no step {step!r} in this estimate; these ask a model: {known}.",
                did_you_mean(step, known),
            )
        return self.steps[known.index(step)]

    def _ipython_key_completions_(self) -> list[str]:
        return [quote.name for quote in self.steps]

    @property
    def rows(self) -> int:
        """The rows that the run takes from its sources."""
        return self._data.rows

    @property
    def requests(self) -> Interval | None:
        """Requests that will be sent."""
        return sum_of(quote.requests for quote in self.steps)

    @property
    def cached(self) -> int:
        """Requests that the reply cache answers."""
        return sum(quote.cached for quote in self.steps)

    @property
    def input_tokens(self) -> Interval | None:
        """Tokens of the prompts."""
        return sum_of(quote.input_tokens for quote in self.steps)

    @property
    def output_tokens(self) -> Interval | None:
        """Tokens of the replies."""
        return sum_of(quote.output_tokens for quote in self.steps)

    @property
    def tokens(self) -> Interval | None:
        """Tokens of prompts and replies together."""
        return sum_of(quote.tokens for quote in self.steps)

    @property
    def cost_usd(self) -> Interval | None:
        """Money in USD; None when the price of some model is unknown."""
        return sum_of(quote.cost_usd for quote in self.steps)

    @property
    def seconds(self) -> Interval | None:
        """How long the run takes, with all steps at work at the same time."""
        return self._data.seconds

    @property
    def notes(self) -> tuple[str, ...]:
        """What else is to be known: what the Sample cost, what is missing for a figure."""
        return self._data.notes

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each step: step, model, cached, and low, expected and high of every figure."""
        import pandas as pd

        return pd.DataFrame([_record(quote) for quote in self.steps], columns=_COLUMNS).set_index("step")

    def __repr__(self) -> str:
        return estimate_bundle(self._data)["text/plain"]

    def _repr_html_(self) -> str:
        return estimate_bundle(self._data)["text/html"]


_FIGURES = ("requests", "input_tokens", "output_tokens", "cost_usd", "seconds")
_ENDS = ("low", "expected", "high")
_COLUMNS = ["step", "model", "cached", *(f"{figure}_{end}" for figure in _FIGURES for end in _ENDS)]


def _record(quote: StepQuote) -> dict[str, Any]:
    record: dict[str, Any] = {"step": quote.name, "model": quote.model, "cached": quote.cached}
    for figure in _FIGURES:
        interval = getattr(quote, figure)
        for index, end in enumerate(_ENDS):
            record[f"{figure}_{end}"] = None if interval is None else float(interval[index])
    return record


def make_estimate(
    pipeline: str, graph: Graph, rows: int | None, n_sample: int, *, ask: bool, keeps: bool = True
) -> Estimate:
    """Check a graph and quote what a run of it would ask; `rows` limits each source, as in a start.

    With `ask` the Sample of `n_sample` rows is previewed first, as far as the cache does not hold its replies. Unless
    it `keeps` it, a Sample that was not pinned before is not pinned now.
    """
    check_limit("rows", rows)
    if n_sample < 1:
        raise InputError(f"A sample of {n_sample} rows was asked for.", "Give a number above 0.")
    check_graph(graph)
    sources = sources_of(graph)
    samples = {
        name: pinned_sample(pipeline, source, n_sample, keeps=keeps) for name, source in sources.items()
    }
    to_run = {name: RowsToRun(*draw_rows(source, rows)) for name, source in sources.items()}
    return estimate_of(pipeline, graph, samples, to_run, ask=ask)


def sources_of(graph: Graph) -> dict[str, GeneratorStep]:
    """Return the sources of a graph by name."""
    return {name: step for name, step in graph.steps.items() if isinstance(step, GeneratorStep)}


def estimate_of(
    pipeline: str,
    graph: Graph,
    samples: Mapping[str, Batch],
    to_run: Mapping[str, RowsToRun],
    *,
    ask: bool,
    patience_s: float | None = None,
    note: str = "",
) -> Estimate:
    """Quote a run of a graph by a Sample and rows of each source.

    A step that takes longer than `patience_s` on these rows, by default `PATIENCE_S`, runs on the Sample alone. The
    `note` says how the rows were come by, where they were not drawn by chance.
    """
    sampled = {result.name: result for result in preview_graph(graph, samples, asks=ask)}
    n_rows = sum(taken.n_rows for taken in to_run.values())
    n_looked = sum(len(taken.batch) for taken in to_run.values())
    slow = _too_slow(graph, sampled, n_looked, PATIENCE_S if patience_s is None else patience_s)
    outlooks = foresee(graph, sampled, to_run, too_slow=slow)
    quotes, works = [], []
    for name, outlook in outlooks.items():
        llm = graph.steps[name].llm  # type: ignore[attr-defined]  # a task, which `foresee` chose
        quote, of_models = quote_task(name, llm, outlook, reply_seconds)
        quotes.append(quote)
        works += of_models
    busy_s = {name: _seconds_each(sampled[name]) * n_rows for name in sampled if name not in outlooks}
    notes = _notes(sampled, quotes, outlooks, slow)
    data = EstimateData(
        pipeline,
        n_rows,
        tuple(quotes),
        run_seconds(works, busy_s),
        tuple([*notes, note] if note else [*notes, *_drawn(to_run)]),
        any(is_rehearsed(step) for step in graph.steps.values()),
    )
    return Estimate(data)


def _too_slow(graph: Graph, sampled: Mapping[str, StepResult], n_rows: int, patience_s: float) -> list[str]:
    """Return the steps that would take too long on so many rows, going by the Sample."""
    return [
        name
        for name, step in graph.steps.items()
        if not isinstance(step, (Task, GeneratorStep)) and _seconds_each(sampled[name]) * n_rows > patience_s
    ]


def _seconds_each(result: StepResult) -> float:
    return result.seconds / len(result.incoming) if len(result.incoming) else 0.0


# --- remarks ------------------------------------------------------------------


def _notes(
    sampled: Mapping[str, StepResult],
    quotes: Sequence[StepQuote],
    outlooks: Mapping[str, Outlook],
    slow: Sequence[str],
) -> list[str]:
    from distilnb.view.figures import money, plural

    notes = []
    n_asked = int(sum(result.counts.get("asked", 0) for result in sampled.values()))
    if n_asked:
        is_priced = all(result.is_priced for result in sampled.values())
        cost = sum(result.counts.get("cost_usd", 0.0) for result in sampled.values())
        paid = money(cost if is_priced else None, is_free=True)
        notes.append(f"the Sample was previewed for this: asked {plural(n_asked, 'request')}, {paid}")
    blind = [name for name, outlook in outlooks.items() if not outlook.answered]
    if blind:
        known = any(result.missing for result in sampled.values())
        fix = "preview the pipeline first, or let the estimate ask" if known else "preview more rows"
        notes.append(f"no reply of {', '.join(blind)} is known: {fix}")
    unpriced = list(dict.fromkeys(quote.model for quote in quotes if not quote.has_price))
    if unpriced:
        how = "give price=(USD per million tokens in, out), or list it in prices.yaml"
        notes.append(f"the price of {', '.join(unpriced)} is unknown: {how}")
    parked = [quote.name for quote in quotes if quote.is_offline and quote.seconds is None]
    if parked:
        notes.append(
            f"{', '.join(parked)} {'goes' if len(parked) == 1 else 'go'} by offline batch, at the price of those: "
            "each job is done within a day, and its time is not foreseen"
        )
    known_late = {*blind, *parked}
    untimed = [quote.name for quote in quotes if quote.seconds is None and quote.name not in known_late]
    if untimed:
        notes.append(
            f"no request of {', '.join(untimed)} was sent since this process began: its time is unknown"
        )
    if slow:
        notes.append(f"{', '.join(slow)} would be slow on all rows and ran on the Sample alone")
    return notes


def _drawn(to_run: Mapping[str, RowsToRun]) -> list[str]:
    from distilnb.view.figures import count

    return [
        f"of {name}, {count(len(taken.batch))} rows drawn by chance stand for {count(taken.n_rows)}"
        for name, taken in to_run.items()
        if len(taken.batch) < taken.n_rows
    ]

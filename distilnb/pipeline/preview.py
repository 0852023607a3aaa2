"""What `p.preview()` and `p["step"]` return: views on a few rows, priced and shown before the full run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from distilnb.engine.asked import cost_usd
from distilnb.engine.launch import is_rehearsed
from distilnb.engine.preview import StepResult, preview_graph
from distilnb.engine.rendering import render
from distilnb.engine.sample import find_row, pinned_sample
from distilnb.engine.standing import note
from distilnb.errors import InputError, SpecError, UnknownStepError, did_you_mean
from distilnb.export.frames import frame_of
from distilnb.llms.images import shown
from distilnb.llms.request import Message
from distilnb.pipeline.below import told_below
from distilnb.pipeline.timing import Timed
from distilnb.pipeline.version_list import Versions, find_versions
from distilnb.pipeline.versions import note_preview, number_all, tasks_of
from distilnb.rows import Batch, Row, root_id
from distilnb.spec.check import check_graph
from distilnb.spec.graph import Graph
from distilnb.spec.parameters import with_parameters
from distilnb.spec.step import GeneratorStep, Step
from distilnb.tasks.base import Task
from distilnb.view.preview import Failure, PreviewData, RowUse, StepPreview, preview_bundle, preview_live

if TYPE_CHECKING:
    import pandas as pd


class Preview:
    """The steps of a pipeline on the pinned sample: `preview["judge"]` is one step, the repr shows all."""

    def __init__(
        self,
        pipeline: str,
        graph: Graph,
        results: Sequence[StepResult],
        sample: dict[str, Batch],
        versions: Mapping[str, int] | None = None,
        below: str = "",
    ) -> None:
        self._pipeline = pipeline
        self._graph = graph
        self.below = below  # what the steps below the one previewed will ask of its rows, in words
        self._results = {result.name: result for result in results}
        self._sample = sample
        self._versions = versions or {}

    @property
    def steps(self) -> list[str]:
        """The names of the steps in their order."""
        return list(self._results)

    def __getitem__(self, step: str) -> Preview:
        """Return the preview of one step; raises UnknownStepError with the near match."""
        if step not in self._results:
            raise UnknownStepError(
                f"There is no step {step!r} in this preview; it has {self.steps}.",
                did_you_mean(step, self.steps),
            )
        return Preview(
            self._pipeline, self._graph, [self._results[step]], self._sample, self._versions, self.below
        )

    def _ipython_key_completions_(self) -> list[str]:
        return self.steps

    @property
    def rows(self) -> list[Row]:
        """The rows that leave the last step shown."""
        return list(self._last.outgoing.rows)

    def to_pandas(self) -> pd.DataFrame:
        """Return the rows that leave the last step shown; the index is the row id."""
        return frame_of(self._last.outgoing)

    def errors(self) -> pd.DataFrame:
        """Return the rows that failed: row_id, step, kind, reason, prompt, reply, traceback."""
        import pandas as pd

        columns = ["row_id", "step", "kind", "reason", "prompt", "reply", "traceback", "is_partial"]
        found = [
            {column: getattr(failure, column) for column in columns}
            for result in self._results.values()
            for failure in result.failures
        ]
        return pd.DataFrame(found, columns=columns)

    @property
    def asked(self) -> int:
        """Requests that were sent."""
        return int(sum(result.counts.get("asked", 0) for result in self._results.values()))

    @property
    def reused(self) -> int:
        """Requests that the reply cache answered."""
        return int(sum(result.counts.get("cached", 0) for result in self._results.values()))

    @property
    def reasked(self) -> int:
        """Requests, of those asked, for a reply in place of one that did not have the shape asked for."""
        return int(sum(result.counts.get("reasked", 0) for result in self._results.values()))

    @property
    def _last(self) -> StepResult:
        if not self._results:
            raise SpecError("The preview shows no step.")
        return list(self._results.values())[-1]

    def data(self) -> PreviewData:
        """Return what a view draws."""
        size = max((len(batch) for batch in self._sample.values()), default=0)
        ordinals = {
            row_id: order[0]
            for batch in self._sample.values()
            for row_id, order in zip(batch.ids, batch.orders, strict=True)
        }
        steps = tuple(
            replace(describe(self._graph, result, ordinals), version=self._versions.get(result.name))
            for result in self._results.values()
        )
        return PreviewData(self._pipeline, steps, size, self.below)

    def __repr__(self) -> str:
        return preview_bundle(self.data())["text/plain"]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return dict(preview_bundle(self.data()))


def run_preview(
    pipeline: str,
    graph: Graph,
    n_rows: int | None,
    *,
    show: bool,
    is_whole: bool = True,
    below: Callable[[Mapping[str, Batch]], str] | None = None,
) -> Preview:
    """Check a graph and run it on `n_rows` pinned rows (None: all), showing each step as it comes when asked to.

    `below` tells at the end, of the pinned rows, what steps that are not in the graph will ask.
    """
    if n_rows is not None and n_rows < 1:
        raise InputError(f"A preview of {n_rows} rows was asked for.", "Give a number above 0.")
    check_graph(graph, is_whole=is_whole)
    samples = {
        name: pinned_sample(pipeline, source, n_rows)
        for name, source in graph.steps.items()
        if isinstance(source, GeneratorStep)
    }
    versions = note_preview(pipeline, graph)
    timed = Timed(pipeline, graph, versions)
    results: list[StepResult] = []
    with preview_live(keeps=False) if show else _nothing_shown() as update:

        def on_row(current: StepResult) -> None:
            update(Preview(pipeline, graph, [*results, current], samples, versions).data())

        for result in preview_graph(graph, samples, on_row=on_row if show else None):
            results.append(result)
            timed.note(result)
            if show:
                update(Preview(pipeline, graph, results, samples, versions).data())
    note(pipeline, graph, results)
    return Preview(pipeline, graph, results, samples, versions, below(samples) if below else "")


@contextmanager
def _nothing_shown() -> Iterator[Any]:
    yield lambda _: None


def describe(graph: Graph, result: StepResult, sampled: Mapping[str, int]) -> StepPreview:
    """Return a step's result as a view draws it; rows go by their ordinal in the source, where they have one."""
    step = graph.steps[result.name]

    def ordinal(row_id: str, order: Sequence[int]) -> int:
        return sampled.get(root_id(row_id), order[0])

    ordinals = {
        row_id: ordinal(row_id, order)
        for row_id, order in zip(result.incoming.ids, result.incoming.orders, strict=True)
    }
    failed = [failure for failure in result.failures if not failure.is_partial]
    uses = {ordinals[row_id]: use for row_id, use in _uses(step, result).items()}
    saved = [use.saved_usd for use in uses.values()]
    return StepPreview(
        name=result.name,
        kind=result.kind,
        rows_in=len(result.incoming),
        rows_out=len(result.outgoing),
        columns_made=step.made(),
        rows=result.outgoing.rows,
        ordinals=[
            ordinal(row_id, order)
            for row_id, order in zip(result.outgoing.ids, result.outgoing.orders, strict=True)
        ],
        failures=[
            Failure(
                ordinals.get(failure.row_id, -1),
                failure.reason,
                result.messages.get(failure.row_id, ()),
                failure.reply,
            )
            for failure in failed
        ],
        partial={ordinals.get(f.row_id, -1): f.reason for f in result.failures if f.is_partial},
        asked=int(result.counts.get("asked", 0)),
        reused=int(result.counts.get("cached", 0)),
        reasked=int(result.counts.get("reasked", 0)),
        stood_in=int(result.counts.get("stood_in", 0)),
        why_stood_in=result.why_stood_in,
        cost_usd=result.counts.get("cost_usd", 0.0) if result.is_priced else None,
        guessed=int(result.counts.get("guessed", 0)),
        saved_usd=None if None in saved else sum(amount or 0.0 for amount in saved),
        uses=uses,
        seconds=result.seconds,
        prompts={ordinals[row_id]: messages for row_id, messages in result.messages.items()},
        replies={
            ordinals[row_id]: [reply.text or "" for reply in replies]
            for row_id, replies in result.replies.items()
        },
        is_rehearsed=is_rehearsed(step),
        dropped=result.drop_reasons,
        after=graph.predecessors(result.name),
        reads=step.needed(),
        waiting=max(0, len(result.incoming) - len(result.outgoing) - len(failed))
        if isinstance(step, Task)
        else 0,
        words=result.words,
    )


def _uses(step: Step, result: StepResult) -> dict[str, RowUse]:
    """Return for each row, by its id, where its replies are from."""
    if not isinstance(step, Task) or step.llm is None:
        return {}
    found = {}
    for row_id, replies in result.brought.items():
        pairs = [*zip(replies, result.brought_by[row_id], strict=True)]
        parts = [[pair for pair in pairs if pair[0].is_cached is is_cached] for is_cached in (False, True)]
        if replies:
            has_price = cost_usd(replies, result.brought_by[row_id]) is not None
            costs = [
                cost_usd([reply for reply, _ in part], [ask for _, ask in part]) if has_price else None
                for part in parts
            ]
            found[row_id] = RowUse(len(parts[0]), len(parts[1]), *costs)
    return found


class StepView:
    """One step of a pipeline: the prompt that it would send for a row, and its preview."""

    def __init__(self, pipeline: str, graph: Graph, name: str) -> None:
        self._pipeline = pipeline
        self._graph = graph
        self.name = name

    @property
    def step(self) -> Step:
        """The step itself."""
        return self._graph.steps[self.name]

    @property
    def version(self) -> int:
        """The number of the version of its prompt; raises SpecError for a step that asks no model."""
        tasks_of(self._graph, self.name)
        return number_all(self._pipeline, self._graph)[self.name]

    @property
    def versions(self) -> Versions:
        """The versions of its prompt, as far as they were seen: what each changed, who saw it, what it came to."""
        return find_versions(self._pipeline, self._graph, self.name)

    def preview(
        self, n: int | None = None, *, parameters: Mapping[str, Any] | None = None, show: bool = False
    ) -> Preview:
        """Run the pipeline up to this step on n pinned rows (all that are pinned) and return this step's preview."""
        whole = with_parameters(self._graph, parameters)
        graph = whole.keeping(self._up_to_here().steps)
        return run_preview(
            self._pipeline, graph, n, show=show, is_whole=False, below=partial(told_below, whole, self.name)
        )[self.name]

    def prompt(self, row: int | str | Row | None = None) -> Prompt:
        """Return the messages that the step would send for a row, without sending them.

        `row` is an ordinal or an id of a sample row, or a dict; the first sample row when it is left out. Steps
        before this one run on the sample, so that what they ask is asked (or reused).
        """
        step = self.step
        if not isinstance(step, Task):
            raise SpecError(f"Step {self.name!r} ({step.kind()}) asks no model, so it has no prompt.")
        return Prompt(render(step, row if isinstance(row, dict) else self._arriving(row)).messages)

    def _arriving(self, wanted: int | str | None) -> Row:
        """Return the row that arrives at this step."""
        graph = self._graph.keeping(self._graph.ancestors(self.name))
        samples = {
            name: self._sample_with(name, source, wanted)
            for name, source in graph.steps.items()
            if isinstance(source, GeneratorStep)
        }
        before = self._graph.predecessors(self.name)[0]
        batch = next(r for r in preview_graph(graph, samples) if r.name == before).outgoing.taken_by(
            self.name
        )
        for row, row_id, order in zip(batch.rows, batch.ids, batch.orders, strict=True):
            if wanted is None or wanted in (order[0], row_id):
                return row
        raise SpecError(
            f"Row {wanted!r} does not arrive at step {self.name!r}; there are {[order[0] for order in batch.orders]}.",
            "Give the ordinal or the id of a row of the source, or a dict.",
        )

    def _sample_with(self, name: str, source: GeneratorStep, wanted: int | str | None) -> Batch:
        if wanted is None:
            return pinned_sample(self._pipeline, source)
        return find_row(source, wanted)

    def _up_to_here(self) -> Graph:
        return self._graph.keeping({self.name, *self._graph.ancestors(self.name)})

    def __repr__(self) -> str:
        step = self.step
        types = step.types_made()
        made = ", ".join(f"{name} ({types[name]})" if name in types else name for name in step.made())
        return f"{self.name} ({step.kind()}) reads {', '.join(step.needed()) or 'nothing'}, makes {made}"


class Prompt(tuple[Message, ...]):
    """Messages as they are sent; reads as text."""

    def __repr__(self) -> str:
        return "\n\n".join(f"{message['role']}:\n{shown(message['content'])}" for message in self)

"""What `p["answer"].versions` returns: every version of a step's prompt, and what is known of each."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from distilnb.engine.history import Seen, history_of
from distilnb.engine.sample import kept_sample
from distilnb.pipeline.measure import Measured, measure
from distilnb.pipeline.versions import (
    Reference,
    known_versions,
    models_of,
    number_all,
    tasks_of,
    with_version,
)
from distilnb.rows import Batch
from distilnb.spec.graph import Graph
from distilnb.spec.step import GeneratorStep
from distilnb.view.diff import Figures
from distilnb.view.versions import VersionLine, versions_bundle

if TYPE_CHECKING:
    import pandas as pd


class VersionInfo(NamedTuple):
    """One version: how it is named, when (seconds since the epoch) it was first seen, its prompt as text, who saw it.

    `figures` are of the pinned rows whose replies are known, by the models that the step has now.
    """

    name: str
    number: int
    at: float
    prompt: str
    previews: int
    runs: int
    figures: Figures
    is_current: bool


class Versions(Sequence[VersionInfo]):
    """The versions of a step's prompt, in their order; the repr shows what each changed."""

    def __init__(self, pipeline: str, step: str, versions: Sequence[VersionInfo]) -> None:
        self._pipeline = pipeline
        self._step = step
        self._versions = tuple(versions)

    @overload
    def __getitem__(self, index: int) -> VersionInfo: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[VersionInfo]: ...
    def __getitem__(self, index: int | slice) -> VersionInfo | Sequence[VersionInfo]:
        return self._versions[index]

    def __len__(self) -> int:
        return len(self._versions)

    def __iter__(self) -> Iterator[VersionInfo]:
        return iter(self._versions)

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each version; the index is its name."""
        import pandas as pd

        records = [
            {**one._asdict(), **vars(one.figures), "at": pd.Timestamp(one.at, unit="s", tz="UTC")}
            for one in self
        ]
        return pd.DataFrame(records).drop(columns=["figures"]).set_index("name")

    def __repr__(self) -> str:
        return self._bundle()["text/plain"]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return self._bundle()

    def _bundle(self) -> dict[str, str]:
        lines = [
            VersionLine(one.number, one.at, one.prompt, one.previews, one.runs, one.is_current, one.figures)
            for one in self
        ]
        return dict(versions_bundle(self._pipeline, self._step, lines))


def find_versions(pipeline: str, graph: Graph, step: str) -> Versions:
    """Return the versions of a step's prompt, the current one among them; nothing is asked.

    Raises SpecError for a step that asks no model.
    """
    tasks_of(graph, step)
    current = number_all(pipeline, graph)[step]
    seen = history_of(pipeline).seen(step)
    samples = {
        name: kept_sample(pipeline, source)
        for name, source in graph.steps.items()
        if isinstance(source, GeneratorStep)
    }
    found = []
    for version in known_versions(pipeline, step):
        reference = Reference(step, version.number)
        by = seen.get(version.number, Seen())
        found.append(
            VersionInfo(
                str(reference),
                version.number,
                version.at,
                version.wording.text,
                by.previews,
                by.runs,
                _known_figures(
                    pipeline,
                    graph,
                    reference,
                    samples,
                    tasks_of(graph, step)[0].kind() == version.wording.kind,
                ),
                version.number == current,
            )
        )
    return Versions(pipeline, step, found)


def _known_figures(
    pipeline: str, graph: Graph, reference: Reference, samples: Mapping[str, Batch], is_of_kind: bool
) -> Figures:
    """Return what the reply cache tells of a version on the pinned rows; nothing where it cannot be rendered."""
    if not is_of_kind or not all(len(batch) for batch in samples.values()):
        return Figures()
    worded = with_version(pipeline, graph, reference)
    return figures_of(pipeline, worded, reference, measure(worded, reference.step, samples, asks=False))


def figures_of(
    pipeline: str,
    graph: Graph,
    reference: Reference,
    measured: Measured,
    *,
    answered: Collection[str] | None = None,
    rated: Collection[str] | None = None,
) -> Figures:
    """Return what the replies of a version came to; `seconds` is the median of the requests that were timed.

    Tokens and cost are those of the rows `answered`, the rating is that of the rows `rated`; all that there are when
    left out.
    """
    answered = measured.replies if answered is None else answered
    rated = measured.ratings if rated is None else rated
    used = measured.used(answered)
    models = list(models_of(graph, reference.step))
    times = sorted(history_of(pipeline).seconds(reference.step, reference.number or 0, models))
    return Figures(
        n_rows=len(answered),
        n_failed=len(measured.failures) - measured.n_missing,
        n_cut_off=len(measured.cut_off),
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cost_usd=used.cost_usd,
        seconds=times[len(times) // 2] if times else None,
        rating=measured.rating(rated),
        n_rated=len(rated),
    )

"""What `p.diff("answer@1", "answer@3")` returns: two versions of a prompt on the same pinned rows, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from distilnb.engine.launch import is_rehearsed
from distilnb.errors import InputError
from distilnb.pipeline.measure import Measured, Quote, measure
from distilnb.pipeline.odds import verdict
from distilnb.pipeline.timing import Timed
from distilnb.pipeline.version_list import figures_of
from distilnb.pipeline.versions import (
    Reference,
    number_all,
    number_tasks,
    read_reference,
    tasks_of,
    with_version,
)
from distilnb.rows import Batch
from distilnb.spec.graph import Graph
from distilnb.tasks.wording import wording_of
from distilnb.view.diff import DiffData, DiffRow, Side, TextPair, diff_bundle

if TYPE_CHECKING:
    import pandas as pd


class Diff:
    """Two versions of a step's prompt on the same rows; the repr shows them side by side.

    `left` and `right` are their names; `quote` is what is not asked yet, where nothing was to be asked.
    """

    def __init__(
        self,
        data: DiffData,
        measured: tuple[Measured, Measured],
        quote: Quote,
        n_judged: tuple[int, int, int],
    ) -> None:
        self._data = data
        self._measured = measured
        self.quote = quote
        self._judged = n_judged

    @property
    def left(self) -> str:
        """The name of the first version."""
        return self._data.left.name

    @property
    def right(self) -> str:
        """The name of the second version."""
        return self._data.right.name

    @property
    def asked(self) -> int:
        """Requests that were sent for it, retries of failed ones among them."""
        return sum(one.asked for one in self._measured)

    @property
    def reused(self) -> int:
        """Requests that the reply cache answered."""
        return sum(one.reused for one in self._measured)

    @property
    def judged(self) -> tuple[int, int, int]:
        """In how many rows the second version was rated better, worse, and equal."""
        return self._judged

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each text: row, row_id, column, the text of either version, and their ratings."""
        import pandas as pd

        records = []
        for row in self._data.rows:
            for pair in row.pairs:
                record: dict[str, Any] = {"row": row.ordinal, "row_id": row.row_id, "column": pair.name}
                record |= {self.left: pair.left, self.right: pair.right}
                record |= {"left_rating": row.left_rating, "right_rating": row.right_rating}
                records.append(record)
        columns = ["row", "row_id", "column", self.left, self.right, "left_rating", "right_rating"]
        return pd.DataFrame(records, columns=columns)

    def __repr__(self) -> str:
        return diff_bundle(self._data)["text/plain"]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return dict(diff_bundle(self._data))


class Pair(NamedTuple):
    """Two versions of one step."""

    left: Reference
    right: Reference


def read_pair(pipeline: str, graph: Graph, left: str, right: str | None) -> Pair:
    """Return the versions that are meant; without a second one the first is compared with the current one.

    Raises InputError when these are versions of two steps, or one and the same.
    """
    one = read_reference(left, graph)
    other = read_reference(right, graph) if right else Reference(one.step)
    if one.step != other.step:
        raise InputError(
            f"{left!r} and {right!r} are versions of two steps.",
            f"Name two versions of one: {one.step}@1 and {one.step}@2.",
        )
    tasks_of(graph, one.step)
    current = number_all(pipeline, graph)[one.step]
    pair = Pair(*(Reference(ref.step, ref.number or current) for ref in (one, other)))
    if pair.left == pair.right:
        raise InputError(
            f"Both versions are {pair.left}.", f"Name another: p[{one.step!r}].versions lists them."
        )
    return pair


def make_diff(
    pipeline: str, graph: Graph, pair: Pair, samples: Mapping[str, Batch], *, ask: bool, judge: bool
) -> Diff:
    """Compare two versions on these rows; what the reply cache does not hold is asked, if it may be."""
    step = pair.left.step
    graphs = [with_version(pipeline, graph, reference) for reference in pair]
    left, right = (
        measure(
            one,
            step,
            samples,
            asks=ask,
            judges=judge,
            timed=Timed(pipeline, one, number_tasks(pipeline, one)),
        )
        for one in graphs
    )
    # A version that fails on more rows would look cheaper, and one whose weak rows nobody rated better.
    answered = left.answered & right.answered
    both = [row_id for row_id in left.ratings if row_id in right.ratings]
    sides = tuple(
        Side(
            str(reference),
            wording_of(tasks_of(one, step)[0]).text,
            figures_of(pipeline, one, reference, measured, answered=answered, rated=both),
        )
        for one, reference, measured in zip(graphs, pair, (left, right), strict=True)
    )
    wins = sum(right.ratings[row_id] > left.ratings[row_id] for row_id in both)
    losses = sum(right.ratings[row_id] < left.ratings[row_id] for row_id in both)
    ties = len(both) - wins - losses
    data = DiffData(
        pipeline=pipeline,
        left=sides[0],
        right=sides[1],
        rows=tuple(_rows(left, right)),
        verdict=verdict(wins, losses, ties) if both else "",
        asked=left.asked + right.asked,
        retries=left.retries + right.retries,
        reused=left.reused + right.reused,
        cost_usd=None if left.cost_usd is None or right.cost_usd is None else left.cost_usd + right.cost_usd,
        n_missing=left.n_missing + right.n_missing,
        is_rehearsed=any(is_rehearsed(task) for task in tasks_of(graph, step)),
    )
    return Diff(data, (left, right), left.quote.plus(right.quote), (wins, losses, ties))


def _rows(left: Measured, right: Measured) -> list[DiffRow]:
    rows = []
    incoming = left.incoming
    for row, row_id, order in zip(incoming.rows, incoming.ids, incoming.orders, strict=True):
        texts = left.texts.get(row_id, {}), right.texts.get(row_id, {})
        names = dict.fromkeys([*texts[0], *texts[1]])
        pairs = tuple(TextPair(name, texts[0].get(name), texts[1].get(name)) for name in names)
        rows.append(
            DiffRow(
                ordinal=order[0],
                row_id=row_id,
                came_in=row,
                pairs=pairs,
                left_failure=left.failures.get(row_id, ""),
                right_failure=right.failures.get(row_id, ""),
                left_rating=left.ratings.get(row_id),
                right_rating=right.ratings.get(row_id),
            )
        )
    return rows

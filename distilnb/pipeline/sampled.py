"""What `p.sample` is: the pinned rows that all previews use, grown into a set that later versions are checked on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distilnb.engine.sample import add_rows, drop_rows, pinned_sample
from distilnb.errors import InputError
from distilnb.pipeline.checking import Check, accept, make_check
from distilnb.rows import Batch
from distilnb.spec.graph import Graph
from distilnb.spec.step import GeneratorStep
from distilnb.view.figures import plural
from distilnb.view.table import rows_table
from distilnb.view.text import one_line

if TYPE_CHECKING:
    import pandas as pd


class PinnedSample:
    """The Sample of a pipeline: rows that are pinned by their id and kept as copies. The repr shows them.

    Reordered or appended data moves none of them. Of several sources each has its own; rows are named by their number
    in the source, or by their id.
    """

    def __init__(self, pipeline: str, graph: Graph) -> None:
        self._pipeline = pipeline
        self._graph = graph

    def add(self, *rows: int | str, source: str = "") -> PinnedSample:
        """Pin further rows: `p.sample.add(17, 203)`. They stay when they are gone from the source.

        Raises InputError for a row that the source does not have.
        """
        add_rows(self._pipeline, self._source(rows, source), rows)
        return self

    def drop(self, *rows: int | str, source: str = "") -> PinnedSample:
        """Take rows out of the Sample. Raises InputError for one that is not pinned, and when none would be left."""
        drop_rows(self._pipeline, self._source(rows, source), rows)
        return self

    def check(self, *, ask: bool = True) -> Check:
        """Run the pipeline on the pinned rows and report what got worse since it was accepted.

        Worse is a row that fails, is left out or in part, is cut off at the token limit, or is rated lower. What was
        not answered yet is asked; with `ask=False` nothing is, and the result's `quote` tells what it would take.
        """
        return make_check(self._pipeline, self._graph, self._batches(), ask=ask)

    def accept(self) -> Check:
        """Run the pipeline on the pinned rows, and measure later versions by what it makes now."""
        return accept(self._pipeline, self._graph, self._batches())

    def to_pandas(self) -> pd.DataFrame:
        """Return the pinned rows: their columns, and `row`, the number in the source; the index is the row id."""
        import pandas as pd

        batches = self._batches().values()
        records = [
            {"row": order[0], **row}
            for batch in batches
            for row, order in zip(batch.rows, batch.orders, strict=True)
        ]
        ids = [row_id for batch in batches for row_id in batch.ids]
        return pd.DataFrame(records, index=pd.Index(ids, name="row_id"))

    def __len__(self) -> int:
        return sum(len(batch) for batch in self._batches().values())

    def __repr__(self) -> str:
        return self._bundle()["text/plain"]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return self._bundle()

    def _bundle(self) -> dict[str, str]:
        batches = self._batches().values()
        rows = [row for batch in batches for row in batch.rows]
        ordinals = [order[0] for batch in batches for order in batch.orders]
        table = rows_table(rows, ordinals=ordinals, max_rows=20)
        head = one_line(f"{self._pipeline} · Sample of {plural(len(rows), 'row')}", 200)
        return {"text/plain": f"{head}\n{table.text}", "text/html": table.html}

    def _batches(self) -> dict[str, Batch]:
        return {source.name: pinned_sample(self._pipeline, source) for source in self._sources()}

    def _sources(self) -> list[GeneratorStep]:
        return [step for step in self._graph.steps.values() if isinstance(step, GeneratorStep)]

    def _source(self, rows: Sequence[int | str], name: str) -> GeneratorStep:
        """Return the source that rows are of: the one named, the only one, or that of their ids."""
        sources = {source.name: source for source in self._sources()}
        begun = {row.partition(":")[0] for row in rows if isinstance(row, str)}
        chosen = name or (next(iter(begun)) if len(begun) == 1 else "")
        if len(sources) == 1 and not name:
            return next(iter(sources.values()))
        if chosen not in sources:
            raise InputError(f"The pipeline has the sources {list(sources)}.", "Say which one: source=...")
        return sources[chosen]

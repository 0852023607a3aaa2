"""Of several generations the one to keep."""

from __future__ import annotations

from distilnb.errors import StepRowError
from distilnb.rows import Row
from distilnb.spec.step import ColumnNames, DropRow, Step, StepInput, StepOutput


class BestGeneration(Step):
    """Take the best rated of several generations; the first one where none was rated.

    Inputs:  generations (list of str, length k); ratings (list of float, length k; optional, None where a
             generation was not rated); generation_models (list of str, length k; optional).
    Outputs: generation (str); generation_model (str; None without generation_models).
    Errors:  StepRowError when a list is none, or of another length. A row without a generation is left out,
             with that reason.
    Source:  ours.

    >>> [[row]] = BestGeneration().process([{"generations": ["a", "b"], "ratings": [2, 5]}])
    >>> row["generation"]
    'b'
    """

    @property
    def inputs(self) -> ColumnNames:
        return {"generations": True, "ratings": False, "generation_models": False}

    @property
    def outputs(self) -> ColumnNames:
        return ["generation", "generation_model"]

    def process(self, rows: StepInput) -> StepOutput:  # type: ignore[override]  # a join takes several
        yield [self._picked(row) for row in rows]

    def _picked(self, row: Row) -> Row:
        generations = row.get("generations")
        if not isinstance(generations, list):
            raise StepRowError(f"Column 'generations' holds a {type(generations).__name__!r}, not a list.")
        ratings = row.get("ratings") or [None] * len(generations)
        models = row.get("generation_models") or [None] * len(generations)
        if not len(generations) == len(ratings) == len(models):
            raise StepRowError(
                f"There are {len(generations)} generations, {len(ratings)} ratings and {len(models)} models.",
                "All three lists need one length.",
            )
        usable = [index for index, generation in enumerate(generations) if generation is not None]
        if not usable:
            raise DropRow("no generation")
        rated = [index for index in usable if ratings[index] is not None]
        best = max(rated, key=lambda index: ratings[index]) if rated else usable[0]
        return {**row, "generation": generations[best], "generation_model": models[best]}

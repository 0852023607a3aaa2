"""Steps that leave rows out: by a condition, or all but the first few."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from distilnb.rows import ColumnLists
from distilnb.spec.columns import Columns
from distilnb.spec.signature import check_reads, signature_of
from distilnb.spec.step import ColumnNames, GlobalStep, MadeColumns, Moved, Step, StepInput, StepOutput
from distilnb.spec.template import compile_expression
from distilnb.steps.condition import Condition, columns_read, test_of


class FilterRows(Step):
    """Keep the rows for which a condition holds.

    `condition` is an expression over columns (`chosen_rating >= 4 and topic != "code"`; Jinja's syntax; the
    name `row` stands for the whole row) or a function whose parameters are columns (`row`: the whole row).

    Inputs:  the columns that the condition names.
    Outputs: none; rows that are kept are the same objects, unchanged.
    Errors:  TemplateError when the expression cannot be read; MissingValueError when it needs a value that is
             None or absent; StepRowError when the values do not fit (text against a number).
    Source:  ours.

    >>> [*FilterRows(condition="stars >= 4").process([{"stars": 5}, {"stars": 3}])]
    [[{'stars': 5}]]
    >>> [*FilterRows(condition=lambda text: len(text) < 4).process([{"text": "short"}, {"text": "no"}])]
    [[{'text': 'no'}]]
    """

    condition: Condition

    @property
    def inputs(self) -> ColumnNames:
        return columns_read(self.condition)

    def check_inputs(self, upstream: Sequence[Columns]) -> None:
        if isinstance(self.condition, str):
            super().check_inputs(upstream)
            return
        for columns in upstream:
            check_reads(self.name, self.needed(), columns)

    def process(self, rows: StepInput) -> StepOutput:  # type: ignore[override]  # a join takes several
        holds = test_of(self.condition)
        yield [row for row in rows if holds(row)]

    def process_columns(self, columns: ColumnLists, n_rows: int, moved: Moved) -> MadeColumns | None:
        if isinstance(self.condition, str):
            holds = compile_expression(self.condition).quick_columns
            return None if holds is None else MadeColumns(columns, keep=holds(columns))
        results = signature_of(self.condition.live).map(self.condition.live, columns, moved)
        return None if results is None else MadeColumns(columns, keep=list(map(bool, results)))


class TakeRows(GlobalStep):
    """Keep the first `n` rows, in the order of the source.

    Inputs:  none in particular.
    Outputs: none; rows that are kept are the same objects, unchanged.
    Errors:  none; where there are fewer rows, all are kept.
    Source:  ours.

    >>> [*TakeRows(n=1).process([{"id": 1}, {"id": 2}])]
    [[{'id': 1}]]
    """

    n: int = Field(ge=1)

    def process(self, rows: StepInput) -> StepOutput:  # type: ignore[override]  # a join takes several
        yield rows[: self.n]

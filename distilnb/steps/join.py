"""Steps where the rows of several branches meet; they come in aligned, one list a branch.

Of a row that was routed to some of the branches, only those are there. Their `how` says what becomes of a row that a
branch lost, because it failed or was left out there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from pydantic import Field

from distilnb.errors import SpecError
from distilnb.rows import Row
from distilnb.spec.columns import Columns
from distilnb.spec.step import ColumnNames, Step, StepInput, StepOutput
from distilnb.steps.columns import value_of

# inner: quarantined with the cause; left: kept with None for that branch, unless it is the first that the row took;
# outer: kept in any case, as long as one branch brings it.
How: TypeAlias = Literal["inner", "left", "outer"]


class GroupColumns(Step):
    """Group the same column of several branches into one list, in the order of the branches.

    Inputs:  `columns`, in each branch.
    Outputs: `output_columns` (list, one item a branch; by default `grouped_` and the name). With `flatten`, a
             list in a branch gives its items instead of itself. All other columns stay; where branches differ
             in one, the last branch's value is kept. A branch that lost a row which `how` ("inner", "left" or
             "outer") keeps gives None; one that the row was not routed to gives no item.
    Errors:  SpecError when `output_columns` is not as long as `columns`; MissingValueError when a row lacks a
             column; MissingPartnerError when a branch lost a row which `how` does not keep.
    Source:  the step of that name of distilabel; `flatten` is ours.

    >>> step = GroupColumns(columns=["generation"], output_columns=["generations"])
    >>> [*step.process([{"id": 1, "generation": "Yes."}], [{"id": 1, "generation": "No."}])]
    [[{'id': 1, 'generations': ['Yes.', 'No.']}]]
    """

    columns: list[str] = Field(min_length=1)
    output_columns: list[str] | None = None
    flatten: bool = False
    how: How = "inner"

    def model_post_init(self, context: Any, /) -> None:
        if self.output_columns is not None and len(self.output_columns) != len(self.columns):
            raise SpecError(
                f"GroupColumns groups {len(self.columns)} columns {self.columns} "
                f"into {len(self.output_columns)} {self.output_columns}.",
                "Name one output column for each column.",
            )
        super().model_post_init(context)

    @property
    def inputs(self) -> ColumnNames:
        return self.columns

    @property
    def outputs(self) -> ColumnNames:
        return self.output_columns or [f"grouped_{name}" for name in self.columns]

    def columns_after(self, upstream: Sequence[Columns]) -> Columns:
        return _all_columns(upstream).without(self.needed()).adding(self.made())

    def process(self, *inputs: StepInput) -> StepOutput:
        yield [self._grouped(rows) for rows in zip(*inputs, strict=True)]

    def _grouped(self, rows: tuple[Row | None, ...]) -> Row:
        grouped: dict[str, list[Any]] = {name: [] for name in self.columns}
        others: Row = {}
        for row in rows:
            for name, items in grouped.items():
                value = None if row is None else value_of(row, name)
                if self.flatten and isinstance(value, list):
                    items += value
                else:
                    items.append(value)
            others.update((name, value) for name, value in (row or {}).items() if name not in grouped)
        return {**others, **dict(zip(self.outputs, grouped.values(), strict=True))}


class CombineOutputs(Step):
    """Combine the rows of several branches: one row with the columns of all.

    Inputs:  none in particular.
    Outputs: every column of every branch; where branches differ in one, the last branch's value is kept. Columns
             of a branch that the row was not routed to, or that lost it while `how` ("inner", "left" or "outer")
             keeps it, are None.
    Errors:  MissingPartnerError when a branch lost a row which `how` does not keep.
    Source:  the step of that name of distilabel.

    >>> [*CombineOutputs().process([{"id": 1, "a": 2}], [{"id": 1, "b": 3}])]
    [[{'id': 1, 'a': 2, 'b': 3}]]
    """

    how: How = "inner"

    def columns_after(self, upstream: Sequence[Columns]) -> Columns:
        return _all_columns(upstream)

    def process(self, *inputs: StepInput) -> StepOutput:
        yield [_union(rows) for rows in zip(*inputs, strict=True)]


def _union(rows: tuple[Row | None, ...]) -> Row:
    union: Row = {}
    for row in rows:
        union.update(row or {})
    return union


def _all_columns(upstream: Sequence[Columns]) -> Columns:
    names = [name for columns in upstream for name in columns.names]
    return Columns.of(names, is_open=any(columns.is_open for columns in upstream))

"""Steps that choose, drop, rename, merge and expand columns; none of them asks a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BeforeValidator, Field, field_validator

from distilnb.errors import SpecError, StepRowError
from distilnb.rows import ColumnLists, Row
from distilnb.spec.columns import Columns
from distilnb.spec.step import ColumnNames, MadeColumns, Moved, Step, StepInput, StepOutput
from distilnb.spec.template import missing_value

T = TypeVar("T")


def value_of(row: Mapping[str, Any], column: str) -> Any:
    """Return a value of a row; raises MissingValueError with the near match when the column is absent."""
    try:
        return row[column]
    except KeyError:
        raise missing_value(column, row) from None


class KeepColumns(Step):
    """Keep some columns, in the order given, and drop the others.

    Inputs:  `columns`.
    Outputs: `columns`, in that order; values unchanged.
    Errors:  MissingValueError when a row lacks one of them (only where columns could not be checked before).
    Source:  the step of that name of distilabel.

    >>> [*KeepColumns(columns=["b", "a"]).process([{"a": 1, "b": 2, "c": 3}])]
    [[{'b': 2, 'a': 1}]]
    """

    columns: list[str]

    @property
    def inputs(self) -> ColumnNames:
        return self.columns

    @property
    def outputs(self) -> ColumnNames:
        return self.columns

    def columns_after(self, upstream: Sequence[Columns]) -> Columns:
        return Columns.of(self.made())

    def process(self, rows: StepInput) -> StepOutput:  # type: ignore[override]  # a join takes several
        columns = self.columns
        try:
            yield [{name: row[name] for name in columns} for row in rows]
        except KeyError:
            yield [{name: value_of(row, name) for name in columns} for row in rows]  # names the column

    def process_columns(self, columns: ColumnLists, n_rows: int, moved: Moved) -> MadeColumns:
        return MadeColumns({name: columns[name] for name in self.columns})


class DropColumns(Step):
    """Drop some columns and keep the others.

    Inputs:  `columns`.
    Outputs: none; all other columns stay.
    Errors:  none at a row: what is absent is dropped already.
    Source:  ours; the opposite of KeepColumns.

    >>> [*DropColumns(columns=["c"]).process([{"a": 1, "c": 3}])]
    [[{'a': 1}]]
    """

    columns: list[str]

    @property
    def inputs(self) -> ColumnNames:
        return self.columns

    def columns_after(self, upstream: Sequence[Columns]) -> Columns:
        return super().columns_after(upstream).without(self.needed())

    def process(self, rows: StepInput) -> StepOutput:  # type: ignore[override]  # a join takes several
        dropped = set(self.columns)
        yield [{name: value for name, value in row.items() if name not in dropped} for row in rows]

    def process_columns(self, columns: ColumnLists, n_rows: int, moved: Moved) -> MadeColumns:
        return MadeColumns({name: values for name, values in columns.items() if name not in self.columns})


class RenameColumns(Step):
    """Give columns other names: `{"completion": "generation"}`; they keep their places.

    Inputs:  the keys of `columns`.
    Outputs: the values of `columns`.
    Errors:  SpecError when two columns would have one name; StepRowError when that shows only at a row;
             MissingValueError when a row lacks a column.
    Source:  ours; `output_mappings` does the same to the columns that a step itself makes.

    >>> [*RenameColumns(columns={"completion": "generation"}).process([{"id": 7, "completion": "Yes."}])]
    [[{'id': 7, 'generation': 'Yes.'}]]
    """

    columns: dict[str, str]

    @field_validator("columns")
    @classmethod
    def _check_targets(cls, columns: dict[str, str]) -> dict[str, str]:
        for new in columns.values():
            old = [name for name, target in columns.items() if target == new]
            if len(old) > 1:
                raise SpecError(f"Columns {old} would both be named {new!r}.", "Give each a name of its own.")
        return columns

    @property
    def inputs(self) -> ColumnNames:
        return list(self.columns)

    @property
    def outputs(self) -> ColumnNames:
        return list(self.columns.values())

    def check_inputs(self, upstream: Sequence[Columns]) -> None:
        super().check_inputs(upstream)
        for columns in upstream:
            for new in sorted(set(self.columns.values()) & (set(columns.names) - set(self.columns))):
                old = next(name for name, target in self.columns.items() if target == new)
                raise SpecError(
                    f"Step {self.name!r} renames column {old!r} to {new!r}, which exists already.",
                    f"Drop or rename {new!r} first.",
                )

    def columns_after(self, upstream: Sequence[Columns]) -> Columns:
        arriving = upstream[0] if upstream else Columns()
        return arriving.renamed(dict(zip(self.columns, self.made(), strict=True))).adding(self.made())

    def process(self, rows: StepInput) -> StepOutput:  # type: ignore[override]  # a join takes several
        yield [self._renamed(row) for row in rows]

    def process_columns(self, columns: ColumnLists, n_rows: int, moved: Moved) -> MadeColumns:
        return MadeColumns(self._renamed(columns))

    def _renamed(self, row: dict[str, T]) -> dict[str, T]:
        """Return a row, or columns, under the new names."""
        for old, new in self.columns.items():
            value_of(row, old)
            if new in row and new not in self.columns:
                raise StepRowError(
                    f"Column {old!r} would be renamed to {new!r}, which this row has already.",
                    f"Drop or rename {new!r} first.",
                )
        return {self.columns.get(name, name): value for name, value in row.items()}


class MergeColumns(Step):
    """Merge columns of a row into one list; a value that is a list itself is joined to it, item by item.

    Inputs:  `columns`.
    Outputs: `output_column` (list; by default `combine_` and the names joined by `_`); `columns` are dropped.
    Errors:  MissingValueError when a row lacks a column.
    Source:  the step of that name of distilabel.

    >>> step = MergeColumns(columns=["best", "others"], output_column="answers")
    >>> [*step.process([{"best": "Yes.", "others": ["No.", None]}])]
    [[{'answers': ['Yes.', 'No.', None]}]]
    """

    columns: list[str] = Field(min_length=1)
    output_column: str | None = None

    @property
    def inputs(self) -> ColumnNames:
        return self.columns

    @property
    def outputs(self) -> ColumnNames:
        return [self.output_column or f"combine_{'_'.join(self.columns)}"]

    def columns_after(self, upstream: Sequence[Columns]) -> Columns:
        arriving = upstream[0] if upstream else Columns()
        return arriving.without(self.needed()).adding(self.made())

    def process(self, rows: StepInput) -> StepOutput:  # type: ignore[override]  # a join takes several
        yield [self._merged(row) for row in rows]

    def process_columns(self, columns: ColumnLists, n_rows: int, moved: Moved) -> MadeColumns:
        cells = zip(*(columns[name] for name in self.columns), strict=True)
        kept = {name: values for name, values in columns.items() if name not in self.columns}
        return MadeColumns({**kept, str(next(iter(self.outputs))): list(map(_joined, cells))})

    def _merged(self, row: Row) -> Row:
        merged = _joined([value_of(row, name) for name in self.columns])
        kept = {name: value for name, value in row.items() if name not in self.columns}
        return {**kept, str(next(iter(self.outputs))): merged}


def _joined(values: Iterable[Any]) -> list[Any]:
    joined: list[Any] = []
    for value in values:
        if isinstance(value, list):
            joined += value
        else:
            joined.append(value)
    return joined


def _repeated(values: list[Any], n_times: list[int]) -> list[Any]:
    """Return each value as often as is said beside it."""
    n_each = n_times[0]
    if n_times.count(n_each) < len(n_times):
        return list(chain.from_iterable(map(repeat, values, n_times)))
    repeated = [None] * (n_each * len(values))
    for place in range(n_each):
        repeated[place::n_each] = values
    return repeated


def _as_renames(value: object) -> object:
    """Accept a list of columns where a mapping of old to new names is stored."""
    if isinstance(value, str):
        value = [value]
    return {name: name for name in value} if isinstance(value, (list, tuple)) else value


class ExpandColumns(Step):
    """Make one row of each item of a list; several columns are expanded side by side.

    Inputs:  the keys of `columns` (list; with `encoded` also JSON text of a list).
    Outputs: the values of `columns` (one item each); `columns=["a"]` keeps the name, `{"a": "b"}` makes `b`
             and drops the list.
    Errors:  StepRowError when a value is no list, or the lists of a row differ in length. A row whose lists
             are empty becomes no row, and that is counted.
    Source:  the step of that name of distilabel, where shorter lists are filled up with whatever the row
             holds.

    >>> [*ExpandColumns(columns={"answers": "answer"}).process([{"id": 1, "answers": ["Yes.", "No."]}])]
    [[{'id': 1, 'answer': 'Yes.'}, {'id': 1, 'answer': 'No.'}]]
    """

    by_row: ClassVar[bool] = True

    columns: Annotated[dict[str, str], BeforeValidator(_as_renames)] = Field(min_length=1)
    encoded: bool | list[str] = False  # True, or the names of the columns that hold JSON text

    @property
    def inputs(self) -> ColumnNames:
        return list(self.columns)

    @property
    def outputs(self) -> ColumnNames:
        return list(dict.fromkeys(self.columns.values()))

    def columns_after(self, upstream: Sequence[Columns]) -> Columns:
        arriving = upstream[0] if upstream else Columns()
        lost = [self.input_mappings.get(old, old) for old, new in self.columns.items() if old != new]
        return arriving.without(lost).adding(self.made())

    def process(self, rows: StepInput) -> StepOutput:  # type: ignore[override]  # a join takes several
        yield [new for row in rows for new in self._expanded(row)]

    def process_columns(self, columns: ColumnLists, n_rows: int, moved: Moved) -> MadeColumns | None:
        lists = [columns[name] for name in self.columns]
        n_items = list(map(len, lists[0]))
        for cells in lists:
            if set(map(type, cells)) != {list} or list(map(len, cells)) != n_items:
                return None  # JSON text, or a row to complain of
        made = {
            name: _repeated(values, n_items)
            for name, values in columns.items()
            if self.columns.get(name, name) == name
        }
        for name, cells in zip(self.columns.values(), lists, strict=True):
            made[name] = list(chain.from_iterable(cells))
        return MadeColumns(made, n_children=n_items)

    def _expanded(self, row: Row) -> list[Row]:
        lists = {name: self._list_in(row, name) for name in self.columns}
        lengths = {name: len(items) for name, items in lists.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name!r} {length}" for name, length in lengths.items())
            raise StepRowError(
                f"The lists to expand differ in length: {told}.",
                "Expand them in steps of their own, or make them equal before.",
            )
        rest = {name: value for name, value in row.items() if self.columns.get(name, name) == name}
        names = list(self.columns.values())
        return [
            {**rest, **dict(zip(names, items, strict=True))} for items in zip(*lists.values(), strict=True)
        ]

    def _list_in(self, row: Row, column: str) -> list[Any]:
        value = value_of(row, column)
        if isinstance(value, str) and (self.encoded is True or (self.encoded and column in self.encoded)):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise StepRowError(
                    f"Column {column!r} holds no JSON: {error}.", "encoded=True is for columns of JSON text."
                ) from error
        if not isinstance(value, (list, tuple)):
            hint = (
                "If it is JSON text, say encoded=True."
                if isinstance(value, str)
                else "Only lists are expanded."
            )
            raise StepRowError(f"Column {column!r} holds {type(value).__name__}, not a list.", hint)
        return list(value)

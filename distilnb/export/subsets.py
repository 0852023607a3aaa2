"""A dict of subsets whose rows become a dataset when they are first asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from distilnb.errors import ExportError
from distilnb.export.plain import plain_rows
from distilnb.export.table import Table, make_table
from distilnb.rows import Row

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import DatasetDict


class Subsets(dict[str, "DatasetDict"]):
    """Subsets by name; `datasets`, a second to import, is loaded with the first that is asked for."""

    def __init__(
        self,
        subsets: Mapping[str, DatasetDict] | None = None,
        json_columns: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        super().__init__(subsets or {})
        self.json_columns = {name: frozenset(columns) for name, columns in (json_columns or {}).items()}
        self._pending: dict[str, _Pending] = {}

    def add_rows(self, name: str, rows: Sequence[Row], columns: Sequence[str] = ()) -> None:
        """Add a subset with the split "train" made of rows; `columns` are those it has even without rows."""
        super().__setitem__(name, None)
        self._pending[name] = _Pending(rows, tuple(columns))

    def arrow(self, name: str, split: str) -> pa.Table:
        """Return a split as an Arrow table, without `datasets` where the rows are still rows."""
        known = list(self.n_rows(name))
        if split not in known:
            raise ExportError(
                f"Subset {name!r} has no split {split!r}; it has {known}.", "Name one of these."
            )
        if name in self._pending:
            return self._table(name).arrow
        return self[name][split].with_format("arrow")[:]

    def plain(self, name: str, split: str) -> Iterator[Row] | None:
        """Return copies of the rows of a split where no table is needed to tell them, else None."""
        pending = self._pending.get(name)
        return pending.plain() if pending is not None and split == "train" else None

    def n_rows(self, name: str) -> dict[str, int]:
        """Return the number of rows of each split."""
        if name in self._pending:
            return {"train": len(self._pending[name].rows)}
        return {str(split): len(dataset) for split, dataset in self[name].items()}

    def names(self, name: str) -> list[str]:
        """Return the names of a subset's columns."""
        if name in self._pending:
            return self._pending[name].names()
        return [str(column) for column in next(iter(self[name].values())).column_names]

    def _table(self, name: str) -> Table:
        table = self._pending[name].table()
        self.json_columns[name] = table.json_columns
        return table

    # --- being a dict ---

    def __getitem__(self, name: str) -> DatasetDict:
        if name in self._pending:
            made = _to_dataset(self._table(name))
            del self._pending[name]
            super().__setitem__(name, made)
        return super().__getitem__(name)

    def __setitem__(self, name: str, value: DatasetDict) -> None:
        self.__dict__.get("_pending", {}).pop(name, None)  # unpickling sets items first
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self._pending.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()  # being here, it leads dict(ds) and {**ds} through __getitem__

    def values(self) -> Any:
        """Return the subsets."""
        return self.copy().values()

    def items(self) -> Any:
        """Return names and subsets."""
        return self.copy().items()

    def get(self, name: str, default: Any = None) -> Any:
        """Return a subset, or `default` when there is none of that name."""
        if name not in self:
            return default
        return self[name]

    def pop(self, name: str, *default: Any) -> Any:
        """Take a subset out."""
        self.get(name)
        return super().pop(name, *default)

    def popitem(self) -> tuple[str, DatasetDict]:
        """Take the last subset out, with its name."""
        name = next(reversed(self), None)
        if name is None:
            raise KeyError("there is no subset")
        return name, self.pop(name)

    def setdefault(self, name: str, default: Any = None) -> Any:
        """Return a subset; it is `default` from now on when there was none of that name."""
        if name not in self:
            self[name] = default
        return self[name]

    def clear(self) -> None:
        """Take all subsets out."""
        super().clear()
        self._pending.clear()

    def update(self, *others: Any, **more: Any) -> None:
        """Set the subsets of a mapping, or of pairs, and those given by name."""
        for name, value in dict(*others, **more).items():
            self[name] = value
        for other in others:
            if isinstance(other, Subsets):  # its rows are read as they were there
                self.json_columns.update(other.json_columns)

    def __or__(self, other: Any) -> Any:
        return {**self, **other} if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return {**other, **self} if isinstance(other, dict) else NotImplemented

    def __ior__(self, other: Any) -> Self:  # type: ignore[override]  # `|` makes a plain dict, as dict's does
        self.update(other)
        return self

    def copy(self) -> dict[str, DatasetDict]:
        """Return a plain dict of the subsets."""
        return {name: self[name] for name in self}

    def __eq__(self, other: object) -> bool:
        return self.copy() == (other.copy() if isinstance(other, Subsets) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None


class _Pending:
    """Rows of a subset that nobody has asked for as a dataset yet."""

    def __init__(self, rows: Sequence[Row], columns: tuple[str, ...]) -> None:
        self.rows = rows
        self._columns = columns
        self._table: Table | None = None

    def table(self) -> Table:
        if self._table is None:
            self._table = make_table(self.rows, self._columns)
        return self._table

    def plain(self) -> Iterator[Row] | None:
        return plain_rows(self.rows, self._columns) if self._table is None else None

    def names(self) -> list[str]:
        names = dict.fromkeys(self._columns)
        for row in self.rows:
            names.update(dict.fromkeys(row))
        return list(names)


def _to_dataset(table: Table) -> DatasetDict:
    from datasets import Dataset, DatasetDict
    from datasets.table import InMemoryTable

    return DatasetDict({"train": Dataset(InMemoryTable(table.arrow))})

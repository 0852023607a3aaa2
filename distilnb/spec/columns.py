"""The columns of rows at one place of the graph, as far as they are known before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from distilnb.errors import MissingColumnError, did_you_mean


@dataclass(frozen=True, slots=True)
class Columns:
    """Names in their order. `is_open` means that there may be more (a function of the user made the rows)."""

    names: tuple[str, ...] = ()
    is_open: bool = False

    @classmethod
    def of(cls, names: Iterable[str], *, is_open: bool = False) -> Columns:
        """Return the columns of these names, each once."""
        return cls(tuple(dict.fromkeys(names)), is_open)

    def adding(self, names: Iterable[str]) -> Columns:
        """Return these and more columns."""
        return Columns.of([*self.names, *names], is_open=self.is_open)

    def without(self, names: Iterable[str]) -> Columns:
        """Return these columns but some."""
        dropped = set(names)
        return Columns.of((name for name in self.names if name not in dropped), is_open=self.is_open)

    def renamed(self, names: dict[str, str]) -> Columns:
        """Return these columns under new names (old → new)."""
        return Columns.of((names.get(name, name) for name in self.names), is_open=self.is_open)

    def opened(self) -> Columns:
        """Return these columns with an unknown number of others."""
        return Columns(self.names, is_open=True)

    def __contains__(self, name: object) -> bool:
        return name in self.names


def check_columns(step: str, needs: Iterable[str], has: Columns) -> None:
    """Raise MissingColumnError when `step` reads a column that no earlier step makes."""
    if has.is_open:
        return
    for column in sorted(set(needs) - set(has.names)):
        raise MissingColumnError(
            f"Step {step!r} reads column {column!r}; upstream has {sorted(has.names)}.",
            did_you_mean(column, has.names, f"Add a step that makes {column!r}."),
        )

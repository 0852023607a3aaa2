"""What users' functions return, read as rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from distilnb.errors import StepRowError
from distilnb.rows import ColumnLists, Row, to_columns, to_rows
from distilnb.spec.step import MadeColumns


def merged(row: Row, made: object, function: str) -> Row:
    """Return a row with the columns that a function made of it; raises StepRowError when it made no dict."""
    if not isinstance(made, Mapping):
        raise wrong_result(function, made)
    return {**row, **made}


def merged_columns(
    columns: ColumnLists, made: Sequence[object] | None, n_rows: int, *, reason: str = ""
) -> MadeColumns | None:
    """Return columns with those that a function made of each row; with a `reason`, None leaves a row out.

    Returns None when something else than dicts was made: then row by row it is told what.
    """
    if made is None:
        return None
    kinds = set(map(type, made))
    if kinds == {dict}:
        added = to_columns(made)  # type: ignore[arg-type]  # they are dicts
        if added is not None:
            return MadeColumns({**columns, **added})
    elif not reason or not kinds <= {dict, type(None)}:
        return None
    rows = to_rows(columns, n_rows)
    merged_rows = [{**row, **new} for row, new in zip(rows, made, strict=True) if isinstance(new, dict)]
    return MadeColumns(None, keep=[new is not None for new in made], reason=reason, rows=merged_rows)


def wrong_result(function: str, made: object) -> StepRowError:
    """Return the error that shows what a function returned in place of a dict."""
    return StepRowError(
        f"{function} returned {made!r:.60} ({type(made).__name__}).", "Return a dict: {'column': value}."
    )


def rows_in(made: object, function: str) -> Iterator[Row]:
    """Yield the rows in what a function returned or yields: dicts, lists of dicts, or (list, is_last)."""
    if isinstance(made, dict):
        yield made
        return
    if not isinstance(made, Iterable) or isinstance(made, (str, bytes)):
        raise wrong_result(function, made)
    for item in made:
        if type(item) is dict:
            yield item
        elif type(item) is list and set(map(type, item)) == {dict}:
            yield from item  # what most functions yield: told at once, not row by row
        elif isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], bool):
            yield from rows_in(item[0], function)
            if item[1]:
                return
        else:
            yield from rows_in(item, function)


def originals(rows: list[Row], copies: list[Row], given: list[Row]) -> list[Row]:
    """Return the given rows in place of their unchanged copies: so the engine knows which were kept."""
    position = {id(copy): index for index, copy in enumerate(copies)}
    found = []
    for row in rows:
        index = position.get(id(row))
        found.append(given[index] if index is not None and given[index] == row else row)
    return found

"""What users' functions return, read as rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from distilnb.errors import StepRowError
from distilnb.rows import Row


def merged(row: Row, made: object, function: str) -> Row:
    """Return a row with the columns that a function made of it; raises StepRowError when it made no dict."""
    if not isinstance(made, Mapping):
        raise wrong_result(function, made)
    return {**row, **made}


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
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], bool):
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

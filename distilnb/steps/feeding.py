"""What all sources do with the rows that they read: rename, limit, and give them on in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from distilnb.errors import NoRowsError
from distilnb.rows import Row, rows_before_error
from distilnb.spec.step import GeneratorStepOutput


def renamed(rows: Iterable[Row], names: Mapping[str, str]) -> Iterator[Row]:
    """Yield the rows with some columns renamed."""
    if not names:
        return iter(rows)
    return ({names.get(name, name): value for name, value in row.items()} for row in rows)


def up_to(rows: Iterator[Row], num_examples: int | None, offset: int) -> Iterator[Row]:
    """Yield the rows from `offset` on that are among the first `num_examples`."""
    return rows if num_examples is None else islice(rows, max(0, num_examples - offset))


def in_batches(rows: Iterator[Row], size: int, nothing: NoRowsError | None = None) -> GeneratorStepOutput:
    """Yield (rows, is_last), reading one batch ahead; raises `nothing` when there is no row at all.

    An error of `rows` is raised when all that came before it was yielded.
    """
    batch, error = rows_before_error(rows, size)
    if not batch and error is None and nothing is not None:
        raise nothing
    while True:
        following: list[Row] = []
        if error is None and len(batch) == size:
            following, error = rows_before_error(rows, size)
        if batch or error is None:
            yield batch, not following and error is None
        if not following:
            break
        batch = following
    if error is not None:
        raise error

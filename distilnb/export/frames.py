"""Rows as DataFrames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distilnb.engine.quarantine import RowChoice
from distilnb.errors import InputError
from distilnb.ids import is_below
from distilnb.rows import Batch

if TYPE_CHECKING:
    import pandas as pd


def frame_of(batch: Batch) -> pd.DataFrame:
    """Return rows as a DataFrame whose index is the row id."""
    import pandas as pd

    index = pd.Index(batch.ids, name="row_id")
    try:
        return pd.DataFrame(batch.rows, index=index)
    except UnicodeEncodeError:  # half of a surrogate pair, which the text type of pandas 3 cannot hold
        return pd.DataFrame(batch.rows, index=index, dtype=object)


def chosen_rows(batch: Batch, rows: RowChoice | None) -> Batch:
    """Return the rows that were made of some of the source, by ordinal or id; all for None.

    Raises InputError when there is none such, but for a range, which may hold rows that are not there.
    """
    if rows is None:
        return batch
    wanted = [rows] if isinstance(rows, (int, str)) else rows if isinstance(rows, range) else [*rows]
    names = [] if isinstance(wanted, range) else [one for one in wanted if isinstance(one, str)]
    found = [
        place
        for place, (row_id, order) in enumerate(zip(batch.ids, batch.orders, strict=True))
        if order[0] in wanted or any(is_below(row_id, name) for name in names)
    ]
    if not found and not isinstance(rows, range):
        raise InputError(
            f"No finished row here is of row {rows!r} of the source.",
            "Give its number in the source, as `row` in tables and errors, or its id.",
        )
    return batch.select(found)

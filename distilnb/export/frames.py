"""Rows as DataFrames."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

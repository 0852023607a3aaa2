"""Leaving out rows that came before."""

from __future__ import annotations

import hashlib

from distilnb.spec.step import ColumnNames, GlobalStep, StepInput, StepOutput
from distilnb.steps.columns import value_of
from distilnb.values import dump


class ExactDedup(GlobalStep):
    """Keep the first of the rows that are equal in some columns.

    Inputs:  `columns`; none named means all.
    Outputs: none; rows that are kept are the same objects, in their order.
    Errors:  MissingValueError when a row lacks a column. None equals None.
    Source:  ours.

    >>> [*ExactDedup(columns=["q"]).process([{"q": "a", "n": 1}, {"q": "b", "n": 2}, {"q": "a", "n": 3}])]
    [[{'q': 'a', 'n': 1}, {'q': 'b', 'n': 2}]]
    """

    columns: list[str] = []

    @property
    def inputs(self) -> ColumnNames:
        return self.columns

    def process(self, rows: StepInput) -> StepOutput:  # type: ignore[override]  # a join takes several
        seen: set[bytes] = set()
        kept = []
        for row in rows:
            content = {name: value_of(row, name) for name in self.columns} if self.columns else row
            # Not the short digest that names rows: two rows that happened to share it would become one.
            digest = hashlib.blake2b(dump(content, sort_keys=True), digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                kept.append(row)
        yield kept

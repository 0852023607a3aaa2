"""Entries of a batch as ranges: what is told and kept about them is as short for a whole batch as for one row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def to_ranges(indices: Iterable[int]) -> list[list[int]]:
    """Return indices as sorted inclusive ranges.

    >>> to_ranges([0, 1, 2, 7, 9, 8])
    [[0, 2], [7, 9]]
    """
    if type(indices) is range and len(indices) and indices.step == 1:
        return [[indices[0], indices[-1]]]
    ordered = sorted(set(indices))
    if ordered and ordered[-1] - ordered[0] + 1 == len(ordered):
        return [[ordered[0], ordered[-1]]]
    ranges: list[list[int]] = []
    for index in ordered:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ranges


def listed(ranges: Sequence[Sequence[int]]) -> Sequence[int]:
    """Return the indices of inclusive ranges, sorted; those of a single range, which most are, take no list.

    >>> listed([[0, 999]])
    range(0, 1000)
    """
    if len(ranges) == 1:
        return range(ranges[0][0], ranges[0][1] + 1)
    return sorted(from_ranges(ranges))


def from_ranges(ranges: Iterable[Sequence[int]]) -> set[int]:
    """Return the indices of inclusive ranges."""
    return {index for first, last in ranges for index in range(first, last + 1)}

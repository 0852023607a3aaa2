"""Vectors as text: 32-bit floats, little-endian, in base64, as OpenAI's protocol sends them.

Replies hold vectors so, and files of batches: as decimal numbers they are four times as long.
"""

from __future__ import annotations

import base64
import binascii
import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

_BYTES_PER_NUMBER = 4
_SHORTEST = 16  # numbers: what is shorter stays readable in its file


def pack_vector(numbers: Iterable[float]) -> str:
    """Return a vector as text; what 32 bits cannot hold of a number is rounded away.

    >>> unpack_vector(pack_vector([0.5, -1.0]))
    [0.5, -1.0]
    """
    return _as_text(array("f", numbers))


def _as_text(packed: array[float]) -> str:
    if sys.byteorder == "big":
        packed.byteswap()
    return base64.b64encode(packed.tobytes()).decode("ascii")


def unpack_vector(text: str) -> list[float]:
    """Return the numbers of a vector; raises ValueError where the text holds none."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"no base64: {error}") from error
    if not data or len(data) % _BYTES_PER_NUMBER:
        raise ValueError(f"{len(data)} bytes are no vector of numbers of {_BYTES_PER_NUMBER} bytes")
    numbers = array("f")
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def pack_column(values: Sequence[Any]) -> list[str | None] | None:
    """Return the texts of a column of vectors, None for those that are None; None where it is another column.

    Each has the same length, and floats that 32 bits hold exactly: `unpack_column` gives back just these.
    """
    first = next((value for value in values if value is not None), None)
    if type(first) is not list or len(first) < _SHORTEST or type(first[0]) is not float:
        return None
    texts: list[str | None] = []
    for value in values:
        packed = None if value is None else _exactly(value, len(first))
        if value is not None and packed is None:
            return None
        texts.append(None if packed is None else _as_text(packed))
    return texts


def unpack_column(texts: Sequence[str | None]) -> list[list[float] | None]:
    """Return the column that `pack_column` was given."""
    return [None if text is None else unpack_vector(text) for text in texts]


def join_vectors(values: Sequence[Any]) -> bytearray | None:
    """Return the numbers of vectors of equal length, one behind the other, 32 bits each as this machine has them.

    None where a value is no vector, has another length than the first, or would be rounded.
    """
    joined = bytearray()
    for value in values:
        packed = _exactly(value, len(values[0]))
        if packed is None:
            return None
        joined += packed.tobytes()
    return joined


def _exactly(value: Any, length: int) -> array[float] | None:
    """Return a list of so many floats in 32 bits each; None where it is another value, or loses something."""
    if type(value) is not list or len(value) != length or set(map(type, value)) != {float}:
        return None
    try:
        packed = array("f", value)
    except OverflowError:
        return None
    return packed if packed.tolist() == value else None  # NaN is not equal to itself

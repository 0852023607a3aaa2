"""Templates that need no Jinja: text, bare variables, and items of lists by their number."""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Any, NamedTuple

_VARIABLE = re.compile(r"\{\{[ \t\n]*([A-Za-z]\w*)(?:\[(0|[1-9][0-9]{0,5})\])?[ \t\n]*\}\}", re.ASCII)
_BRACES = re.compile(r"\{\{|\{%|\{#|\}\}|%\}|#\}")


class Piece(NamedTuple):
    """A part of a plain template: text as it is, or the column of that name; with a `place`, one item of that."""

    text: str
    is_column: bool = False
    place: int | None = None


def split_plain(text: str, words: Set[str]) -> tuple[Piece, ...] | None:
    """Return a template as text and columns, or None when it has anything that is left to Jinja.

    `words` are no names of columns to it.
    """
    # Jinja too has one kind of newline. Of each three parts the first is text, then name and place of a column.
    parts: list[Any] = _VARIABLE.split(re.sub(r"\r\n|\r", "\n", text))
    if any(_BRACES.search(part) for part in parts[::3]) or not words.isdisjoint(parts[1::3]):
        return None
    pieces = []
    for at in range(0, len(parts), 3):
        if parts[at]:
            pieces.append(Piece(parts[at]))
        if at + 1 < len(parts):
            name, place = parts[at + 1 : at + 3]
            pieces.append(Piece(name, is_column=True, place=None if place is None else int(place)))
    return tuple(pieces)

"""Text from models and users, made fit to show: measured in columns, cut, and with nothing hidden in it."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

ELLIPSIS = "…"

# What a terminal or a browser would obey instead of show, and what is no character at all.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def visible(text: str) -> str:
    """Return text whose control characters (ANSI codes, reversed writing) are escapes to read."""
    return _HIDDEN.sub(_sign, text.replace("\r\n", "\n"))


def _sign(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xD800 <= code <= 0xDFFF or code >= 0xFFFE:
        return "\ufffd"  # half a character: nothing could be written to a notebook file
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"


def width(text: str) -> int:
    """Return the columns that text takes where East-Asian characters take two."""
    return len(text) if text.isascii() else sum(map(_columns_of, text))


def clip(text: str, columns: int) -> str:
    """Return text that takes at most so many columns; what is cut ends in "…".

    >>> clip("a long name", 6), clip("数据集合成", 6)
    ('a lon…', '数据…')
    """
    text = text[: 4 * columns + 16]  # a row may hold a line of a megabyte; a character may take no column
    if width(text) <= columns:
        return text
    taken = 0
    for index, character in enumerate(text):
        taken += _columns_of(character)
        if taken > columns - 1:
            return text[:index] + ELLIPSIS
    return text + ELLIPSIS


def pad(text: str, columns: int, *, right: bool = False) -> str:
    """Return text filled with spaces to so many columns; `right` sets it to the right."""
    space = " " * max(0, columns - width(text))
    return space + text if right else text + space


def one_line(text: str, columns: int) -> str:
    """Return the beginning of a text as one line of at most so many columns, with nothing hidden in it."""
    return clip(" ".join(visible(text[: 8 * columns + 64]).split()), columns)


def value_text(value: Any, limit: int = 100_000) -> str:
    """Return any value of a row as text: strings as they are, containers as JSON, bytes by their size."""
    if isinstance(value, str):
        return value[:limit]
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value):,} bytes"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False, default=str)[:limit]
    return str(value)[:limit]


def _columns_of(character: str) -> int:
    if character < "\u0300":
        return 1
    if unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1

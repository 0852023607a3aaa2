"""The words of a magic's line, and the Python values that they stand for."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_BEFORE_QUOTE = frozenset("=([{,: ")  # a quote after anything else is an apostrophe


def split_words(line: str) -> list[str]:
    """Split a line at blanks outside of quotes and brackets; quotes stay. A word `#` begins a comment.

    Raises ValueError for a quote or a bracket without its end.

    >>> split_words('judge aspect="instruction following" columns=["a", "b"]  # why')
    ['judge', 'aspect="instruction following"', 'columns=["a", "b"]']
    """
    words: list[str] = []
    word, quote, open_brackets = "", "", ""
    for char in line.strip():
        if quote:
            quote = "" if char == quote and not word.endswith("\\") else quote
        elif char in "\"'" and (not word or word[-1] in _BEFORE_QUOTE):
            quote = char
        elif char in _CLOSING:
            open_brackets += char
        elif open_brackets and char == _CLOSING[open_brackets[-1]]:
            open_brackets = open_brackets[:-1]
        elif char.isspace() and not open_brackets:
            words, word = [*words, *([word] if word else [])], ""
            continue
        elif char == "#" and not word and not open_brackets:
            return words
        word += char
    if quote or open_brackets:
        raise ValueError(f"{quote or open_brackets[-1]} has no end")
    return [*words, word] if word else words


def unquoted(word: str) -> str:
    """Return a word without the quotes around all of it.

    >>> unquoted('"two words"'), unquoted("plain")
    ('two words', 'plain')
    """
    value = _literal(word)
    return value if isinstance(value, str) else word


def value_of(word: str, variables: Mapping[str, object], kinds: tuple[type, ...] = ()) -> Any:
    """Return what a word means: a Python literal, a variable that holds one of `kinds`, else the word itself.

    >>> (
    ...     value_of("4.5", {}),
    ...     value_of("['a']", {}),
    ...     value_of("worst", {}),
    ...     value_of("shout", {"shout": len}, (type(len),)),
    ... )
    (4.5, ['a'], 'worst', <built-in function len>)
    """
    value = _literal(word)
    if value is not _NOTHING:
        return value
    return variables[word] if isinstance(variables.get(word), kinds) else word


def assignments(words: Iterable[str], variables: Mapping[str, object]) -> dict[str, Any]:
    """Return `a.b=c` words as a dict of values; raises ValueError for a word that is not name=value."""
    values = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise ValueError(f"{word!r} is not name=value")
        values[name] = value_of(text, variables)
    return values


_NOTHING = object()


def _literal(word: str) -> object:
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _NOTHING

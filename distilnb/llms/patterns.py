"""A text that matches a regular expression, made by chance."""

from __future__ import annotations

import re
import sys
from random import Random
from typing import Any

if sys.version_info >= (3, 11):
    from re import _parser as parser  # type: ignore[attr-defined,unused-ignore]
else:
    import sre_parse as parser

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SAMPLES = {"CATEGORY_DIGIT": "0123456789", "CATEGORY_SPACE": " ", "CATEGORY_WORD": _LETTERS}
_PRINTABLE = "".join(map(chr, range(32, 127)))
_MAX_REPEATS = 3  # beyond the least, where a pattern allows any number
_TRIES = 20


def text_matching(pattern: str, random: Random, *, is_whole: bool = False) -> str:
    """Return a text in which the pattern is found; "" when none is found in a few tries.

    With `is_whole` the pattern matches all of the text.

    >>> text_matching("^[A-C]{2}-(red|red)$", Random(0))[2:]
    '-red'
    """
    try:
        tree: Any = parser.parse(pattern)
        compiled = re.compile(pattern)
    except re.error:
        return ""
    for _ in range(_TRIES):  # look-around and back references may need luck
        text = _text_of(tree, random, {})
        if compiled.fullmatch(text) if is_whole else compiled.search(text):
            return text
    return ""


def _text_of(tree: Any, random: Random, groups: dict[int, str]) -> str:
    return "".join(_piece(str(op), argument, random, groups) for op, argument in tree)


def _piece(op: str, argument: Any, random: Random, groups: dict[int, str]) -> str:
    if op == "LITERAL":
        return chr(argument)
    if op == "NOT_LITERAL":
        return random.choice([letter for letter in _LETTERS if ord(letter) != argument])
    if op == "ANY":
        return random.choice(_LETTERS)
    if op == "IN":
        return random.choice(_members(argument))
    if op == "BRANCH":
        return _text_of(random.choice(argument[1]), random, groups)
    if op == "SUBPATTERN":
        text = _text_of(argument[-1], random, groups)
        if argument[0] is not None:
            groups[argument[0]] = text
        return text
    if op in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        low, high, inner = argument
        n_times = random.randint(low, min(int(high), low + _MAX_REPEATS))
        return "".join(_text_of(inner, random, groups) for _ in range(n_times))
    if op == "GROUPREF":
        return groups.get(argument, "")
    if op == "ATOMIC_GROUP":
        return _text_of(argument, random, groups)
    return ""  # anchors and look-around take no room


def _members(items: Any) -> str:
    """Return the characters of a class such as [a-z_]."""
    negated = bool(items) and str(items[0][0]) == "NEGATE"
    found = "".join(_member(str(op), argument) for op, argument in items)
    if negated:
        found = "".join(character for character in _PRINTABLE if character not in found)
    return found or _LETTERS


def _member(op: str, argument: Any) -> str:
    if op == "LITERAL":
        return chr(argument)
    if op == "RANGE":
        low, high = argument
        return "".join(map(chr, range(low, min(high, low + 200) + 1)))
    if op == "CATEGORY":
        name = str(argument)
        if "_NOT_" in name:
            sample = _SAMPLES[name.replace("_NOT_", "_")]
            return "".join(
                character for character in _PRINTABLE if character not in sample and character != "_"
            )
        return _SAMPLES[name]
    return ""

"""Shapes as grammars: what engines force a reply with. GBNF is the notation of llama.cpp."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import Any

from distilnb.errors import RefusedRequestError
from distilnb.llms.shape import ReplyShape

if sys.version_info >= (3, 11):
    from re import _parser as parser  # type: ignore[attr-defined,unused-ignore]
else:
    import sre_parse as parser

MAX_REPEATS = 2000  # llama.cpp writes a bounded repetition out

_CATEGORIES = {
    "CATEGORY_DIGIT": "0-9",
    "CATEGORY_SPACE": r" \t\n\r",
    "CATEGORY_WORD": "a-zA-Z0-9_",
}


def schema_text(shape: ReplyShape) -> str:
    """Return the JSON schema of a shape as text; any object where it has none."""
    return json.dumps(shape.schema or {"type": "object"}, ensure_ascii=False, default=str)


def gbnf_of(shape: ReplyShape) -> str:
    """Return the grammar of a regular expression or of choices.

    Raises RefusedRequestError for an expression that is no regular one: it looks around, or back.

    >>> print(gbnf_of(ReplyShape("choice", choices=("yes", "no"))))
    root ::= "yes" | "no"
    >>> print(gbnf_of(ReplyShape("regex", pattern="[A-C]{2}-[0-9]+")))
    root ::= [A-C]{2} "-" [0-9]+
    """
    if shape.kind == "choice":
        return f"root ::= {' | '.join(_quoted(choice) for choice in shape.choices)}"
    try:
        tree: Any = parser.parse(shape.pattern)
    except re.error as error:
        raise RefusedRequestError(f"The pattern {shape.pattern!r} cannot be read: {error}.") from error
    if tree.state.flags & (re.IGNORECASE | re.MULTILINE | re.VERBOSE):
        raise RefusedRequestError(f"The flags of the pattern {shape.pattern!r} have no grammar.")
    return f"root ::= {_sequence(tree, shape.pattern)}"


def _sequence(tree: Iterable[Any], pattern: str) -> str:
    parts: list[str] = []
    literal = ""
    for op, argument in tree:
        if str(op) == "LITERAL":
            literal += chr(argument)
            continue
        if literal:
            parts.append(_quoted(literal))
            literal = ""
        parts.append(_piece(str(op), argument, pattern))
    if literal:
        parts.append(_quoted(literal))
    return " ".join(part for part in parts if part) or '""'


def _piece(op: str, argument: Any, pattern: str) -> str:
    if op == "NOT_LITERAL":
        return f"[^{_in_class(argument)}]"
    if op == "ANY":
        return r"[^\n]"
    if op == "IN":
        return _class(argument, pattern)
    if op == "BRANCH":
        return f"({' | '.join(_sequence(branch, pattern) for branch in argument[1])})"
    if op in ("SUBPATTERN", "ATOMIC_GROUP"):
        return f"({_sequence(argument[-1] if op == 'SUBPATTERN' else argument, pattern)})"
    if op in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        low, high, inner = argument
        return _repeated(inner, pattern) + _times(int(low), None if high == parser.MAXREPEAT else int(high))
    if op == "AT" and str(argument) in _ENDS:  # the whole text is to match anyway
        return ""
    raise RefusedRequestError(f"The pattern {pattern!r} has no grammar: {op.lower()} looks around, or back.")


_ENDS = frozenset({"AT_BEGINNING", "AT_BEGINNING_STRING", "AT_END", "AT_END_STRING"})


def _repeated(inner: Any, pattern: str) -> str:
    text = _sequence(inner, pattern)
    is_one = len(inner) == 1 and str(inner[0][0]) in ("LITERAL", "IN", "ANY", "NOT_LITERAL", "SUBPATTERN")
    return text if is_one else f"({text})"


def _times(low: int, high: int | None) -> str:
    if max(low, high or 0) > MAX_REPEATS:
        raise RefusedRequestError(f"The pattern repeats something {max(low, high or 0)} times.")
    plain = {(0, None): "*", (1, None): "+", (0, 1): "?", (1, 1): ""}
    if (low, high) in plain:
        return plain[low, high]
    return f"{{{low}}}" if low == high else f"{{{low},{'' if high is None else high}}}"


def _class(items: Any, pattern: str) -> str:
    is_negated = bool(items) and str(items[0][0]) == "NEGATE"
    text = ""
    for op, argument in items[is_negated:]:
        kind = str(op)
        if kind == "LITERAL":
            text += _in_class(argument)
        elif kind == "RANGE":
            text += f"{_in_class(argument[0])}-{_in_class(argument[1])}"
        elif kind == "CATEGORY" and "_NOT_" not in str(argument):
            text += _CATEGORIES[str(argument)]
        elif kind == "CATEGORY" and len(items) == 1:
            return f"[^{_CATEGORIES[str(argument).replace('_NOT_', '_')]}]"
        else:
            raise RefusedRequestError(
                f"A character class of the pattern {pattern!r} has no grammar: name what it may hold."
            )
    return f"[{'^' if is_negated else ''}{text}]"


def _in_class(code: int) -> str:
    character = chr(code)
    if character in "]\\^-[":
        return f"\\x{code:02X}"
    if character.isprintable():
        return character
    return f"\\x{code:02X}" if code < 256 else f"\\u{code:04X}" if code < 65536 else f"\\U{code:08X}"


def _quoted(text: str) -> str:
    escaped = "".join(
        f"\\{one}" if one in '"\\' else _in_class(ord(one)) if not one.isprintable() else one for one in text
    )
    return f'"{escaped}"'

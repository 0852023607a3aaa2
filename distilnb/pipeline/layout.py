"""Values as Python source, broken into lines as a formatter would break them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

WIDTH = 88  # what ruff and black take for a line when nobody says another
INDENT = "    "


@dataclass(frozen=True)
class Bracket:
    """A call or a display: head, parts (what stands before each, and the part), and tail."""

    head: str
    parts: tuple[tuple[str, Node], ...]
    tail: str


Node: TypeAlias = "str | Bracket"  # a str stands as it is


def call(name: str, given: Iterable[Node] = (), named: Mapping[str, Node] | None = None) -> Bracket:
    """Return a call with arguments by place, and by name."""
    by_name = [(f"{key}=", one) for key, one in (named or {}).items()]
    return Bracket(f"{name}(", (*(("", one) for one in given), *by_name), ")")


def laid_out(node: Node, *, before: str = "", after: str = "", indent: str = "") -> str:
    """Return `before`, a node and `after`; what does not fit on a line has a line for each part.

    >>> print(laid_out(call("f", ["1"], {"names": node_of(["a" * 40, "b" * 40])}), before="x = "))
    x = f(
        1,
        names=[
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
        ],
    )
    """
    flat = _flat(node)
    is_short = "\n" not in flat and _width(f"{indent}{before}{flat}{after}") <= WIDTH
    if is_short or isinstance(node, str) or not node.parts:
        return f"{before}{flat}{after}"
    deeper = indent + INDENT
    lines = [deeper + laid_out(part, before=key, after=",", indent=deeper) for key, part in node.parts]
    return "\n".join([before + node.head, *lines, indent + node.tail + after])


def _flat(node: Node) -> str:
    if isinstance(node, str):
        return node
    inside = ", ".join(key + _flat(part) for key, part in node.parts)
    comma = "," if node.head == "(" and len(node.parts) == 1 else ""  # a tuple of one
    return f"{node.head}{inside}{comma}{node.tail}"


def _width(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in line)


def node_of(value: object) -> Node:
    """Return plain data as a node; raises TypeError for what has no literal.

    >>> print(node_of("it's"), node_of('say "hi"'), node_of(float("inf")), node_of(True))
    "it's" 'say "hi"' float("inf") True
    """
    if isinstance(value, str):
        return text_of(value)
    if value is None or isinstance(value, (bool, int)):
        return repr(value)
    if isinstance(value, float):
        return repr(value).replace("e+", "e") if math.isfinite(value) else f'float("{value}")'
    if isinstance(value, Mapping):
        return Bracket("{", tuple((f"{_flat(node_of(key))}: ", node_of(v)) for key, v in value.items()), "}")
    if isinstance(value, (set, frozenset)):
        items = sorted(value, key=repr)
        inner = Bracket("{", tuple(("", node_of(item)) for item in items), "}")
        if isinstance(value, set):
            return inner if items else "set()"
        return call("frozenset", [inner] if items else [])
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        head, tail = "()" if isinstance(value, tuple) else "[]"
        return Bracket(head, tuple(("", node_of(item)) for item in value), tail)
    raise TypeError(f"A {type(value).__name__} has no literal.")


def text_of(text: str) -> str:
    r"""Return the literal of a text: one of several lines in triple quotes, where they hold it as it is.

    >>> print(text_of("tab\t"), text_of("two\n\x00"))
    "tab\t" "two\n\x00"
    """
    lines = text.split("\n")
    is_plain = all(line.isprintable() and line == line.rstrip() for line in lines)
    if len(lines) > 1 and is_plain and '"""' not in text and not text.endswith('"'):
        return '"""\\\n' + text.replace("\\", "\\\\") + '"""'
    quote = "'" if text.count('"') > text.count("'") else '"'
    return quote + "".join(_character(char, quote) for char in text) + quote


_NAMED = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}


def _character(char: str, quote: str) -> str:
    if char == quote:
        return f"\\{char}"
    if char in _NAMED:
        return _NAMED[char]
    return char if char.isprintable() else repr(char)[1:-1]

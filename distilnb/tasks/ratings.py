"""Reading ratings out of a judge's reply: strict in what it asks for elsewhere, lenient in what it takes
here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from distilnb.llms.fitting import without_thoughts


class Item(NamedTuple):
    """What a reply says of one text; None where it says nothing that can be used."""

    rating: int | None = None
    rationale: str | None = None
    type: int | None = None
    rating_rationale: str | None = None


class ParsedItems(NamedTuple):
    """One item for each text, and what is missing or wrong, in words."""

    items: list[Item]
    problems: list[str]


# Full-width forms of ASCII, one character for one, so that positions stay those of the reply.
_NARROW = {0xFF01 + offset: chr(0x21 + offset) for offset in range(94)}

_LEAD = r"^[ \t#*_>•\-]*"
_LABEL = re.compile(
    _LEAD + r"(rationales?[ _-]for[ _-](?:the[ _-])?ratings?|rating[ _-]rationale|rationales?|explanation"
    r"|reason(?:ing)?|ratings?|scores?|types?)[ \t*_]*:[ \t*_]*",
    re.IGNORECASE | re.MULTILINE,
)
# A label after other words of a line: "Rating: 4. Rationale: …". Only as the form writes it, with a capital,
# and where a sentence or a number has ended: elsewhere it is a word of the rationale.
_INNER_LABEL = re.compile(r"\*{0,2}(Rationale for rating|Rationale|Rating|Type)\*{0,2}[ \t]*:[ \t*_]*")
_ENDED = re.compile(
    r"(?:[.!?;|。]|(?:[0-9]|[Nn]one|[Nn]/[Aa])[)\]>*_]*[ \t]*[,–—-]?)[)\]\"'”’»*_]*[ \t*_]*\Z"
)
_MOST_BEFORE_LABEL = 40  # characters: a limit, so that long runs of blanks take no quadratic time
_HEAD = re.compile(
    _LEAD + r"(?:[a-z]+[ \t]+){0,3}?(?:text|response|answer|output|generation|completion|candidate|item)"
    r"[ \t_#*]*[\[(<]?([0-9]{1,4})[\])>]?[ \t*_#]*(?::[ \t*_]*|[–—-][ \t*_]*(?=rating|score|type)|$)",
    re.IGNORECASE | re.MULTILINE,
)
_BARE_HEAD = re.compile(
    _LEAD + r"[\[(]?([0-9]{1,4})[\]).:]+[ \t*_]*(?=rating|score|type|$)",
    re.IGNORECASE | re.MULTILINE,
)
_NUMBER = re.compile(r"[ \t*_`\"'“”„‘’«»「」『』(\[<:]*(-?[0-9]+(?:\.[0-9]+)?)")
_OUT_OF = re.compile(r"[ \t*_()\[\]>]*(?:/|out of|of)[ \t*_]*([0-9]+)(?:\.0\b)?", re.IGNORECASE)
_NO_LABEL = re.compile(r"\A[\s*_\[(]*([0-9]+(?:[ \t]*/[ \t]*5|(?=[\s*_\])]*\Z)|(?=[ \t*_]*\n)))")


def parse_items(reply: str, n_items: int, *, with_types: bool = False) -> ParsedItems:
    """Return exactly `n_items` items from a reply in the form of `## Text 1`, `Rating: 4`, `Rationale: …`.

    It takes other headings, markup, several fields on a line, `4/5`, full-width digits, missing and
    additional items, and headings that count from 0. Without headings the items are taken in their order,
    when there are enough of them.

    >>> parse_items("**Text 2**: Rating: 4/5", 2).items
    [Item(rating=None, rationale=None, type=None, rating_rationale=None), \
Item(rating=4, rationale=None, type=None, rating_rationale=None)]
    """
    reply = without_thoughts(reply).replace("\r\n", "\n")
    sections = _sections(reply)
    problems: list[str] = []
    if sections:
        by_number = _by_number(sections)
        first = 0 if by_number.keys() == set(range(n_items)) else 1
        if first == 1 and 0 in by_number:  # who is meant by any of the numbers?
            return ParsedItems(
                [Item()] * n_items, [f"the texts are numbered {_listed(by_number)}, not 1..{n_items}"]
            )
        found = [by_number.pop(number, []) for number in range(first, first + n_items)]
        if by_number:
            problems.append(f"there is no text {_listed(by_number)}")
    else:
        found = _in_order(_fields(reply) or _unlabelled(reply))
        if len(found) < n_items:
            why = [f"{len(found)} ratings for {n_items} texts, without saying which"] if found else []
            return ParsedItems([Item()] * n_items, why)
    items: list[Item] = []
    for number, fields in enumerate(found[:n_items], 1):
        item, wrong = _item(fields, with_types)
        items.append(item)
        problems += [f"{problem} (text {number})" if n_items > 1 else problem for problem in wrong]
    return ParsedItems(items, problems)


def _sections(reply: str) -> list[tuple[int, str]]:
    """Return (number, text) of what stands under each heading; none when the reply has no headings."""
    narrow = reply.translate(_NARROW)
    heads = list(_HEAD.finditer(narrow)) or list(_BARE_HEAD.finditer(narrow))
    return [(int(head[1]), text) for head, text in _split(reply, heads)]


def _by_number(sections: Sequence[tuple[int, str]]) -> dict[int, list[tuple[str, str]]]:
    """Return the fields under each number, where there are any; the first section of a number counts."""
    by_number: dict[int, list[tuple[str, str]]] = {}
    for number, text in sections:
        fields = _fields(text) or _unlabelled(text)
        if fields:
            by_number.setdefault(number, fields)
    return by_number


def _listed(numbers: Iterable[int]) -> str:
    """Return the numbers in words, a few of them where they are many."""
    numbers = sorted(numbers)
    return ", ".join(str(number) for number in numbers[:5]) + (", …" if len(numbers) > 5 else "")


def _fields(text: str) -> list[tuple[str, str]]:
    """Return the labelled values of a text in their order: (rating | rationale | type | rating_rationale,
    value).
    """
    return [(_field_of(label[1]), value) for label, value in _split(text, _labels(text.translate(_NARROW)))]


def _labels(text: str) -> list[re.Match[str]]:
    """Return the labels that begin a line, and those inside a line that name what the item lacks so far."""
    at_line = list(_LABEL.finditer(text))
    starts = {label.start(1) for label in at_line}
    inner = [label for label in _INNER_LABEL.finditer(text) if label.start(1) not in starts]
    labels: list[re.Match[str]] = []
    held: set[str] = set()
    for label in sorted(at_line + inner, key=lambda label: label.start(1)):
        name = _field_of(label[1])
        if name == "rationale" and {"type", "rating"} <= held:
            name = "rating_rationale"  # as `_item` reads it
        if label.start(1) not in starts:
            before = text[max(0, label.start() - _MOST_BEFORE_LABEL) : label.start()]
            if name in held or not _ENDED.search(before):
                continue
        elif name in held:
            held = set()  # the next item of a reply without headings
        held.add(name)
        labels.append(label)
    return labels


def _split(text: str, heads: Sequence[re.Match[str]]) -> Iterator[tuple[re.Match[str], str]]:
    """Yield each head with what stands between it and the next."""
    ends = [*(head.start() for head in heads[1:]), len(text)]
    for head, end in zip(heads, ends, strict=False):  # without a head one end is left over
        yield head, text[head.end() : end]


def _field_of(label: str) -> str:
    label = label.lower()
    if (label.startswith("rationale") and "rating" in label) or (
        label.startswith("rating") and "rationale" in label
    ):
        return "rating_rationale"
    if label.startswith(("rating", "score")):
        return "rating"
    return "type" if label.startswith("type") else "rationale"


def _unlabelled(text: str) -> list[tuple[str, str]]:
    """Accept a bare `4/5`, or a number alone on the first line, where no label says what it is."""
    match = _NO_LABEL.match(text.translate(_NARROW))
    return [("rating", match[1]), ("rationale", text[match.end() :].lstrip(" \t:-–—"))] if match else []


def _in_order(fields: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Split fields that have no headings into items: a field that an item has already begins the next one."""
    items: list[list[tuple[str, str]]] = []
    for name, value in fields:
        held = [held_name for held_name, _ in items[-1]] if items else []
        is_second_rationale = name == "rationale" and "type" in held and "rating" in held
        if not items or (name in held and not (is_second_rationale and held.count("rationale") < 2)):
            items.append([])
        items[-1].append((name, value))
    return [item for item in items if any(name == "rating" for name, _ in item)]


def _item(fields: Sequence[tuple[str, str]], with_types: bool) -> tuple[Item, list[str]]:
    values: dict[str, str] = {}
    for name, value in fields:
        if name == "rationale" and with_types and "rating" in values and "rating_rationale" not in values:
            name = "rating_rationale"  # the form's last line, under the label of the first
        values.setdefault(name, value)
    rating, wrong_rating = _whole_number(values.get("rating"), "rating", 1, 5)
    rationale = _words(values.get("rationale"))
    item = Item(rating, rationale)
    problems = [wrong_rating] if wrong_rating else []
    if with_types:
        kind, wrong_type = _type(values.get("type"))
        item = Item(rating, rationale, kind, _words(values.get("rating_rationale")))
        problems += [wrong_type] if wrong_type else []
    if item.rating is not None and (item.rating_rationale if with_types else item.rationale) is None:
        problems.append("no rationale")
    return item, problems


def _type(value: str | None) -> tuple[int | None, str]:
    if value is not None and _first_line(value).lower().strip(" .*_") in {"none", "n/a"}:
        return None, ""
    return _whole_number(value, "type", 1, 3)


def _whole_number(value: str | None, what: str, least: int, most: int) -> tuple[int | None, str]:
    """Return the one number that a value begins with, or None and what is wrong with it.

    A second number (`1-5`, `1, 2 or 3`) makes it a range or the echo of a form; `/5` and `out of 5` do not.
    """
    if value is None:
        return None, f"no {what}"
    line = _first_line(value.translate(_NARROW))
    match = _NUMBER.match(line)
    if match is None:
        return None, f"{what} {line[:20]!r} is no number"
    text = match[1]
    scale = _OUT_OF.match(line, match.end())
    if scale is not None and scale[1] != str(most):
        return None, f"{what} {text[:20]}/{scale[1][:20]} is not on the scale {least}..{most}"
    if re.search("[0-9]", line[(scale or match).end() :]):
        return None, f"{what} {line[:20]!r} is more than one number"
    whole = text[:-2] if text.endswith(".0") else text
    if "." in whole:
        return None, f"{what} {whole[:20]} is no whole number"
    if len(whole) > 4 or not least <= int(whole) <= most:
        return None, f"{what} {whole[:20]} is outside {least}..{most}"
    return int(whole), ""


def _first_line(value: str) -> str:
    return value.strip().split("\n", 1)[0].strip()


def _words(value: str | None) -> str | None:
    """Return what a rationale says, without the markup around it; None when it says nothing."""
    words = (value or "").strip().strip("*_").strip()
    return words or None

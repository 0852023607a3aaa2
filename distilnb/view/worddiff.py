"""What differs between two texts, word by word; character by character where a script sets no spaces.

Its time is bounded: sentences are matched first, and only what is left of them is taken apart into words. Where the
budget ends, a stretch counts as replaced as a whole.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

Kind = Literal["same", "gone", "new"]

MAX_REFINED = 40_000  # characters of the two sides of a stretch that is taken apart into words
MAX_STEPS = 300_000  # of the search for the shortest difference
_MAX_EDITS = 400  # of one stretch, before anchors are sought

# Blocks of scripts that set no spaces between words: Chinese, Japanese, Thai, Lao, Burmese, Khmer, Tibetan, …
_SPACELESS = (
    (0x0E00, 0x0FFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x1950, 0x19DF),
    (0x1A20, 0x1AAF),
    (0x1B00, 0x1B7F),
    (0x2E80, 0x2FDF),
    (0x3005, 0x3007),
    (0x3040, 0x30FF),
    (0x3100, 0x312F),
    (0x31A0, 0x31BF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xA980, 0xA9DF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x1B000, 0x1B16F),
    (0x20000, 0x3FFFF),
)
# Signs that \w does not take for a part of a word: accents, vowel signs of Hebrew, Arabic and the scripts of India.
_SIGNS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0900-\u0963\u0966-\u0dff"

# A sentence, or a line; in a long one a stretch that ends in a letter or a word where it may be cut: the same text is
# cut at the same places wherever it stands. No part looks far ahead in vain: a model that has broken down says "!!!!…".
_CHUNK = re.compile(
    r"[^\n.!?。！？]{0,300}(?:[.!?]{1,20}(?:\s+|$)|[。！？]+\s*|\n+)"
    r"|[^\n]{40,300}?(?:[dgkst37,;:]\s|[的是不了在有我他这们和也说就のはをにがでとも，、；：])"
    r"|[^\n]{300}|[^\n]+\n*|\n+"
)


class Piece(NamedTuple):
    """A stretch of text that both sides have, that the left one alone has (`gone`), or the right one (`new`)."""

    kind: Kind
    text: str


class Budget:
    """Steps that may still be taken to tell differences by word; several texts may share it."""

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self.steps = steps


def diff(left: str, right: str, budget: Budget | None = None) -> list[Piece]:
    """Return the pieces of both texts in their order; where something is replaced, what is gone comes first.

    >>> diff("Name three uses.", "Name two uses.")
    [Piece(kind='same', text='Name '), Piece(kind='gone', text='three'), Piece(kind='new', text='two'), \
Piece(kind='same', text=' uses.')]
    >>> [piece.text for piece in diff("数据很好", "数据不好")]
    ['数据', '很', '不', '好']
    """
    if left == right:
        return [Piece("same", left)] if left else []
    budget = budget or Budget()
    pieces: list[Piece] = []
    for kind, before, after in _aligned(_CHUNK.findall(left), _CHUNK.findall(right), Budget(MAX_STEPS // 3)):
        if kind == "same":
            pieces.append(Piece("same", "".join(before)))
        else:
            pieces += _refined("".join(before), "".join(after), budget)
    return list(_tidied(pieces))


def words(text: str) -> list[str]:
    """Return words, single characters of scripts without spaces (with their marks), signs, and stretches of blanks.

    >>> words("don't 好的 x")
    ["don't", ' ', '好', '的', ' ', 'x']
    """
    return _word_pattern().findall(text)


@lru_cache(maxsize=1)
def _word_pattern() -> re.Pattern[str]:
    spaceless = "".join(f"{chr(first)}-{chr(last)}" for first, last in _SPACELESS)
    marks = "".join(
        chr(code)
        for first, last in _SPACELESS[:11]
        for code in range(first, last + 1)
        if unicodedata.category(chr(code)).startswith("M")
    )
    marks += "\u0e33\u0eb3\u3099\u309a\ufe00-\ufe0f\U000e0100-\U000e01ef" + _SIGNS
    letter = rf"(?![{spaceless}])[\w{_SIGNS}]"
    return re.compile(
        rf"\s+|[{spaceless}][{marks}]*|(?:{letter})+(?:['’](?:{letter})+)*"
        r"|.(?:\ufe0f|[\U0001f3fb-\U0001f3ff]|\u200d.)*",
        re.DOTALL,
    )


# --- matching -----------------------------------------------------------------


class _Stretch(NamedTuple):
    kind: Literal["same", "other"]
    before: Sequence[str]
    after: Sequence[str]


def _aligned(left: Sequence[str], right: Sequence[str], budget: Budget) -> Iterator[_Stretch]:
    """Yield what both lists have, and what stands in its place where they differ, in order."""
    numbers: dict[str, int] = {}
    a = [numbers.setdefault(token, len(numbers)) for token in left]
    b = [numbers.setdefault(token, len(numbers)) for token in right]
    i = j = 0
    for at, other, length in [*_matches(a, b, budget), (len(a), len(b), 0)]:
        if at > i or other > j:
            yield _Stretch("other", left[i:at], right[j:other])
        if length:
            yield _Stretch("same", left[at : at + length], right[other : other + length])
        i, j = at + length, other + length


def _matches(a: Sequence[int], b: Sequence[int], budget: Budget) -> list[tuple[int, int, int]]:
    """Return the blocks (place in a, place in b, length) that match, in order."""
    found: list[tuple[int, int, int]] = []
    todo = [(0, len(a), 0, len(b))]
    while todo:
        low, high, other_low, other_high = todo.pop()
        start = low
        while low < high and other_low < other_high and a[low] == b[other_low]:
            low, other_low = low + 1, other_low + 1
        if low > start:
            found.append((start, other_low - (low - start), low - start))
        end = high
        while high > low and other_high > other_low and a[high - 1] == b[other_high - 1]:
            high, other_high = high - 1, other_high - 1
        if end > high:
            found.append((high, other_high, end - high))
        if low == high or other_low == other_high:
            continue
        inner = a[low:high], b[other_low:other_high]
        pairs = _shortest(*inner, budget)
        if pairs is not None:
            found += [(low + i, other_low + j, 1) for i, j in pairs]
            continue
        cuts = [(low, other_low), *((low + i, other_low + j) for i, j in _anchors(*inner))]
        if len(cuts) > 1:
            for (i, j), (next_i, next_j) in zip(cuts, [*cuts[1:], (high, other_high)], strict=True):
                todo.append((i, next_i, j, next_j))
    return _joined(sorted(block for block in found if block[2]))


def _joined(blocks: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Return blocks with those that follow each other on both sides made one."""
    joined: list[tuple[int, int, int]] = []
    for i, j, length in blocks:
        last_i, last_j, last = joined[-1] if joined else (-1, -1, 0)
        if last_i + last == i and last_j + last == j:
            joined[-1] = (last_i, last_j, last + length)
        else:
            joined.append((i, j, length))
    return joined


def _shortest(a: Sequence[int], b: Sequence[int], budget: Budget) -> list[tuple[int, int]] | None:
    """Return the pairs of places that match in a shortest difference (Myers), None where it is too far to seek."""
    n, m = len(a), len(b)
    if abs(n - m) > _MAX_EDITS or budget.steps <= 0:
        return None
    reach, trace = {1: 0}, list[dict[int, int]]()
    for edits in range(min(n + m, _MAX_EDITS) + 1):
        trace.append(reach.copy())
        for k in range(-edits, edits + 1, 2):
            down = k == -edits or (k != edits and reach[k - 1] < reach[k + 1])
            x = reach[k + 1] if down else reach[k - 1] + 1
            y = begun = x - k
            while x < n and y < m and a[x] == b[y]:
                x, y = x + 1, y + 1
            budget.steps -= (y - begun) // 2  # a step on a diagonal is that much cheaper
            reach[k] = x
            if x >= n and y >= m:
                return _walked_back(trace, n, m)
        budget.steps -= 2 * edits + 2
        if budget.steps <= 0:
            return None
    return None


def _walked_back(trace: Sequence[dict[int, int]], x: int, y: int) -> list[tuple[int, int]]:
    pairs = []
    for edits in range(len(trace) - 1, -1, -1):
        reach, k = trace[edits], x - y
        down = k == -edits or (k != edits and reach[k - 1] < reach[k + 1])
        old_k = k + 1 if down else k - 1
        old_x = reach[old_k] if edits else 0
        old_y = old_x - old_k if edits else 0
        while x > old_x and y > old_y:
            x, y = x - 1, y - 1
            pairs.append((x, y))
        x, y = old_x, old_y
    return pairs[::-1]


def _anchors(a: Sequence[int], b: Sequence[int]) -> list[tuple[int, int]]:
    """Return places of what either side has once, as many as stand in one order (the patience of a card player)."""
    in_a, in_b = Counter(a), Counter(b)
    place = {token: j for j, token in enumerate(b) if in_b[token] == 1}
    pairs = [(i, place[token]) for i, token in enumerate(a) if in_a[token] == 1 and token in place]
    tops: list[int] = []
    ends: list[int] = []  # the pair on top of each pile
    before: list[int] = []
    for index, (_, j) in enumerate(pairs):
        pile = bisect_left(tops, j)
        before.append(ends[pile - 1] if pile else -1)
        tops[pile : pile + 1] = [j]
        ends[pile : pile + 1] = [index]
    chosen = []
    index = ends[-1] if ends else -1
    while index >= 0:
        chosen.append(pairs[index])
        index = before[index]
    return chosen[::-1]


# --- pieces -------------------------------------------------------------------


def _refined(left: str, right: str, budget: Budget) -> list[Piece]:
    """Return the pieces of a stretch that differs, by word where it is not too long."""
    if not left or not right:
        return _replaced(left, right)
    if len(left) + len(right) > MAX_REFINED or budget.steps <= 0:
        first = _n_common(left, right)
        last = min(_n_common(left[::-1], right[::-1]), len(left) - first, len(right) - first)
        middle = _replaced(left[first : len(left) - last], right[first : len(right) - last])
        ends = [Piece("same", left[:first]), *middle, Piece("same", left[len(left) - last :])]
        return [piece for piece in ends if piece.text]
    budget.steps -= (len(left) + len(right)) // 4  # to take them apart
    pieces = []
    for kind, before, after in _aligned(words(left), words(right), budget):
        if kind == "same":
            pieces.append(Piece("same", "".join(before)))
        else:
            pieces += _replaced("".join(before), "".join(after))
    return pieces


def _replaced(left: str, right: str) -> list[Piece]:
    return [piece for piece in (Piece("gone", left), Piece("new", right)) if piece.text]


def _n_common(left: str, right: str) -> int:
    """Return how many characters two texts have in common from their start."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[:middle] == right[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _tidied(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Yield pieces joined where they follow each other; blanks alone between two changes are a part of the change."""
    listed = list(pieces)
    gone, new, same = "", "", ""
    for index, piece in enumerate(listed):
        follows = index + 1 < len(listed) and listed[index + 1].kind != "same"
        is_gap = piece.kind == "same" and piece.text.isspace() and "\n" not in piece.text
        if piece.kind == "same" and not (is_gap and follows and (gone or new)):
            yield from _replaced(gone, new)
            gone = new = ""
            same += piece.text
            continue
        if same:
            yield Piece("same", same)
            same = ""
        gone += piece.text * (piece.kind != "new")
        new += piece.text * (piece.kind != "gone")
    yield from _replaced(gone, new)
    if same:
        yield Piece("same", same)

"""How many tokens texts and images come to where nobody has counted them: as providers say, else rather too many."""

from __future__ import annotations

import math
import re
import struct
from typing import NamedTuple


def text_tokens(text: str) -> int:
    """Return how many tokens a text comes to at most: three ASCII characters are one, of other scripts each may be.

    >>> text_tokens("Name three uses."), text_tokens("アルゴン")
    (6, 4)
    """
    return -(-len(text) // 3) if text.isascii() else len(text)


class Size(NamedTuple):
    """How wide and how high an image is, in pixels."""

    width: int
    height: int

    def within(self, longest: float, shortest: float = math.inf) -> Size:
        """Return the size after an image was made smaller until its sides are no longer than these."""
        factor = min(1.0, longest / max(self), shortest / min(self))
        return Size(round(self.width * factor) or 1, round(self.height * factor) or 1)

    def tiles(self, side: int) -> int:
        """Return how many squares cover it."""
        return math.ceil(self.width / side) * math.ceil(self.height / side)


# --- the providers' rules, as their documentation gives them ------------------------

# OpenAI: by squares of 512 pixels (so many tokens for the image, so many for each), or by patches of 32 pixels (so many
# for each). The first that fits counts.
_OPENAI_TILES = (
    (re.compile(r"gpt-4o-mini"), 2833, 5667),
    (re.compile(r"gpt-5(-chat)?(-latest|-\d{4}.*)?$"), 70, 140),
    (re.compile(r"o[13](-pro|-\d{4}.*)?$"), 75, 150),
    (re.compile(r"gpt-4o|chatgpt-4o|gpt-4\.1(-\d{4}.*)?$|gpt-4\.5|gpt-4-turbo"), 85, 170),
)
_OPENAI_PATCHES = (
    (re.compile(r"gpt-(4\.1|5)-mini"), 1.62),
    (re.compile(r"gpt-(4\.1|5)-nano"), 2.46),
    (re.compile(r"o4-mini"), 1.72),
)
_MAX_PATCHES = 1536


def openai_image_tokens(model: str, size: Size) -> int | None:
    """Return what a model of OpenAI's counts for an image at full detail; None for one whose rule is not known here.

    >>> openai_image_tokens("gpt-4o", Size(1024, 1024)), openai_image_tokens("gpt-4o", Size(2048, 4096))
    (765, 1105)
    """
    for name, base, each in _OPENAI_TILES:
        if name.match(model):
            return base + each * size.within(2048).within(math.inf, 768).tiles(512)
    for name, factor in _OPENAI_PATCHES:
        if name.match(model):
            return math.ceil(min(size.tiles(32), _MAX_PATCHES) * factor)
    return None


def anthropic_image_tokens(size: Size) -> int:
    """Return what Claude counts for an image: a token for 750 pixels, of at most 1568 a side.

    >>> anthropic_image_tokens(Size(200, 200)), anthropic_image_tokens(Size(1000, 1000))
    (54, 1334)
    """
    smaller = size.within(1568)
    return min(1600, math.ceil(smaller.width * smaller.height / 750))


def gemini_image_tokens(size: Size) -> int:
    """Return what Gemini counts for an image: 258 tokens for a small one, and for each square of a larger one.

    >>> gemini_image_tokens(Size(384, 384)), gemini_image_tokens(Size(960, 540))
    (258, 1548)
    """
    if max(size) <= 384:
        return 258
    side = min(768, max(256, math.floor(min(size) / 1.5)))
    return 258 * size.tiles(side)


# --- what a file says of its size -----------------------------------------------------

_WITH_SIZE = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # JPEG's segments that begin a frame


def size_of(data: bytes) -> Size | None:
    """Return the size of a PNG, GIF, JPEG or WebP; None where its head does not tell.

    >>> size_of(b"GIF89a" + bytes([64, 0, 48, 0])), size_of(b"?")
    (Size(width=64, height=48), None)
    """
    try:
        found = _size_of(data)
    except (struct.error, IndexError):  # it is cut off
        return None
    return found if found and min(found) > 0 else None


def _size_of(data: bytes) -> Size | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return Size(*struct.unpack_from(">II", data, 16))
    if data.startswith((b"GIF87a", b"GIF89a")):
        return Size(*struct.unpack_from("<HH", data, 6))
    if data.startswith(b"\xff\xd8"):
        return _size_of_jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _size_of_webp(data)
    return None


def _size_of_jpeg(data: bytes) -> Size | None:
    place = 2
    while data[place] == 0xFF:
        kind = data[place + 1]
        if kind in _WITH_SIZE:
            height, width = struct.unpack_from(">HH", data, place + 5)
            return Size(width, height)
        place += 1 if kind == 0xFF else 2 + struct.unpack_from(">H", data, place + 2)[0]
    return None


def _size_of_webp(data: bytes) -> Size | None:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Size(width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return Size((bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1)
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return Size(width, height)
    return None

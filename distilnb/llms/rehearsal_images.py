"""Images without a model: to rehearse a pipeline that draws."""

from __future__ import annotations

import asyncio
import base64
import struct
import zlib
from hashlib import blake2b
from typing import ClassVar, Literal

from distilnb.llms.base import LLM
from distilnb.llms.request import Answer, Client, Reply, Request

_SIDE = 64  # pixels


class RehearsalImages(LLM):
    """Pictures of one colour that cost nothing, another for another prompt.

    >>> RehearsalImages().label
    'rehearsal'
    """

    provider: ClassVar[str] = "rehearsal"
    makes: ClassVar[Literal["text", "vector", "image"]] = "image"
    is_local: ClassVar[bool] = True

    model: str = "rehearsal"

    @property
    def label(self) -> str:
        """The short name in tables; every row carries it as the name of its model."""
        return self.provider

    def make_client(self) -> Client:
        """Return a client that answers in this process."""
        return _RehearsalClient(self.label)


class _RehearsalClient:
    def __init__(self, label: str) -> None:
        self._label = label

    async def send(self, request: Request) -> Answer:
        await asyncio.sleep(0)  # so that others have their turn
        replies = []
        for index in range(request.first, request.first + request.n):
            text = f"{request.messages[-1]['content']}|{request.salt}|{index}"
            colour = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=3).digest()
            replies.append(Reply(base64.b64encode(png_of(colour)).decode("ascii"), "stop", self._label))
        return Answer(tuple(replies))

    async def close(self) -> None:
        """Hold nothing."""


def png_of(colour: bytes) -> bytes:
    """Return a PNG of one colour, which three bytes say: red, green, blue."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    rows = (b"\0" + colour * _SIDE) * _SIDE
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)

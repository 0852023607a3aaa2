"""Digests of rows on pages of a file, with how often each was seen.

The file is one process's own: it has no name, and is gone with the process.
"""

from __future__ import annotations

import os
import sys
import tempfile
import weakref
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from distilnb.ids import DIGEST_BYTES, DigestStore

Numbers: TypeAlias = NDArray[np.int64]

# Of the filter's bits the highest of a digest name one, so that sorted digests meet them in their order. Digests have
# a sign, and as an index into bytes a negative number is as good. It has four megabytes: among ten million digests it
# knows three of four strangers.
_FILTER_BYTES = 1 << 22
_TO_BIT, _TO_BYTE = 64 - 25, 64 - 22
_ENTRY_BYTES = 16  # a digest, and how often it was seen
_PAGE_ENTRIES = 512
_PAGE_BYTES = _PAGE_ENTRIES * _ENTRY_BYTES
_FIRST_PAGE_BITS = 10
_ENTRIES_PER_PAGE = 320  # on average, at most: digests are spread so evenly that no page is full then


class _Entry(NamedTuple):
    """What is kept of a digest, and where."""

    n_seen: int
    place: int  # in the file


class DigestPages(DigestStore):
    """Digests on disk, each with how often it was seen: on the page that its highest bits number.

    Memory stays the same however many there are. A filter tells most strangers without a look at the disk.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._n = 0
        self._bits = _FIRST_PAGE_BITS  # that number the pages
        self._filled = array("H")  # entries on each page
        self._file: IO[bytes] | None = None
        self._filter = np.zeros(0, np.uint8)

    def find(self, digests: array[int]) -> Mapping[int, int]:
        """Return how often those of the digests that are here were seen."""
        if not self._n:
            return {}
        wanted = np.frombuffer(digests, np.int64)
        return {digest: entry.n_seen for digest, entry in self._entries(wanted).items()}

    def put(self, digests: array[int], counts: Mapping[int, int]) -> None:
        """Keep different digests, each seen once or as often as `counts` says, in place of what is here of them."""
        if self._file is None:
            self._filter = np.zeros(_FILTER_BYTES, np.uint8)
            self._begin()
        new = np.sort(np.frombuffer(digests, np.int64))
        # Whoever puts one that is here has found it before, and counted on.
        there = self._entries(np.fromiter(counts, np.int64, len(counts)))
        for digest, entry in there.items():
            n_seen = counts[digest].to_bytes(DIGEST_BYTES, sys.byteorder)
            os.pwrite(self._descriptor, n_seen, entry.place + DIGEST_BYTES)
        if there:
            new = np.setdiff1d(new, np.fromiter(there, np.int64, len(there)), assume_unique=True)
        while self._n + len(new) > _ENTRIES_PER_PAGE << self._bits:
            self._grow()
        entries = np.ones((len(new), 2), np.int64)
        entries[:, 0] = new
        for digest, count in counts.items():
            if digest not in there:
                entries[np.searchsorted(new, digest), 1] = count
        np.bitwise_or.at(self._filter, new >> _TO_BYTE, self._bit_of(new))
        self._append(entries)

    def _bit_of(self, digests: Numbers) -> NDArray[np.uint8]:
        """Return of each digest the bit that stands for it, in a byte of the filter."""
        bits: NDArray[np.uint8] = (1 << (digests >> _TO_BIT & 7)).astype(np.uint8)
        return bits

    def _entries(self, digests: Numbers) -> dict[int, _Entry]:
        """Return the entries of those of the digests that are here."""
        hits = digests[(self._filter[digests >> _TO_BYTE] & self._bit_of(digests)) != 0].tolist()
        return {digest: entry for digest in hits if (entry := self._entry(digest)) is not None}

    def _entry(self, digest: int) -> _Entry | None:
        page = self._page_of(digest)
        first = page * _PAGE_BYTES
        data = os.pread(self._descriptor, self._filled[page] * _ENTRY_BYTES, first)
        wanted, place = digest.to_bytes(DIGEST_BYTES, sys.byteorder, signed=True), -1
        while (place := data.find(wanted, place + 1)) >= 0:
            if place % _ENTRY_BYTES == 0:  # else it is a count, or lies across two numbers
                n_seen = data[place + DIGEST_BYTES : place + _ENTRY_BYTES]
                return _Entry(int.from_bytes(n_seen, sys.byteorder), first + place)
        return None

    def _page_of(self, digest: int) -> int:
        return (digest + (1 << 63)) >> (64 - self._bits)  # digests have a sign

    def _pages_of(self, digests: Numbers) -> NDArray[np.uint64]:
        unsigned: NDArray[np.uint64] = digests.astype(np.uint64) ^ np.uint64(1 << 63)
        return unsigned >> np.uint64(64 - self._bits)

    def _append(self, entries: Numbers) -> None:
        """Write digests and their counts, sorted by digest, behind what is on their pages, one write a page."""
        if not len(entries):
            return
        pages = self._pages_of(entries[:, 0])
        lasts = (pages[1:] != pages[:-1]).nonzero()[0] + 1
        data, first = entries.tobytes(), 0
        for last in [*lasts.tolist(), len(entries)]:
            page = int(pages[first])
            n_there = self._filled[page]
            if n_there + last - first > _PAGE_ENTRIES:
                self._grow()
                self._append(entries[first:])
                return
            place = page * _PAGE_BYTES + n_there * _ENTRY_BYTES
            os.pwrite(self._descriptor, data[first * _ENTRY_BYTES : last * _ENTRY_BYTES], place)
            self._filled[page] += last - first
            self._n += last - first
            first = last

    def _begin(self) -> None:
        self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - open as long as this
        weakref.finalize(self, self._file.close)
        self._descriptor = self._file.fileno()
        self._filled = array("H", bytes(2 << self._bits))
        self._n = 0

    def _grow(self) -> None:
        """Move all to four times as many pages, page by page."""
        old, filled = self._file, self._filled
        assert old is not None
        with old:
            self._bits += 2
            self._begin()
            for page, n_entries in enumerate(filled):
                entries = np.frombuffer(
                    os.pread(old.fileno(), n_entries * _ENTRY_BYTES, page * _PAGE_BYTES), np.int64
                )
                entries = entries.reshape(-1, 2)
                self._append(entries[entries[:, 0].argsort()])

"""Digests of a source's rows: in a file in their order, for whoever takes over; and on pages, to find them again.

The file is a run's. It is written before the journal names the rows, so it is ahead of it and never behind. The pages
are one process's own: a file without a name, which is gone with the process.
"""

from __future__ import annotations

import os
import sys
import tempfile
import weakref
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, NamedTuple

from distilnb.engine.database import telling
from distilnb.ids import DIGEST_BYTES, DigestCounter, digests_in
from distilnb.rows import read_batch

_FIX = "Free some disk space, or delete the file if it is damaged (it is made again); then resume the run."
_RECALLED_BYTES = 1 << 16  # read at a time
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


class DigestLog:
    """Counts the digests of a source's rows, and keeps them in a file; raises StoreError when that cannot be done."""

    def __init__(self, path: Path, n_rows: int, seen: Iterable[tuple[Path, int]] = ()) -> None:
        """Begin after the first `n_rows` rows of the source, which the journal has; the others are forgotten.

        `seen` are the batch files of those rows, each with the number of its rows: for when somebody removed the file.
        """
        self._path = path
        with self._telling("read"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._counter = DigestCounter(DigestPages(path.parent))
            n_known = self._recall(n_rows)
        if n_known < n_rows:
            self._recover(n_known, seen)

    def count(self, joined: bytes) -> list[tuple[int, int]]:
        """Count the digests of the next rows; returns the place of each that came before, and how often it did."""
        with self._telling("written"):
            with self._path.open("ab") as file:
                file.write(joined)
            return self._counter.count(joined)

    def _recall(self, n_rows: int) -> int:
        n_bytes = 0
        with self._path.open("a+b") as file:
            file.truncate(min(n_rows, file.tell() // DIGEST_BYTES) * DIGEST_BYTES)
            file.seek(0)
            while known := file.read(_RECALLED_BYTES):
                self._counter.count(known)
                n_bytes += len(known)
        return n_bytes // DIGEST_BYTES

    def _recover(self, n_known: int, seen: Iterable[tuple[Path, int]]) -> None:
        first = 0
        for path, n_rows in seen:
            if first + n_rows > n_known:
                self.count(digests_in(read_batch(path).ids[max(0, n_known - first) :]))
            first += n_rows

    def _telling(self, done: str) -> AbstractContextManager[None]:
        return telling(f"The digests in {str(self._path)!r} cannot be {done}", _FIX)


class _Entry(NamedTuple):
    """What is kept of a digest, and where."""

    n_seen: int
    place: int  # in the file


class DigestPages:
    """Digests on disk, each with how often it was seen: on the page that its highest bits number.

    Memory stays the same however many there are. A filter tells most strangers without a look at the disk.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._n = 0
        self._bits = _FIRST_PAGE_BITS  # that number the pages
        self._filled = array("H")  # entries on each page
        self._file: IO[bytes] | None = None
        self._filter = bytearray()

    def find(self, digests: Sequence[int]) -> Mapping[int, int]:
        """Return how often those of the digests that are here were seen."""
        return {digest: entry.n_seen for digest, entry in self._entries(digests).items()} if self._n else {}

    def put(self, digests: Sequence[int], counts: Sequence[int]) -> None:
        """Keep digests, which are sorted, with how often they were seen, in place of what is here of them."""
        if self._file is None:
            self._filter = bytearray(_FILTER_BYTES)
            self._begin()
        repeated = [digest for digest, count in zip(digests, counts, strict=True) if count > 1]
        there = self._entries(repeated)  # whoever puts one that is here has found it before, and counted on
        if there:
            counted = dict(zip(digests, counts, strict=True))
            for digest, entry in there.items():
                count = counted.pop(digest).to_bytes(DIGEST_BYTES, sys.byteorder)
                os.pwrite(self._descriptor, count, entry.place + DIGEST_BYTES)
            digests, counts = list(counted), list(counted.values())
        while self._n + len(digests) > _ENTRIES_PER_PAGE << self._bits:
            self._grow()
        bits = self._filter
        for digest in digests:
            bits[digest >> _TO_BYTE] |= 1 << (digest >> _TO_BIT & 7)
        self._append(array("q", digests), array("q", counts))

    def _entries(self, digests: Sequence[int]) -> dict[int, _Entry]:
        """Return the entries of those of the digests that are here."""
        bits = self._filter
        hits = [digest for digest in digests if bits[digest >> _TO_BYTE] >> (digest >> _TO_BIT & 7) & 1]
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

    def _append(self, digests: array[int], counts: array[int]) -> None:
        """Write sorted digests and their counts behind what is on their pages, one write a page."""
        entries = array("q", bytes(_ENTRY_BYTES * len(digests)))
        entries[::2], entries[1::2] = digests, counts
        first = 0
        while first < len(digests):
            page = self._page_of(digests[first])
            last = bisect_left(digests, ((page + 1) << (64 - self._bits)) - (1 << 63), first)
            if self._filled[page] + last - first > _PAGE_ENTRIES:
                self._grow()
                self._append(digests[first:], counts[first:])
                return
            place = page * _PAGE_BYTES + self._filled[page] * _ENTRY_BYTES
            os.pwrite(self._descriptor, entries[2 * first : 2 * last].tobytes(), place)
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
                entries = array("q", os.pread(old.fileno(), n_entries * _ENTRY_BYTES, page * _PAGE_BYTES))
                counted = dict(zip(entries[::2], entries[1::2], strict=True))
                digests = sorted(counted)
                self._append(array("q", digests), array("q", map(counted.__getitem__, digests)))

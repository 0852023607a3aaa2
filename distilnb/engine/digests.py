"""Digests of a source's rows, in their order, in a file of the run, for whoever takes over.

It is written before the journal names the rows, so it is ahead of it and never behind.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from distilnb.engine.database import telling
from distilnb.ids import DIGEST_BYTES, DigestCounter, DigestStore, digests_in
from distilnb.rows import read_batch

_FIX = "Free some disk space, or delete the file if it is damaged (it is made again); then resume the run."
_RECALLED_BYTES = 1 << 16  # read at a time


class DigestLog:
    """Counts the digests of a source's rows, and keeps them in a file; raises StoreError when that cannot be done."""

    def __init__(self, path: Path, n_rows: int, seen: Iterable[tuple[Path, int]] = ()) -> None:
        """Begin after the first `n_rows` rows of the source, which the journal has; the others are forgotten.

        `seen` are the batch files of those rows, each with the number of its rows: for when somebody removed the file.
        """
        self._path = path
        with self._telling("read"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._counter = DigestCounter(partial(pages_in, path.parent))
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


def pages_in(folder: Path) -> DigestStore:
    """Return a place for digests beyond those in memory; a process with fewer loads nothing of it."""
    from distilnb.engine.digest_pages import DigestPages

    return DigestPages(folder)

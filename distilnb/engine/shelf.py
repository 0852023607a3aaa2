"""Batches that are read more than once: the files hold them, and memory those that were used last."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from distilnb.rows import Batch, read_batch

MAX_BYTES = 8 << 20  # of files; their rows take about four times as much memory
MIN_KEPT = 8  # however large they are: a join goes to and fro between those of its branches


@dataclass
class Shelf:
    """Batches by number; one that was put down in favour of others is read again when it is asked for."""

    folder: Path
    max_bytes: int = MAX_BYTES
    _paths: dict[int, str] = field(default_factory=dict)
    _kept: OrderedDict[int, tuple[Batch, int]] = field(default_factory=OrderedDict)
    _n_bytes: int = 0

    def put(self, number: int, path: str) -> Batch:
        """Take a batch in by its path below the folder, and return it."""
        self._paths[number] = path
        return self.get(number)

    def get(self, number: int) -> Batch:
        """Return a batch that was taken in before."""
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number][0]
        path = self.folder / self._paths[number]
        batch, size = read_batch(path), path.stat().st_size
        self._kept[number] = batch, size
        self._n_bytes += size
        while self._n_bytes > self.max_bytes and len(self._kept) > MIN_KEPT:
            _, (_, lost) = self._kept.popitem(last=False)
            self._n_bytes -= lost
        return batch

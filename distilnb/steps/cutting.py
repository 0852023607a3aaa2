"""Large files of JSON lines, cut into parts that several workers read at once.

Where a part begins depends on the files alone, so that all who cut them get the same parts, and each reads its own
and only counts the lines of the others, which costs a fiftieth.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from distilnb.rows import Row
from distilnb.steps.files import DataFile, parse_lines, rows_of_lines, told

PART_BYTES = 1 << 19  # of a part, and the rest of its last line: some thousand rows
MANY_BYTES = 1 << 23  # smaller files have too few parts


def can_be_cut(files: Sequence[DataFile]) -> bool:
    """Whether files are such as can be cut, and so large that it is worth while."""
    if not all(file.format == "jsonl" and not file.path.endswith(".gz") for file in files):
        return False
    try:
        return sum(os.path.getsize(file.path) for file in files) >= MANY_BYTES
    except OSError:
        return False


class Part(NamedTuple):
    """Some lines of a file, with the numbers of lines before them: in the file, and in all files before too."""

    path: str
    data: bytes
    n_before: int
    n_before_in_all: int

    @property
    def is_blank(self) -> bool:
        """Whether all of its lines are blank: no row, and no error."""
        return not self.data.decode("utf-8" if self.n_before else "utf-8-sig", "replace").strip()

    def rows(self) -> Iterator[Row]:
        """Yield the rows; raises InputError at a line that is none, naming file and line."""
        with told(self.path):
            for rows in rows_of_lines(self.path, self._lines(), self.n_before):
                yield from rows

    def parsed(self) -> list[Row] | None:
        """Return what the fast JSON reader makes of the rows, None where it refuses a line."""
        return parse_lines(self._lines())

    def _lines(self) -> list[bytes]:
        return io.BytesIO(self.data).readlines()


class PartReader:
    """Reads parts by their numbers; it goes forward through the files, and begins again for an earlier part."""

    def __init__(self, files: Sequence[DataFile], part_bytes: int = PART_BYTES) -> None:
        self._files, self._part_bytes = files, part_bytes
        self._begin()

    def _begin(self) -> None:
        self._next = 0
        self._parts = self._cut()

    def read(self, number: int) -> Part | None:
        """Return a part, None behind the last; raises InputError when a file cannot be read."""
        if number < self._next:
            self._begin()
        for part in self._parts:
            self._next += 1
            if self._next > number:
                return part
        return None

    def has_rows(self) -> bool:
        """Whether any part has a line that is not blank; looks no further than the first that has."""
        return not all(part.is_blank for part in self._cut())

    def _cut(self) -> Iterator[Part]:
        n_in_all = 0
        for file in self._files:
            n_in_file = 0
            with told(file.path), open(file.path, "rb") as stream:
                for data in _pieces(stream, self._part_bytes):
                    yield Part(file.path, data, n_in_file, n_in_all)
                    n_lines = data.count(b"\n") + (not data.endswith(b"\n"))
                    n_in_file += n_lines
                    n_in_all += n_lines


def _pieces(stream: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    while data := stream.read(size_bytes):
        if not data.endswith(b"\n"):
            data += stream.readline()
        yield data

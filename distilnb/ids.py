"""Ids: a row is named for ever by where it came from and what it holds.

A source's row is `<source>:<digest of content>:<k>`, where k is how many equal rows came before it. To know k takes
the digests of all rows so far: eight bytes each in a table of our own (a dict takes a hundred), and past a million
rows they go to disk, where there is a place for them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from distilnb.values import dump, is_plain

RowId: TypeAlias = str

KEPT_DIGESTS = (1 << 20) - (1 << 14)  # in memory: half of 2**21 slots, with room for a batch; more go to disk
_FIRST_SLOTS = 1 << 12
DIGEST_BYTES = 8


def row_digest(row: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that name the content of a row; the order of keys does not matter."""
    import xxhash

    return xxhash.xxh3_64_hexdigest(dump(row, sort_keys=True))


def row_digests(rows: Sequence[Mapping[str, Any]], *, are_plain: bool = False) -> bytes:
    """Return the digests of rows, eight bytes each, one after the other.

    `are_plain` says that each is plain in the sense of `is_plain`, which saves looking.
    """
    import orjson
    import xxhash  # it names rows, and proves nothing: of those that would share a name, k tells them apart

    sort = orjson.OPT_SORT_KEYS
    texts = None
    if are_plain or is_plain(rows):
        try:
            texts = [orjson.dumps(row, None, sort) for row in rows]
        except TypeError:  # a lone surrogate or a long integer: `dump` finds out where
            texts = None
    if texts is None:
        texts = [dump(row, sort_keys=True) for row in rows]
    return b"".join(map(xxhash.xxh3_64_digest, texts))


def root_id(row_id: RowId) -> RowId:
    """Return the id of the source's row that a row stems from.

    >>> root_id("load:9f30e13409770f5e:0.2.1")
    'load:9f30e13409770f5e:0'
    """
    head, colon, tail = row_id.rpartition(":")
    return head + colon + tail.partition(".")[0]


def is_below(row_id: RowId, other: RowId) -> bool:
    """Whether a row is the other one, or stems from it.

    >>> is_below("load:9f:0.2.1", "load:9f:0.2"), is_below("load:9f:10", "load:9f:1")
    (True, False)
    """
    return row_id == other or row_id.startswith(f"{other}.")


class DigestShelf(Protocol):
    """A place on disk for digests and how often each was seen."""

    def find(self, digests: Sequence[int]) -> Mapping[int, int]:
        """Return how often those of the digests that are here were seen."""

    def put(self, counted: Iterable[tuple[int, int]], n_rows: int) -> None:
        """Keep digests with their new counts, sorted; with them the first `n_rows` rows of the source are here."""


class IdMaker:
    """Names the rows of one source in their order."""

    def __init__(self, source: str, seen: Iterable[RowId] = (), *, shelf: DigestShelf | None = None) -> None:
        self._source = source
        self._shelf = shelf
        self._kept = _Digests()
        self.saw(list(seen))

    def make(self, row: Mapping[str, Any]) -> RowId:
        """Return the id of the next row."""
        return self.make_all([row])[0]

    def make_all(
        self, rows: Sequence[Mapping[str, Any]], *, are_plain: bool = False, digests: bytes | None = None
    ) -> list[RowId]:
        """Return the ids of the next rows; `are_plain` as for `row_digests`, `digests` where they are known."""
        joined = row_digests(rows, are_plain=are_plain) if digests is None else digests
        text, head, step = joined.hex(), self._source + ":", 2 * DIGEST_BYTES
        ids = [head + text[i : i + step] + ":0" for i in range(0, len(text), step)]
        for place, k in self._count(joined):
            ids[place] = f"{ids[place][:-1]}{k}"
        return ids

    def saw(self, ids: Sequence[RowId]) -> None:
        """Count rows that were named before, by another process."""
        self._count(bytes.fromhex("".join([row_id.rsplit(":", 2)[1] for row_id in ids])))

    @property
    def is_full(self) -> bool:
        """Whether there are so many digests that they are to go to disk."""
        return self._shelf is not None and self._kept.n >= KEPT_DIGESTS

    def shelve(self, n_rows: int) -> None:
        """Put the digests on disk when there are many; call it when the first `n_rows` rows are safe, and no more."""
        if self._shelf is not None and self.is_full:
            self._shelf.put(self._kept.counted(), n_rows)
            self._kept = _Digests()

    def _count(self, joined: bytes) -> list[tuple[int, int]]:
        """Count digests; returns the place of each that came before, and how often it did."""
        digests = array("q", joined)
        return self._kept.add(digests, self._shelf.find(digests) if self._shelf is not None else {})


class _Digests:
    """A set of 64-bit digests in an array, by open addressing, with a count of those that came again."""

    def __init__(self) -> None:
        self.n = 0
        self._counts: dict[int, int] = {}  # of what came more than once
        self._slots = array("q", bytes(8 * _FIRST_SLOTS))  # 0: empty

    def add(self, digests: Sequence[int], earlier: Mapping[int, int]) -> list[tuple[int, int]]:
        """Add digests in their order; returns the place of each that came before, here or `earlier`, and its count."""
        while 2 * (self.n + len(digests)) > len(self._slots):
            self._grow()
        slots, mask, counts = self._slots, len(self._slots) - 1, self._counts
        again = []
        for place, digest in enumerate(digests):
            digest = digest or 1
            slot = digest & mask
            while (found := slots[slot]) != digest and found:
                slot = (slot + 1) & mask
            if found:
                count = counts.get(digest, 1)
            else:
                slots[slot] = digest
                self.n += 1
                count = earlier.get(digest, 0) if earlier else 0
                if not count:
                    continue
            counts[digest] = count + 1
            again.append((place, count))
        return again

    def counted(self) -> Iterator[tuple[int, int]]:
        """Yield all digests, sorted, with their counts; a part at a time, so that memory stays low."""
        count = self._counts.get
        for top in range(-2, 2):  # of 64 bits with a sign the two highest
            for digest in sorted(digest for digest in self._slots if digest >> 62 == top and digest):
                yield digest, count(digest, 1)

    def _grow(self) -> None:
        old = self._slots
        self._slots = slots = array("q", [0]) * (2 * len(old))  # not from bytes, which would stand beside it
        mask = len(slots) - 1
        for digest in old:
            if digest:
                slot = digest & mask
                while slots[slot]:
                    slot = (slot + 1) & mask
                slots[slot] = digest

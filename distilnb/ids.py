"""Ids: a row is named for ever by where it came from and what it holds.

A source's row is `<source>:<digest of content>:<k>`, where k is how many equal rows came before it. To know k takes
the digests of all rows so far: the last ones in memory, and the others on disk, where there is a place for them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from distilnb.values import dump, is_plain

RowId: TypeAlias = str

_COUNTED_AT_ONCE = 1 << 12
KEPT_DIGESTS = 1 << 16  # in memory, where a set takes about a hundred bytes for each; more go to disk
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


class DigestStore(Protocol):
    """A place on disk for digests and how often each was seen."""

    def find(self, digests: array[int]) -> Mapping[int, int]:
        """Return how often those of the digests that are here were seen."""

    def put(self, digests: array[int], counts: Mapping[int, int]) -> None:
        """Keep different digests, each seen once or as often as `counts` says, in place of what is here of them."""


def digests_in(ids: Iterable[RowId]) -> bytes:
    """Return the digests in ids of a source's rows, eight bytes each, one after the other."""
    return bytes.fromhex("".join([row_id.rsplit(":", 2)[1] for row_id in ids]))


def name_first(source: str, joined: bytes) -> list[RowId]:
    """Return the ids of rows of a source, given their digests one after the other, as if none had come before."""
    digests = joined.hex(":", DIGEST_BYTES).split(":") if joined else []
    return [f"{source}:{digest}:0" for digest in digests]


def name_again(ids: list[RowId], again: Iterable[Sequence[int]]) -> None:
    """Put right the ids at some places of a list that `name_first` made; k stands beside each place."""
    for place, k in again:
        ids[place] = f"{ids[place][:-1]}{k}"


class DigestCounter:
    """Counts how often each digest of a source's rows came before; beyond a limit they go to disk, into a store."""

    def __init__(self, make_store: Callable[[], DigestStore] | None = None) -> None:
        self._make_store = make_store
        self._store: DigestStore | None = None
        self._kept = _Digests()

    def count(self, joined: bytes) -> list[tuple[int, int]]:
        """Count digests; returns the place of each that came before, and how often it did."""
        again: list[tuple[int, int]] = []
        digests = array("q", joined)
        for first in range(0, len(digests), _COUNTED_AT_ONCE):
            piece = digests[first : first + _COUNTED_AT_ONCE]
            earlier = self._store.find(piece) if self._store is not None else {}
            again += [(first + place, k) for place, k in self._kept.add(piece, earlier)]
            if self._make_store is not None and len(self._kept.different) >= KEPT_DIGESTS:
                self._store = self._make_store() if self._store is None else self._store
                self._store.put(self._kept.different, self._kept.counts)
                self._kept = _Digests(has_repeats=bool(self._kept.counts))
        return again


class IdMaker:
    """Names the rows of one source in their order."""

    def __init__(self, source: str, seen: Iterable[RowId] = (), *, counter: Counter | None = None) -> None:
        self._source = source
        self._counter = DigestCounter() if counter is None else counter
        self.saw(list(seen))

    def make(self, row: Mapping[str, Any]) -> RowId:
        """Return the id of the next row."""
        return self.make_all([row])[0]

    def make_all(
        self, rows: Sequence[Mapping[str, Any]], *, are_plain: bool = False, digests: bytes | None = None
    ) -> list[RowId]:
        """Return the ids of the next rows; `are_plain` as for `row_digests`, `digests` where they are known."""
        joined = row_digests(rows, are_plain=are_plain) if digests is None else digests
        ids = name_first(self._source, joined)
        name_again(ids, self._counter.count(joined))
        return ids

    def saw(self, ids: Sequence[RowId]) -> None:
        """Count rows that were named before, by another process."""
        self._counter.count(digests_in(ids))


class Counter(Protocol):
    """Whoever counts digests: in memory alone, or also in a file that another process can go on with."""

    def count(self, joined: bytes) -> list[tuple[int, int]]:
        """Count digests; returns the place of each that came before, and how often it did."""


class _Digests:
    """Digests in memory, with a count of those that came again."""

    def __init__(self, *, has_repeats: bool = False) -> None:
        """Begin with none; `has_repeats` says that equal rows were met before, so that more are to be expected."""
        self.different = array("q")  # in the order in which each came first
        self.counts: dict[int, int] = {}  # of what came more than once
        self.has_repeats = has_repeats
        self._seen: set[int] = set()

    def add(self, digests: array[int], earlier: Mapping[int, int]) -> list[tuple[int, int]]:
        """Add digests in their order; returns the place of each that came before, here or `earlier`, and its count."""
        if not self.has_repeats and not earlier:
            self._seen.update(digests)
            if len(self._seen) == len(self.different) + len(digests):
                self.different.extend(digests)
                return []  # as it mostly is: told by one operation on a set, a tenth of a loop over the rows
            self._seen = set(
                self.different
            )  # which of them came before is told by what was there without them
            self.has_repeats = True
        return self._add_one_by_one(digests, earlier)

    def _add_one_by_one(self, digests: array[int], earlier: Mapping[int, int]) -> list[tuple[int, int]]:
        again = []
        for place, digest in enumerate(digests):
            if digest in self._seen:
                count = self.counts.get(digest, 1)
            else:
                count = earlier.get(digest, 0)
                self._seen.add(digest)
                self.different.append(digest)
            if count:
                self.counts[digest] = count + 1
                again.append((place, count))
        return again

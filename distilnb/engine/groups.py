"""Which missing replies of a row one request may bring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from distilnb.engine.cache import Key


def groups_of(missing: Mapping[Key, int], max_n: int | None) -> Iterator[list[Key]]:
    """Yield the missing keys, whose numbers rise, in groups that one request brings: neighbours, at most `max_n`.

    A request tells its first number alone (`Request.first`), and a client adds that to the seed: replies 0 and 2 asked
    for together would come with the seeds of 0 and 1.
    """
    part: list[Key] = []
    for key, index in missing.items():
        is_next = part and index == missing[part[-1]] + 1
        if part and (not is_next or len(part) == max_n):
            yield part
            part = []
        part.append(key)
    if part:
        yield part

"""Which replies of one model one request may bring."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from distilnb.llms.magpie import n_sendings
from distilnb.llms.request import Request

if TYPE_CHECKING:
    from distilnb.llms.base import LLM
    from distilnb.llms.parts import Ask

K = TypeVar("K", bound=Hashable)


def groups_of(missing: Mapping[K, Ask[LLM]]) -> Iterator[list[K]]:
    """Yield the keys of missing replies to one request, whose numbers rise, in groups that one request brings.

    Where a seed is set those are neighbours: a request tells its first number alone (`Request.first`), and a client
    adds that to the seed, so that replies 0 and 2 asked for together would come with the seeds of 0 and 1.
    """
    part: list[K] = []
    for key, ask in missing.items():
        if part:
            is_next = ask.index == missing[part[-1]].index + 1
            is_apart = not is_next and ask.llm.generation_kwargs.get("seed") is not None
            if is_apart or len(part) == most_together(ask.llm, ask.request):
                yield part
                part = []
        part.append(key)
    if part:
        yield part


def most_together(llm: LLM, request: Request) -> int | None:
    """Return how many replies one request brings at most; None where that is as many as are wanted.

    Of conversations it is one: each is many requests, paid for one by one, and is to be kept before the next begins.
    """
    return 1 if n_sendings(request) > 1 else llm.max_n


def requests_for(llm: LLM, request: Request, n_replies: int) -> int:
    """Return how many requests so many replies take that are neighbours."""
    return -(-n_replies // (most_together(llm, request) or max(1, n_replies)))


def requests_that_brought(asks: Iterable[Ask[LLM]]) -> int:
    """Return how many requests it took to bring these replies to one; who asks twice for the same counts once."""
    places = {ask.index: ask for ask in sorted(asks, key=lambda ask: ask.index)}
    return sum(1 for _ in groups_of(places))

"""By which way a model is held to a shape: the best that its server does not refuse, as far as this process knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

from distilnb.errors import (
    ContentFilterError,
    ContextLengthError,
    ModelError,
    RefusedRequestError,
    ServerError,
)
from distilnb.llms.request import Request
from distilnb.llms.shape import PROMPT, ReplyShape, told

# A server that fails is not one that refuses: this many failures in a way that never brought an answer, each of them
# on a request that the next way brought through, are taken for a refusal. llama.cpp's says 500.
FAILURES_ARE_REFUSAL = 2
SHAPES_ARE_ALL = 3  # a way that so many shapes were refused in, and none accepted, is not tried with others
MOST_REMEMBERED = 4096  # shapes in a mode
_REFUSALS = frozenset({500, 501})

Modes = Callable[[ReplyShape], tuple[str, ...]]


def no_modes(shape: ReplyShape) -> tuple[str, ...]:
    """Return the ways of a model that can only be told."""
    return ()


class _Places:
    """What is remembered of (mode, shape), with a number each; the oldest are forgotten, for rows may bring shapes."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, int], int] = {}
        self.modes: Counter[str] = Counter()

    def count(self, place: tuple[str, int]) -> int:
        return self._places.get(place, 0)

    def add(self, place: tuple[str, int]) -> None:
        if place not in self._places:
            self.modes[place[0]] += 1
            if len(self._places) >= MOST_REMEMBERED:
                del self._places[next(iter(self._places))]
        self._places[place] = self.count(place) + 1

    def drop(self, place: tuple[str, int]) -> None:
        if self._places.pop(place, 0):
            self.modes[place[0]] -= 1


class Ladder:
    """What a model's server accepts and refuses, learned from its answers."""

    def __init__(self, modes: Modes = no_modes) -> None:
        self._modes = modes
        self._accepted = _Places()
        self._refused = _Places()
        self._failures = _Places()

    def requests(self, request: Request) -> Iterator[Request]:
        """Yield a request as it is to be sent, in one mode after the other; those that were refused are left out."""
        shape = request.shape
        assert shape is not None
        for mode in self._modes(shape):
            if not self._is_refused(mode, shape):
                yield replace(request, mode=mode)
        yield replace(request, mode=PROMPT, messages=told(request.messages, shape))

    def may_refuse(self, request: Request, error: ModelError) -> bool:
        """Whether a failed request may have failed for its mode, so that the next one is worth a try."""
        if request.mode in ("", PROMPT) or self._accepted.count(_place(request)):
            return False
        is_server = isinstance(error, ServerError) and error.status in _REFUSALS
        is_its_content = isinstance(error, (ContentFilterError, ContextLengthError))
        return is_server or (isinstance(error, RefusedRequestError) and not is_its_content)

    def accepted(self, request: Request) -> None:
        """Note that a request in its mode was answered."""
        place = _place(request)
        if not self._accepted.count(place):
            self._accepted.add(place)
            self._refused.drop(place)

    def refused(self, request: Request, error: ModelError) -> None:
        """Note that a request failed in its mode, and was answered in a later one."""
        place = _place(request)
        self._failures.add(place)
        is_sure = (
            isinstance(error, RefusedRequestError) or self._failures.count(place) >= FAILURES_ARE_REFUSAL
        )
        if is_sure and not self._accepted.count(place):
            self._refused.add(place)

    def _is_refused(self, mode: str, shape: ReplyShape) -> bool:
        if self._refused.count((mode, hash(shape.key))):
            return True
        return self._refused.modes[mode] >= SHAPES_ARE_ALL and not self._accepted.modes[mode]


def _place(request: Request) -> tuple[str, int]:
    assert request.shape is not None
    return request.mode, hash(request.shape.key)

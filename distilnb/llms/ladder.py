"""By which way a model is held to a shape: the best that its server does not refuse, as far as this process knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from distilnb.errors import ModelError, RefusedRequestError, ServerError
from distilnb.llms.request import Request
from distilnb.llms.shape import PROMPT, ReplyShape, told

# A server that fails is not one that refuses: this many failures in a way that never brought an answer, each of them
# on a request that the next way brought through, are taken for a refusal. llama.cpp's says 500.
FAILURES_ARE_REFUSAL = 2
SHAPES_ARE_ALL = 3  # a way that so many shapes were refused in, and none accepted, is not tried with others
_REFUSALS = frozenset({500, 501})

Modes = Callable[[ReplyShape], tuple[str, ...]]


def no_modes(shape: ReplyShape) -> tuple[str, ...]:
    """Return the ways of a model that can only be told."""
    return ()


@dataclass
class Ladder:
    """What a model's server accepts and refuses, learned from its answers."""

    modes: Modes = no_modes
    _accepted: set[tuple[str, str]] = field(default_factory=set)  # (mode, shape)
    _refused: set[tuple[str, str]] = field(default_factory=set)
    _failures: Counter[tuple[str, str]] = field(default_factory=Counter)

    def requests(self, request: Request) -> Iterator[Request]:
        """Yield a request as it is to be sent, in one mode after the other; those that were refused are left out."""
        shape = request.shape
        assert shape is not None
        for mode in self.modes(shape):
            if not self._is_refused(mode, shape):
                yield replace(request, mode=mode)
        yield replace(request, mode=PROMPT, messages=told(request.messages, shape))

    def may_refuse(self, request: Request, error: ModelError) -> bool:
        """Whether a failed request may have failed for its mode, so that the next one is worth a try."""
        shape = request.shape
        if shape is None or request.mode in ("", PROMPT) or (request.mode, shape.key) in self._accepted:
            return False
        is_server = isinstance(error, ServerError) and error.status in _REFUSALS
        return is_server or isinstance(error, RefusedRequestError)

    def accepted(self, request: Request) -> None:
        """Note that a request in its mode was answered."""
        assert request.shape is not None
        place = (request.mode, request.shape.key)
        if place not in self._accepted:
            self._accepted.add(place)
            self._refused.discard(place)

    def refused(self, request: Request, error: ModelError) -> None:
        """Note that a request failed in its mode, and was answered in a later one."""
        assert request.shape is not None
        place = (request.mode, request.shape.key)
        self._failures[place] += 1
        is_sure = isinstance(error, RefusedRequestError) or self._failures[place] >= FAILURES_ARE_REFUSAL
        if is_sure and place not in self._accepted:
            self._refused.add(place)

    def _is_refused(self, mode: str, shape: ReplyShape) -> bool:
        if (mode, shape.key) in self._refused:
            return True
        n_refused = sum(mode == one for one, _ in self._refused)
        return n_refused >= SHAPES_ARE_ALL and all(mode != one for one, _ in self._accepted)

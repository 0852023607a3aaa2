"""When a model that fails is left alone for a while: for who can ask another one instead."""

from __future__ import annotations

import math
from time import monotonic

from distilnb.errors import ModelError, RateLimitError

GIVEN_UP_IN_A_ROW = 3  # requests that failed after all their retries, and none answered between
FAILED_IN_A_ROW = 20  # the same of single tries; a refusal (HTTP 429) is none, for it asks to wait
REST_S = 30.0


class Rest:
    """Whether a model is worth asking, as its last requests tell.

    Each request to a server that is down takes all its retries to fail. Who has a backup asks that one at once
    during the rest. After it one request asks the model again, and all others once that was answered: else as many as
    may be in flight would find out together that it is still down.
    """

    def __init__(self) -> None:
        self._n_tries = self._n_given_up = 0
        self._until_s = -math.inf
        self._error: ModelError | None = None
        self._first: object | None = None  # who asks after a rest, before all others

    def answered(self) -> None:
        """Note that a request was answered."""
        self._n_tries = self._n_given_up = 0
        self._error = self._first = None

    def failed(self, error: ModelError, *, is_given_up: bool) -> None:
        """Note that a try failed, or a request after all its tries; what is wrong with one request tells nothing."""
        if not error.retryable:
            return
        if is_given_up:
            self._n_given_up += 1
        elif not isinstance(error, RateLimitError):
            self._n_tries += 1
        if self._n_given_up >= GIVEN_UP_IN_A_ROW or self._n_tries >= FAILED_IN_A_ROW:
            self._error, self._until_s, self._first = error, monotonic() + REST_S, None

    @property
    def error(self) -> ModelError | None:
        """What the model failed with, as long as it rests, as an error that is not tried again; else None."""
        return None if monotonic() >= self._until_s else self._last_error()

    def error_for(self, request: object) -> ModelError | None:
        """Return what keeps a request from being sent: the rest, or another request that is the first after it."""
        if self._error is None:
            return None
        if monotonic() >= self._until_s:
            self._first = self._first or request
            if self._first is request:
                return None
        return self._last_error()

    def ended(self, request: object) -> None:
        """Note that a request is through, in whatever way: another one may be the first after a rest."""
        if self._first is request:
            self._first = None

    def _last_error(self) -> ModelError | None:
        if self._error is None:
            return None
        error = self._error.for_another()
        error.retryable = False
        return error

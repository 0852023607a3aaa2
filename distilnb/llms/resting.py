"""When a model that fails is left alone for a while: for who can ask another one instead."""

from __future__ import annotations

import copy
import math
from time import monotonic

from distilnb.errors import ModelError, RateLimitError

GIVEN_UP_IN_A_ROW = 3  # requests that failed after all their retries, and none answered between
FAILED_IN_A_ROW = 20  # the same of single tries; a refusal (HTTP 429) is none, for it asks to wait
REST_S = 30.0


class Rest:
    """Whether a model is worth asking, as its last requests tell.

    Each request to a server that is down takes all its retries to fail. Who has a backup asks that one at once
    during the rest, and after it the model again.
    """

    def __init__(self) -> None:
        self._n_tries = self._n_given_up = 0
        self._until_s = -math.inf
        self._error: ModelError | None = None

    def answered(self) -> None:
        """Note that a request was answered."""
        self._n_tries = self._n_given_up = 0
        self._error = None

    def failed(self, error: ModelError, *, is_given_up: bool) -> None:
        """Note that a try failed, or a request after all its tries; what is wrong with one request tells nothing."""
        if not error.retryable:
            return
        if is_given_up:
            self._n_given_up += 1
        elif not isinstance(error, RateLimitError):
            self._n_tries += 1
        if self._n_given_up >= GIVEN_UP_IN_A_ROW or self._n_tries >= FAILED_IN_A_ROW:
            self._error, self._until_s = error, monotonic() + REST_S

    @property
    def error(self) -> ModelError | None:
        """What the model failed with, as long as it rests, as an error that is not tried again; else None."""
        if self._error is None or monotonic() >= self._until_s:
            return None
        error = copy.copy(self._error)
        error.retryable = False
        return error

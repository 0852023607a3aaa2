"""The live models of one event loop: what is shared by all requests to a model, and changed while they wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from distilnb.errors import ModelError
from distilnb.llms.base import LLM, limits_key
from distilnb.llms.calling import Caller


class Refusals(NamedTuple):
    """How often a model refused requests (HTTP 429), and how many may be in flight with it now."""

    model: str
    n_refused: int
    concurrency: int


class Waiting(NamedTuple):
    """What the requests to a model wait for ("loading transformers:…"); no words: they wait no more."""

    model: str
    words: str


class BackedUp(NamedTuple):
    """A model that failed for good, the one that is asked in its place, and why; told once for each kind of error."""

    model: str
    backup: str
    why: str


class Models:
    """The live models of one event loop: one caller, and so one set of limits, per model."""

    def __init__(self) -> None:
        self._callers: dict[str, Caller] = {}
        self._told: dict[Caller, tuple[str, int]] = {}  # label, refusals told of
        self._waiting: dict[Caller, str] = {}  # what was told of last
        self._backups: dict[tuple[str, str, type[ModelError]], BackedUp] = {}
        self._n_backups_told = 0

    def caller(self, llm: LLM) -> Caller:
        """Return the caller of a model, made at first use; steps with an equal model share it."""
        name = f"{llm.digest} {hash(limits_key(llm))}"
        if name not in self._callers:
            self._callers[name] = Caller.of(llm)
            self._told[self._callers[name]] = (llm.label, 0)
        return self._callers[name]

    def reply_seconds(self, llm: LLM) -> list[float]:
        """Return how long a model took for each of its last answers, under whichever limits."""
        name = f"{llm.digest} "
        callers = [caller for key, caller in self._callers.items() if key.startswith(name)]
        return [seconds for caller in callers for seconds in caller.reply_seconds]

    def adjust(self, llm: LLM, limits: Mapping[str, int | None]) -> None:
        """Change how much may be under way with a model; who waits keeps its place."""
        self.caller(llm).gate.adjust(limits["max_concurrency"] or 1, rpm=limits["rpm"], tpm=limits["tpm"])

    def pause(self) -> None:
        """Let no request out of line until `resume`."""
        for caller in self._callers.values():
            caller.gate.pause()

    def resume(self) -> None:
        """End the pause."""
        for caller in self._callers.values():
            caller.gate.resume()

    def take_refusals(self) -> list[Refusals]:
        """Return which models refused requests since the last call."""
        found = []
        for caller, (label, n_told) in self._told.items():
            if caller.rejected_429 > n_told:
                self._told[caller] = (label, caller.rejected_429)
                found.append(Refusals(label, caller.rejected_429 - n_told, int(caller.gate.limit)))
        return found

    def words(self, llm: LLM) -> str:
        """Return what the requests to a model wait for, "" when it is nothing but the model."""
        return _words_of(self.caller(llm))

    def take_waiting(self) -> list[Waiting]:
        """Return the models whose requests wait for something else than at the last call."""
        found = []
        for caller, (label, _) in self._told.items():
            words = _words_of(caller)
            if words != self._waiting.get(caller, ""):
                self._waiting[caller] = words
                found.append(Waiting(label, words))
        return found

    def note_backup(self, llm: LLM, backup: str, error: ModelError) -> None:
        """Note that another model is asked in the place of one that failed for good."""
        self._backups.setdefault(
            (llm.label, backup, type(error)),
            BackedUp(llm.label, backup, f"{type(error).__name__}: {error.what}"),
        )

    def take_backups(self) -> list[BackedUp]:
        """Return for which models others were asked, of those that were not told yet."""
        new = [*self._backups.values()][self._n_backups_told :]
        self._n_backups_told = len(self._backups)
        return new

    def stop(self) -> None:
        """Let no request wait any more: for a slot, for the minute's limit, for a retry."""
        for caller in self._callers.values():
            caller.stop()

    def try_again(self) -> None:
        """Let models be asked again that refused every request."""
        for caller in self._callers.values():
            caller.try_again()

    async def close(self) -> None:
        """Close all connections."""
        for caller in self._callers.values():
            await caller.close()
        self._callers.clear()


def _words_of(caller: Caller) -> str:
    return str(getattr(caller.client, "words", ""))  # only clients of a model host have any

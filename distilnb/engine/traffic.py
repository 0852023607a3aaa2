"""What is on its way to the models now, and how often they refused: told by the ask workers, read with the status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from distilnb.engine import events

if TYPE_CHECKING:
    from distilnb.engine.journal import Journal, JournalReader

_FLYING = "flying:"  # with a worker's name behind it: how many requests of each step it has on their way
_REFUSED = "refused"


class Refusal(NamedTuple):
    """How often a model refused requests (HTTP 429) in a run, and how many may be in flight with it since."""

    model: str
    n_refused: int
    concurrency: int


def note(journal: Journal, reader: JournalReader, worker: str, message: Mapping[str, Any]) -> None:
    """Journal what an ask worker says of its requests: "flying" or "limited"."""
    if message["say"] == "flying":
        journal.set_fact(f"{_FLYING}{worker}", message["steps"])
        return
    model, n_refused, concurrency = (message[name] for name in ("model", "n_refused", "concurrency"))
    journal.add_event(events.Limited(model=model, n_refused=n_refused, concurrency=concurrency))
    known = reader.facts().get(_REFUSED, {})
    before = known.get(model, [0])[0]
    journal.set_fact(_REFUSED, {**known, model: [before + n_refused, concurrency]})


def note_backup(journal: Journal, message: Mapping[str, Any]) -> tuple[str, str]:
    """Journal that a model failed and another one is asked in its place; returns whose it is, and it in words."""
    model, backup, why = (message[name] for name in ("model", "backup", "why"))
    journal.add_event(events.BackedUp(model=model, backup=backup, why=why))
    return f"{model} | {backup}", f"{model} fails ({why}); {backup} answers in its place"


def in_flight(facts: Mapping[str, Any], step: str) -> int:
    """Return how many requests of a step were on their way when the workers last told, at most a second ago."""
    return sum(steps.get(step, 0) for name, steps in facts.items() if name.startswith(_FLYING))


def refusals(facts: Mapping[str, Any]) -> tuple[Refusal, ...]:
    """Return the models that refused requests, in the order in which they first did."""
    return tuple(Refusal(model, *told) for model, told in facts.get(_REFUSED, {}).items())

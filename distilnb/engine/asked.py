"""What asking for a row brought and cost; and what is kept while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Protocol

from distilnb.engine.apply import Failure
from distilnb.engine.budget import Hold
from distilnb.engine.cache import Key
from distilnb.llms.base import LLM
from distilnb.llms.calling import Caller
from distilnb.llms.prices import Price
from distilnb.llms.request import Message, Reply, Request
from distilnb.rows import Batch, Row
from distilnb.tasks.base import Task


@dataclass
class Asked:
    """What became of one row at a task."""

    rows: list[Row] = field(default_factory=list)
    failure: Failure | None = None
    partial: list[str] = field(default_factory=list)
    messages: tuple[Message, ...] = ()
    replies: tuple[Reply, ...] = ()
    brought: tuple[Reply, ...] = ()  # those, and the ones that a re-ask has replaced
    n_asked: int = 0  # requests sent, retries and re-asks among them
    n_retries: int = 0  # of those, the ones that repeat a request which failed
    n_reasked: int = 0  # and those for a reply in place of one that did not have its shape
    n_cached: int = 0  # requests wholly answered by the cache
    input_tokens: int = 0  # of the replies that were paid for, now or by a killed process of this run
    output_tokens: int = 0
    cost_usd: float | None = 0.0


@dataclass
class Tally:
    """Counts the requests that one row cost, and holds what of the budget is set aside for the one on its way."""

    n_sent: int = 0
    n_bought: int = 0  # requests, however often each was sent
    n_found: int = 0  # requests whose replies a killed process of this run has bought
    n_reasked: int = 0
    hold: Hold | None = None


class At(Protocol):
    """Tells whose row the user's code works on: to render it, or to parse its replies (which `finishes` it)."""

    def __call__(self, batch: Batch, index: int, *, finishes: bool) -> AbstractContextManager[None]: ...


def nowhere(batch: Batch, index: int, *, finishes: bool) -> AbstractContextManager[None]:
    """Tell nobody."""
    return nullcontext()


class OnMissing(Protocol):
    """Told of a row that cannot go on without a request: the request, and the keys of the replies that it lacks."""

    def __call__(self, index: int, request: Request, missing: Sequence[Key]) -> None: ...


class NotStarted(Exception):
    """The asker was told to start no more requests."""


class JobLeft(NotStarted):
    """An offline job is not waited for any more; it stays where it is."""


class NotBought(Exception):
    """Replies are not in the cache, and nothing is to be asked."""

    def __init__(self, on_missing: OnMissing, request: Request, missing: Sequence[Key]) -> None:
        super().__init__(missing)
        self._lack = (on_missing, request, missing)

    def tell(self, index: int) -> None:
        """Tell which row it is that lacks them."""
        on_missing, request, missing = self._lack
        on_missing(index, request, missing)


@dataclass(slots=True)
class Errand:
    """Rows of one batch to ask for: what all of them share, found out once."""

    task: Task
    batch: Batch
    done: Callable[[int, Asked], None]
    llm: LLM
    caller: Caller
    price: Price | None
    again: bool
    on_missing: OnMissing | None = None  # told what the cache lacks, in place of asking for it


def account(
    price: Price | None, request: Request, keys: Sequence[Key], replies: Mapping[Key, Reply], tally: Tally
) -> Asked:
    """Return what a row has cost. `keys` are those of the replies that count; those that a re-ask has replaced were
    paid for too.
    """
    asked = Asked(
        messages=request.messages,
        replies=tuple([replies[key] for key in keys if key in replies]),
        brought=tuple(replies.values()),
        n_asked=tally.n_sent + tally.n_found,
        n_retries=max(0, tally.n_sent - tally.n_bought),
        n_reasked=tally.n_reasked,
    )
    paid = [
        reply for reply in replies.values() if not reply.is_cached
    ]  # now, or by a killed process of this run
    if paid or asked.n_asked:
        used = asked.input_tokens, asked.output_tokens = tokens(paid)
        asked.cost_usd = price.cost_usd(*used) if price else None if paid else 0.0
    else:
        asked.n_cached = 1
    return asked


def tokens(replies: Sequence[Reply]) -> tuple[int, int]:
    """Return the tokens that replies took: of their prompts, and their own."""
    return sum([r.input_tokens or 0 for r in replies]), sum([r.output_tokens or 0 for r in replies])


def spent(price: Price | None, replies: Sequence[Reply]) -> tuple[float, int]:
    """Return what replies cost, in USD and in tokens."""
    used = tokens(replies)
    return price.cost_usd(*used) if price else 0.0, sum(used)


def prompt_text(request: Request) -> str:
    """Return the messages of a request as one text."""
    return "\n\n".join(f"{message['role']}:\n{message['content']}" for message in request.messages)


def reply_text(replies: Sequence[Reply]) -> str:
    """Return the raw replies as one text."""
    return "\n\n".join(reply.text if reply.text is not None else "(no text)" for reply in replies)


def for_missing(request: Request, keys: list[Key], missing: list[Key]) -> Request:
    """Return the request for those of its replies that are not there yet."""
    first = keys.index(missing[0])
    if first == 0 and len(missing) == request.n:
        return request
    # The salt keeps a deterministic model from repeating the replies that are there.
    return replace(request, n=len(missing), salt=f"{request.salt}/{first}", first=first)

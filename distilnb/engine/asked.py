"""What asking for a row brought and cost; and what is kept while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import reduce
from typing import NamedTuple, Protocol

from distilnb.engine.apply import Failure
from distilnb.engine.budget import Budget, Hold
from distilnb.engine.cache import Key
from distilnb.engine.inquiry import Inquiry, Used, Voice, Voices, total_usd
from distilnb.errors import ModelError, UnknownPriceError
from distilnb.llms.base import LLM
from distilnb.llms.calling import Caller
from distilnb.llms.groups import requests_that_brought
from distilnb.llms.images import shown
from distilnb.llms.parts import Ask, Wanted
from distilnb.llms.prices import price_of
from distilnb.llms.request import Message, Reply, Request
from distilnb.llms.resting import Rest
from distilnb.llms.usage import Usage, usages_of
from distilnb.rows import Batch, Row
from distilnb.tasks.base import Task


class FatalModelError(Exception):
    """A model refuses every request (a wrong key): the run must stop. `error` says why, `step` where."""

    def __init__(self, step: str, error: ModelError) -> None:
        super().__init__(step, error)
        self.step = step
        self.error = error


@dataclass(slots=True)
class Asked:
    """What became of one row at a task."""

    rows: list[Row] = field(default_factory=list)
    failure: Failure | None = None
    partial: list[str] = field(default_factory=list)
    messages: tuple[Message, ...] = ()
    replies: tuple[Reply, ...] = ()
    # Those, and the ones that a re-ask has replaced or that others are made of; and which request brought each.
    brought: tuple[Reply, ...] = ()
    brought_by: tuple[Ask[LLM], ...] = ()
    n_asked: int = 0  # requests sent, retries and re-asks among them
    n_retries: int = 0  # of those, the ones that repeat a request which failed
    n_reasked: int = 0  # and those for a reply in place of one that did not have its shape
    n_cached: int = 0  # requests wholly answered by the cache
    n_stood_in: int = 0  # replies that a backup gave in place of a model that failed
    why_stood_in: str = ""  # what it failed with, for one of them
    input_tokens: int = 0  # of the replies that were paid for, now or by a killed process of this run
    output_tokens: int = 0
    cost_usd: float | None = 0.0
    n_guessed: int = 0  # of those replies, the ones whose tokens were not told by the provider


@dataclass(slots=True)
class Tally:
    """Counts the requests that one row cost."""

    n_sent: int = 0
    lost: list[Used] = field(default_factory=list)  # by requests that then failed: no reply tells of it
    n_bought: int = 0  # requests, however often each was sent
    n_further: int = 0  # of those sent, those that repeat no failure (`Before`)
    n_found: int = 0  # requests whose replies a killed process of this run has bought
    n_reasked: int = 0

    def lose(self, voice: Voice, error: ModelError) -> Used:
        """Note what a request took that failed for good: what was paid for before it did is not in any reply."""
        n_input, n_output, n_requests, n_guessed = error.paid
        used = Used(voice.price, Usage(n_input, n_output, n_requests, 0, n_guessed))
        if any(error.paid):
            self.lost.append(used)
        return used


@dataclass(slots=True)
class Sending:
    """One request on its way: whether its model rests, for one with a backup, and what of the budget is set aside."""

    step: str
    voice: Voice
    rest: Rest | None = None
    waits_for_job: bool = False  # for hours, maybe, which is told apart
    hold: Hold | None = None

    def check_rest(self) -> None:
        """Raise what the model failed with, where it rests and another one may be asked."""
        if self.rest is not None and (error := self.rest.error_for(self)) is not None:
            raise error

    def settle(self, budget: Budget, used: Used) -> None:
        """Count what it has cost in place of what was set aside for it; it is through."""
        if self.rest is not None:
            self.rest.ended(self)
        (self.hold.settle if self.hold else budget.spend)(used.cost_usd or 0.0, used.usage.tokens)


class Missing(NamedTuple):
    """Replies that are not there: of which model, to which request, and their keys.

    Without keys: a request that is made of replies which are missing too, so that only who is asked is known.
    """

    llm: LLM
    request: Request
    keys: Sequence[Key]
    n_requests: int = 1  # that bring them

    @classmethod
    def of(cls, wanted: Wanted[LLM]) -> Missing:
        """Return what is missing where this is wanted."""
        asks = wanted.asks
        return cls(asks[0].llm, asks[0].request, wanted.keys, requests_that_brought(asks))


class At(Protocol):
    """Tells whose row the user's code works on: to render it, or to parse its replies (which `finishes` it)."""

    def __call__(self, batch: Batch, index: int, *, finishes: bool) -> AbstractContextManager[None]: ...


def nowhere(batch: Batch, index: int, *, finishes: bool) -> AbstractContextManager[None]:
    """Tell nobody."""
    return nullcontext()


class OnMissing(Protocol):
    """Told of a row that cannot go on without requests: which those are, as far as it is known yet."""

    def __call__(self, index: int, missing: Sequence[Missing]) -> None: ...


class NotStarted(Exception):
    """The asker was told to start no more requests."""


class JobLeft(NotStarted):
    """An offline job is not waited for any more; it stays where it is."""


class NotBought(Exception):
    """Replies are not in the cache, and nothing is to be asked."""

    def __init__(self, on_missing: OnMissing, missing: Sequence[Missing]) -> None:
        super().__init__(missing)
        self._lack = (on_missing, missing)

    def tell(self, index: int) -> None:
        """Tell which row it is that lacks them."""
        on_missing, missing = self._lack
        on_missing(index, missing)


@dataclass(slots=True)
class Errand:
    """Rows of one batch to ask for: what all of them share, found out once."""

    task: Task
    batch: Batch
    done: Callable[[int, Asked], None]
    voices: Voices
    callers: dict[int, Caller]  # by the id of the model, like the voices
    again: bool
    on_missing: OnMissing | None = None  # told what the cache lacks, in place of asking for it


def account(inquiry: Inquiry, tally: Tally) -> Asked:
    """Return what a row has cost. Replies that a re-ask has replaced, and those that others are made of, were paid for
    too.
    """
    counting, why_stood_in = inquiry.that_count()
    replies = inquiry.replies
    asked = Asked(
        messages=inquiry.request.messages,
        replies=tuple(counting),
        brought=tuple(replies.values()),
        brought_by=tuple([inquiry.asks[key] for key in replies]),
        n_asked=tally.n_sent + tally.n_found,
        n_retries=max(0, tally.n_sent - tally.n_bought - tally.n_further),
        n_reasked=tally.n_reasked,
        n_stood_in=len(why_stood_in),
        why_stood_in=why_stood_in[0] if why_stood_in else "",
    )
    # Now, or by a killed process of this run.
    paid = [key for key, reply in replies.items() if not reply.is_cached]
    if paid or tally.lost:
        used = inquiry.used(paid) + tally.lost
        asked.cost_usd = total_usd(used)
        for _, usage in used:
            asked.input_tokens += usage.input_tokens
            asked.output_tokens += usage.output_tokens
            asked.n_guessed += 0 if usage.n_images else usage.n_guessed
    if inquiry.is_plain:
        asked.n_cached = not (paid or asked.n_asked)
    else:
        asked.n_cached = inquiry.n_requests_known()
    return asked


def finish(errand: Errand, inquiry: Inquiry, tally: Tally, at: At) -> Asked:
    """Make rows of the replies; a reply that cannot be used quarantines the row, and stays cached."""
    batch, index = errand.batch, inquiry.index
    asked = account(inquiry, tally)
    try:
        with at(batch, index, finishes=True):
            made = errand.task.rows_from(batch.rows[index], asked.replies)
    except Exception as error:  # noqa: BLE001 - a user's parser may raise anything; it is the row's failure
        asked.failure = Failure.of(
            batch.ids[index],
            errand.task.name,
            error,
            prompt=prompt_text(inquiry.request),
            reply=reply_text(inquiry.llm, asked.replies),
            attempts=max(1, tally.n_sent),
        )
        return asked
    asked.rows, asked.partial = made.rows, made.partial
    return asked


def cost_usd(replies: Sequence[Reply], brought_by: Sequence[Ask[LLM]]) -> float | None:
    """Return what replies cost that these requests brought; None where a price is unknown."""
    return total_usd(Used(price_of(llm), usage) for llm, usage in usages_of(replies, brought_by))


def used_for(voice: Voice, asks: Mapping[Key, Ask[LLM]], replies: Mapping[Key, Reply]) -> Used:
    """Return what those of some replies took that were paid for now."""
    paid = {key: reply for key, reply in replies.items() if not reply.is_cached}
    usages = [usage for _, usage in usages_of(paid.values(), [asks[key] for key in paid])]
    return Used(voice.price, reduce(Usage.plus, usages, Usage()))


def check_told(budget: Budget, sending: Sending, used: Used) -> None:
    """Raise FatalModelError where nobody can tell what a reply cost, and a limit of money could not be kept."""
    voice = sending.voice
    if budget.max_cost is None or voice.price is None or used.cost_usd is not None:
        return
    raise FatalModelError(
        sending.step,
        UnknownPriceError(
            f"max_cost cannot be kept: {voice.llm.label} tells no tokens with its images, and only "
            "tokens have a price.",
            "Give it one for images: price={'per_image': 0.04}; or leave max_cost out.",
            provider=voice.llm.provider,
        ),
    )


def prompt_text(request: Request) -> str:
    """Return the messages of a request as one text."""
    return "\n\n".join(f"{message['role']}:\n{shown(message['content'])}" for message in request.messages)


def reply_text(llm: LLM, replies: Sequence[Reply]) -> str:
    """Return the raw replies as one text."""
    return "\n\n".join(llm.shown_reply(reply.text) for reply in replies)

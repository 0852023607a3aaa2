"""One row's replies at a task: under which keys they are kept, which are known, and of whom to ask the others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from distilnb.engine.cache import Key, reply_key, request_digester
from distilnb.errors import ModelError
from distilnb.llms.base import LLM
from distilnb.llms.parts import Ask, Course, Standing, Wanted
from distilnb.llms.prices import Price, price_of, run_price_of
from distilnb.llms.request import Reply, Request
from distilnb.llms.usage import Usage, usage_of, usages_of

Find = Callable[[Sequence[Key]], dict[Key, Reply]]


class Voice(NamedTuple):
    """A model that sends, and what all requests to it have in common."""

    llm: LLM
    price: Price | None
    digest_of: Callable[[Request], bytes]
    is_deterministic: bool


Voices = dict[int, Voice]  # by the id of the model


class Used(NamedTuple):
    """What requests took, and at which price; None where that is unknown."""

    price: Price | None
    usage: Usage

    @property
    def cost_usd(self) -> float | None:
        """What it costs; None where that is unknown."""
        return None if self.price is None else self.price.of(self.usage)


NOTHING_USED = Used(None, Usage())


def total_usd(used: Iterable[Used]) -> float | None:
    """Return what all of it costs; None where that is unknown of some."""
    total = 0.0
    for one in used:
        if (cost := one.cost_usd) is None:
            return None
        total += cost
    return total


def voices_of(llm: LLM, *, in_run: bool = False) -> Voices:
    """Return the models that send for this one; what a run pays is less where they go by offline batch."""
    price = run_price_of if in_run else price_of
    return {
        id(one): Voice(one, price(one), request_digester(one), one.is_deterministic) for one in llm.senders()
    }


class Inquiry(Course[LLM]):
    """The course of one row's request. `repeat` is its number among equal ones of its step."""

    __slots__ = (
        "_digests",
        "_plain_keys",
        "_repeat",
        "_sought",
        "counting",
        "index",
        "is_plain",
        "llm",
        "request",
        "told",
        "voices",
    )

    def __init__(self, index: int, request: Request, repeat: int, llm: LLM, voices: Voices) -> None:
        super().__init__(llm.parts(request, repeat))
        self.llm = llm
        self.index = index
        self.request = request
        self.voices = voices
        self.counting: dict[
            int, Standing[LLM]
        ] = {}  # by place: of a reply that was asked again, the last one
        self.told: set[int] = set()  # places whose replies an earlier attempt of this run has brought
        self.is_plain = not llm.members  # one model gives each reply: most rows, which are to cost little
        self._repeat = repeat
        self._digests: dict[tuple[int, int], bytes] = {}  # by ids of model and request
        self._sought: set[Key] = set()
        self._plain_keys: list[Key] = []  # of a plain one: once looked for, the same all the time

    def key_of(self, ask: Ask[LLM], attempt: int) -> Key:
        """Return the key of a reply in the cache: that which it has when its model is asked alone."""
        voice = self.voices[id(ask.llm)]
        place = (id(ask.llm), id(ask.request))
        digest = self._digests.get(place)
        if digest is None:
            digest = self._digests[place] = voice.digest_of(ask.request)
        repeat = 0 if voice.is_deterministic else self._repeat
        return reply_key(digest, index=ask.index, repeat=repeat, attempt=attempt)

    def joined(self, kind: str, keys: Sequence[Key]) -> Key:
        """Return a key that stands for several."""
        return hashlib.blake2b(b"".join((kind.encode("utf-8", "replace"), *keys)), digest_size=16).digest()

    def know(self, digest: bytes) -> None:
        """Take the digest of the row's own request, which is known."""
        self._digests[id(self.llm), id(self.request)] = digest

    def try_attempt(self, place: int, attempt: int) -> None:
        """Look from now on for what an attempt has brought to a place."""
        self.attempts[place] = attempt
        self._plain_keys = []

    def copy(self) -> Inquiry:
        """Return an inquiry about the same that nothing is known of yet."""
        return Inquiry(self.index, self.request, self._repeat, self.llm, self.voices)

    # --- looking in the cache ---

    def to_seek(self) -> list[Key]:
        """Return the keys that matter and were not looked for yet."""
        if self.is_plain:
            if self._plain_keys:
                return []
            asks = [part for part in self.parts if isinstance(part, Ask)]
            self._plain_keys = [*map(self.key_of, asks, self.attempts)]
            self.asks.update(zip(self._plain_keys, asks, strict=True))
            return [key for key in self._plain_keys if key not in self.replies]
        keys = [key for key in self.unknown() if key not in self._sought]
        self._sought.update(keys)
        return keys

    def all_missing(self) -> Wanted[LLM]:
        """Return what is to be asked for a plain one: all that the cache does not have, of its one model."""
        pairs = [
            (ask, key)
            for ask, key in zip(self.parts, self._plain_keys, strict=True)
            if key not in self.replies and isinstance(ask, Ask)
        ]
        return Wanted([ask for ask, _ in pairs], [key for _, key in pairs], {})

    # --- what counts ---

    def at(self, place: int) -> Standing[LLM] | None:
        """Return the reply that counts at a place of the row: that of the last re-ask, else the one that stands."""
        if place in self.counting:
            return self.counting[place]
        found = self.look(place)
        return found if isinstance(found, Standing) else None

    @property
    def all_stand(self) -> bool:
        """Whether each reply of the row is there."""
        if self._plain_keys:
            return all(key in self.replies for key in self._plain_keys)
        return all(isinstance(self.look(place), Standing) for place in range(len(self.parts)))

    def that_count(self) -> tuple[list[Reply], list[str]]:
        """Return the replies that make the row, in their order, and of those that a backup gave, why it did."""
        if self._plain_keys and not self.counting:
            return [self.replies[key] for key in self._plain_keys if key in self.replies], []
        standing = [one for place in range(len(self.parts)) if (one := self.at(place)) is not None]
        return [one.reply for one in standing], [one.why for one in standing if one.why]

    def drop(self, place: int, error: ModelError) -> bool:
        """Give up the reply at a place, whose re-ask failed; returns whether another model is left to ask."""
        stands = self.look(place)
        assert isinstance(stands, Standing)
        self.failures[id(stands.ask.llm), stands.key] = error
        self.counting.pop(place, None)
        return not isinstance(self.look(place), ModelError)

    def n_requests_known(self) -> int:
        """Return how many requests were wholly answered by the cache, with all that was asked again for them."""
        is_known: dict[tuple[int, int], bool] = {}
        for key, reply in self.replies.items():
            ask = self.asks[key]
            place = (id(ask.llm), id(ask.request))
            is_known[place] = is_known.get(place, True) and reply.is_cached
        return sum(is_known.values())

    def bought(self, known: Mapping[Key, Reply]) -> list[Used]:
        """Return what each request took that brought some of `known`, of those that this run has paid for."""
        return self.used(
            [key for key, reply in known.items() if not reply.is_cached and key not in self.is_mark]
        )

    def used(self, keys: Sequence[Key]) -> list[Used]:
        """Return what the requests that brought these replies took."""
        replies = [self.replies[key] for key in keys]
        if self.is_plain and len(keys) == len(self.parts):  # as most: one request, and its replies
            usage = usage_of(self.llm, self.request, replies)
            return [Used(self.voices[id(self.llm)].price, usage)]
        usages = usages_of(replies, [self.asks[key] for key in keys])
        return [Used(self.voices[id(llm)].price, usage) for llm, usage in usages]

    def cost_usd(self, keys: Sequence[Key]) -> float | None:
        """Return what the replies of these keys cost; None where that is unknown."""
        return total_usd(self.used(keys))


def inquire(
    llm: LLM, index: int, request: Request, digest: bytes, repeat: int, attempt: int, voices: Voices
) -> Inquiry:
    """Return the inquiry of a row, whose request has this digest and is the repeat-th of equal ones."""
    salt = f"{repeat}+{attempt}" if attempt else str(repeat) if repeat else ""
    inquiry = Inquiry(index, replace(request, salt=salt) if salt else request, repeat, llm, voices)
    inquiry.know(digest)
    return inquiry


def as_replies(marks: Mapping[Key, str]) -> list[tuple[Key, Reply]]:
    """Return notes of who stands in as the cache keeps them."""
    return [(key, Reply(why, "stands in")) for key, why in marks.items()]


def seek_all(inquiries: Sequence[Inquiry], find: Find) -> None:
    """Look up what rows need, for all in one go, and then what that leads to."""
    open_ones = list(inquiries)
    while open_ones:
        sought = [(inquiry, inquiry.to_seek()) for inquiry in open_ones]
        open_ones = [
            inquiry for inquiry, keys in sought if keys and not inquiry.is_plain
        ]  # which lead no further
        wanted = [key for _, keys in sought for key in keys]
        found = find(wanted) if wanted else {}
        for inquiry, keys in sought:
            if found and keys:
                inquiry.take({key: found[key] for key in keys if key in found})

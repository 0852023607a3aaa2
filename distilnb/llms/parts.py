"""Who gives each reply of a request, where several models have a part in it; and what is to be asked next.

A model that sends gives all replies itself. One that is made of others (`llms/combined.py`) says of every reply what it
takes: one model's, the first of several that answers, or a request made of other replies. A `Course` follows that for
one request. It knows nothing of sending, caching or waiting: whoever drives it asks what is wanted and tells what came.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from distilnb.errors import MalformedReplyError, ModelError
from distilnb.llms.request import Answer, Reply, Request


class Member(Protocol):
    """What this needs to know of a model."""

    @property
    def label(self) -> str: ...
    def identity(self) -> dict[str, Any]: ...


M = TypeVar("M", bound=Member)


@dataclass(frozen=True, slots=True, eq=False)
class Ask(Generic[M]):
    """The index-th reply of one model that sends to a request."""

    llm: M
    request: Request
    index: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class FirstOf(Generic[M]):
    """What the first of these that answers gives; a later one is asked once all before it have failed for good."""

    choices: tuple[Part[M], ...]


@dataclass(frozen=True, slots=True, eq=False)
class MadeOf(Generic[M]):
    """What `llm` gives to a request that is made of other replies: `then` returns the part, given those."""

    parts: tuple[Part[M], ...]
    llm: M
    then: Callable[[Sequence[Reply]], Part[M]]


Part: TypeAlias = "Ask[M] | FirstOf[M] | MadeOf[M]"
Key: TypeAlias = Hashable


@dataclass(slots=True)
class Standing(Generic[M]):
    """A reply that counts, and whose it is; `why` says what kept another model from giving it, "" when nothing did."""

    ask: Ask[M]
    key: Any
    reply: Reply
    why: str = ""
    marks: tuple[tuple[Any, str], ...] = ()


@dataclass(slots=True)
class Wanted(Generic[M]):
    """Replies of one model to one request, to be asked for together.

    `marks` are to be kept beside them: that they stand in for those of a model that failed, and why; with "" for the
    reason, that nobody does any more, if an earlier run has noted it. `backup` is the name of the model that is asked
    next if this one fails; "" when there is none.
    """

    asks: list[Ask[M]]
    keys: list[Any]
    marks: dict[Any, str]
    backup: str = ""


@dataclass(slots=True)
class _Open(Generic[M]):
    """A part that waits for replies."""

    asks: list[tuple[Ask[M], Any, tuple[tuple[Any, str], ...], str]]


class Course(Generic[M]):
    """What is known of the replies to one request, and what they still take.

    `replies` are by key, `failures` by model too: the reply of another with the same key (another account, a second
    server under one `cache_id`) may come yet. `marks` note of earlier times that a backup's reply stands in, and why.
    Such a reply stays, though the first model answers again: a row keeps what it got.
    """

    __slots__ = (
        "_keys",
        "_made",
        "_on_way",
        "_withheld",
        "asks",
        "attempts",
        "awaited",
        "failures",
        "is_mark",
        "marks",
        "parts",
        "replies",
    )

    def __init__(self, parts: Sequence[Part[M]]) -> None:
        self.parts = parts
        self.attempts = [0] * len(parts)  # of each part's last request; what it is made of is asked once
        self.replies: dict[Any, Reply] = {}
        self.failures: dict[tuple[int, Any], ModelError] = {}
        self.marks: dict[Any, str] = {}
        self.awaited: set[Any] = (
            set()
        )  # keys of replies that somebody is about to bring: an offline job holds them
        self.asks: dict[Any, Ask[M]] = {}  # by key
        self.is_mark: set[Any] = set()
        self._on_way: set[Any] = set()
        self._withheld: set[tuple[int, Any]] = (
            set()
        )  # servers may return fewer replies than asked, however often
        self._keys: dict[tuple[int, int], Any] = {}
        self._made: dict[tuple[int, tuple[Any, ...]], Part[M]] = {}

    # --- what a driver may do in its own way ---

    def key_of(self, ask: Ask[M], attempt: int) -> Any:
        """Return the key of a reply."""
        return (id(ask.llm), id(ask.request), ask.index, attempt)

    def joined(self, kind: str, keys: Sequence[Any]) -> Any:
        """Return a key that stands for several."""
        return (kind, *keys)

    # --- what a driver asks and tells ---

    def look(self, place: int) -> Standing[M] | ModelError | None:
        """Return the reply of a part, or what it failed with; None while it waits for replies."""
        found = self._look(self.parts[place], self.attempts[place])
        return None if isinstance(found, _Open) else found

    def standing(self) -> list[Standing[M]]:
        """Return the replies that stand, in the order of the parts."""
        looks = [self.look(place) for place in range(len(self.parts))]
        return [one for one in looks if isinstance(one, Standing)]

    def unknown(self) -> list[Any]:
        """Return the keys, of replies and of marks, that matter now and are not known: a cache may have them."""
        unknown = [
            key
            for part, attempt in zip(self.parts, self.attempts, strict=True)
            for key in self._unknown(part, attempt)
        ]
        return list(dict.fromkeys(unknown)) if len(unknown) > 1 else unknown

    def take(self, found: Mapping[Any, Reply]) -> None:
        """Tell what replies, and marks, are known by their keys."""
        for key, reply in found.items():
            if key in self.is_mark:
                if reply.text:  # else a run that refreshed has taken it back
                    self.marks[key] = reply.text
            else:
                self.replies[key] = reply

    def wanted(self) -> list[Wanted[M]]:
        """Return what is to be asked now; each is returned once, until `ended` is told of it.

        Raises the ModelError of a part that nobody is left for, once nothing is on its way any more.
        """
        groups: dict[tuple[int, int], Wanted[M]] = {}
        group_of: dict[Any, tuple[int, int]] = {}
        errors = []
        for part, attempt in zip(self.parts, self.attempts, strict=True):
            found = self._look(part, attempt)
            if isinstance(found, ModelError):
                errors.append(found)
            elif isinstance(found, _Open):
                for ask, key, marks, backup in found.asks:
                    place = (id(ask.llm), id(ask.request))
                    if key in self._on_way or group_of.setdefault(key, place) != place:
                        continue
                    group = groups.setdefault(place, Wanted([], [], {}, backup))
                    if key not in group.keys:
                        group.asks.append(ask)
                        group.keys.append(key)
                        self.asks[key] = ask
                    group.marks.update(marks)
        if errors:
            if not self._on_way:
                raise next((error for error in errors if error.fatal), errors[0])
            return []
        for group in groups.values():
            self._on_way.update(group.keys)
        return list(groups.values())

    def noted(self) -> list[Any]:
        """Return the keys of replies that are not there, of models that stand in for others by a note."""
        return [
            key
            for part, attempt in zip(self.parts, self.attempts, strict=True)
            for key in self._noted(part, attempt)
        ]

    def later(self) -> list[M]:
        """Return whom to ask once others have answered: for each request that is made of replies not there yet."""
        return [
            llm
            for part, attempt in zip(self.parts, self.attempts, strict=True)
            for llm in self._later(part, attempt)
        ]

    def ended(self, wanted: Wanted[M], error: ModelError | None = None) -> None:
        """Tell that what was wanted was answered, or what it failed with for good."""
        self._on_way.difference_update(wanted.keys)
        asks = zip(wanted.asks, wanted.keys, strict=True)
        missing = [(id(ask.llm), key) for ask, key in asks if key not in self.replies]
        if error is None:
            self._withheld.update(missing)
        else:
            self.failures.update(dict.fromkeys(missing, error))

    # --- following the parts ---

    def _look(self, part: Part[M], attempt: int) -> Standing[M] | _Open[M] | ModelError:
        if isinstance(part, Ask):
            key = self._key(part, attempt)
            place = (id(part.llm), key)
            if place in self.failures:
                return self.failures[place]
            if key in self.replies:
                return Standing(part, key, self.replies[key])
            return _Open([] if place in self._withheld else [(part, key, (), "")])
        return (
            self._look_first(part, attempt) if isinstance(part, FirstOf) else self._look_made(part, attempt)
        )

    def _look_first(self, part: FirstOf[M], attempt: int) -> Standing[M] | _Open[M] | ModelError:
        notes = self._marks_of(part, attempt)
        for choice, mark in zip(part.choices[1:], notes, strict=True):
            if mark in self.marks:
                found = self._look(choice, attempt)
                if isinstance(found, Standing):
                    found.why = self.marks[mark]
                    return found
                if isinstance(found, _Open) and found.asks and self._awaits(found):
                    first = label_of(part.choices[0])
                    return _Open([(ask, key, old, backup or first) for ask, key, old, backup in found.asks])
        failures: list[tuple[str, ModelError]] = []
        for number, choice in enumerate(part.choices):
            found = self._look(choice, attempt)
            is_last = number == len(part.choices) - 1
            if isinstance(found, _Open) and not (found.asks or is_last):
                found = MalformedReplyError("It gave fewer replies than were asked for.")
            if isinstance(found, ModelError):
                failures.append((label_of(choice), found))
                continue
            why = "; ".join(f"{label}: {error.what}" for label, error in failures)
            marks = ((notes[number - 1], why),) if number else ()
            if isinstance(found, Standing):
                return Standing(found.ask, found.key, found.reply, why or found.why, (*found.marks, *marks))
            later = "" if is_last else label_of(part.choices[number + 1])
            told = (*marks, *((mark, "") for mark in notes[number:]))
            return _Open([(ask, key, (*old, *told), backup or later) for ask, key, old, backup in found.asks])
        return _all_failed(failures)

    def _awaits(self, found: _Open[M]) -> bool:
        return all(key in self.awaited for _, key, _, _ in found.asks)

    def _look_made(self, part: MadeOf[M], attempt: int) -> Standing[M] | _Open[M] | ModelError:
        inner = [self._look(one, 0) for one in part.parts]
        for found in inner:
            if isinstance(found, ModelError):
                return found
        waiting = [one for one in inner if isinstance(one, _Open)]
        if waiting:
            return _Open([ask for one in waiting for ask in one.asks])
        found = self._look(self._make(part, inner), attempt)
        if isinstance(found, Standing):
            found.marks = (
                *found.marks,
                *(mark for one in inner if isinstance(one, Standing) for mark in one.marks),
            )
        return found

    def _make(self, part: MadeOf[M], inner: Sequence[object]) -> Part[M]:
        standing = [one for one in inner if isinstance(one, Standing)]
        place = (id(part), tuple(one.key for one in standing))
        if place not in self._made:
            self._made[place] = part.then([one.reply for one in standing])
        return self._made[place]

    def _unknown(self, part: Part[M], attempt: int) -> Iterator[Any]:
        if isinstance(part, Ask):
            key = self._key(part, attempt)
            if key not in self.replies and (id(part.llm), key) not in self.failures:
                yield key
        elif isinstance(part, FirstOf):
            marks = self._marks_of(part, attempt)
            yield from (mark for mark in marks if mark not in self.marks)
            for choice, mark in zip(part.choices[1:], marks, strict=True):
                if mark in self.marks:
                    yield from self._unknown(choice, attempt)
            for choice in part.choices:
                yield from self._unknown(choice, attempt)
                if not isinstance(self._look(choice, attempt), ModelError):
                    break
        else:
            inner = [self._look(one, 0) for one in part.parts]
            if all(isinstance(one, Standing) for one in inner):
                yield from self._unknown(self._make(part, inner), attempt)
            for one in part.parts:
                yield from self._unknown(one, 0)

    def _noted(self, part: Part[M], attempt: int) -> Iterator[Any]:
        if isinstance(part, FirstOf):
            marks = self._marks_of(part, attempt)
            for choice, mark in zip(part.choices[1:], marks, strict=True):
                found = self._look(choice, attempt) if mark in self.marks else None
                yield from (key for _, key, _, _ in found.asks) if isinstance(found, _Open) else ()
        elif isinstance(part, MadeOf):
            for one in part.parts:
                yield from self._noted(one, 0)

    def _later(self, part: Part[M], attempt: int) -> Iterator[M]:
        if isinstance(part, FirstOf):
            waiting = (
                choice for choice in part.choices if not isinstance(self._look(choice, attempt), ModelError)
            )
            yield from self._later(next(waiting, part.choices[-1]), attempt)
        elif isinstance(part, MadeOf):
            inner = [self._look(one, 0) for one in part.parts]
            if all(isinstance(one, Standing) for one in inner):
                yield from self._later(self._make(part, inner), attempt)
                return
            yield part.llm
            for one in part.parts:
                yield from self._later(one, 0)

    def _key(self, ask: Ask[M], attempt: int) -> Any:
        place = (id(ask), attempt)
        if place not in self._keys:
            key = self._keys[place] = self.key_of(ask, attempt)
            self.asks.setdefault(key, ask)
        return self._keys[place]

    def _marks_of(self, part: FirstOf[M], attempt: int) -> list[Any]:
        """Return the key of each later choice under which it is noted that it stands in for the first."""
        first = self._name(part.choices[0], attempt)
        marks = [
            self.joined("stands in", [first, self._name(choice, attempt)]) for choice in part.choices[1:]
        ]
        self.is_mark.update(marks)
        return marks

    def _name(self, part: Part[M], attempt: int) -> Any:
        """Return a key for a part that no reply is needed for."""
        if isinstance(part, Ask):
            return self._key(part, attempt)
        if isinstance(part, FirstOf):
            return self._name(part.choices[0], attempt)
        own = f"made by {sorted(part.llm.identity().items())} {attempt}"
        return self.joined(own, [self._name(one, 0) for one in part.parts])


def n_requests(part: Part[M], seen: set[int] | None = None) -> int:
    """Return how many requests a reply takes at most, where none of them fails."""
    seen = set() if seen is None else seen
    if id(part) in seen:  # several are made of it, and it is asked once
        return 0
    seen.add(id(part))
    if isinstance(part, Ask):
        return 1
    if isinstance(part, FirstOf):
        return max(n_requests(choice, seen) for choice in part.choices)
    return 1 + sum(n_requests(one, seen) for one in part.parts)


def label_of(part: Part[M]) -> str:
    """Return the name of the model that a part asks first, or last where it is made of others."""
    return label_of(part.choices[0]) if isinstance(part, FirstOf) else part.llm.label


def _all_failed(failures: Sequence[tuple[str, ModelError]]) -> ModelError:
    """Return the error of a part that all have failed for: fatal only where each of them is."""
    errors = [error for _, error in failures]
    chosen = copy.copy(errors[-1] if all(e.fatal for e in errors) else [e for e in errors if not e.fatal][-1])
    chosen.what = "; ".join(f"{label}: {error.what}" for label, error in failures)
    return chosen


# --- one request, with nothing kept ---------------------------------------------


@dataclass
class Consulted(Generic[M]):
    """The replies to one request, and whose they are."""

    standing: list[Standing[M]]
    answers: list[Answer] = field(default_factory=list)


async def consult(
    parts: Sequence[Part[M]],
    send: Callable[[M, Request], Awaitable[Answer]],
    gather: Callable[[Sequence[Awaitable[None]]], Awaitable[object]],
) -> Consulted[M]:
    """Ask whoever has a part in a request until all replies are there. Raises the ModelError of one that failed."""
    course, answers = Course(parts), list[Answer]()

    async def fetch(wanted: Wanted[M]) -> None:
        try:
            answer = await send(wanted.asks[0].llm, for_missing(wanted.asks))
        except ModelError as error:
            course.ended(wanted, error)
            return
        answers.append(answer)
        course.take(dict(zip(wanted.keys, answer.replies, strict=False)))
        course.ended(wanted)

    while wanted := course.wanted():
        await gather([fetch(one) for one in wanted])
    return Consulted(course.standing(), answers)


def for_missing(asks: Sequence[Ask[M]]) -> Request:
    """Return the request for some replies of one model; the request itself where that is all of them."""
    request, first = asks[0].request, asks[0].index
    if first == request.first and len(asks) == request.n:
        return request
    # The salt keeps a deterministic model from repeating the replies that are there.
    return replace(request, n=len(asks), salt=f"{request.salt}/{first}", first=first)

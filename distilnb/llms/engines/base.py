"""What a host needs of an inference library: load, answer requests as they come, unload."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from distilnb.errors import ContextLengthError, RefusedRequestError
from distilnb.llms.magpie import RAW
from distilnb.llms.request import Message
from distilnb.llms.shape import PROMPT, ReplyShape

# The limit of a reply where the user sets none: a model that rambles must not fill its whole context.
DEFAULT_MAX_NEW_TOKENS = 1024

GATHER_S = 0.005  # without another arrival: a batch begins
LONGEST_GATHER_S = 0.05


@dataclass(eq=False)
class Ask:
    """One request as an engine sees it; `parameters` go by their unified names.

    `first` is the index of the first reply among those of its row, of which some may have been asked for before.
    """

    messages: Sequence[Message]
    n: int = 1
    shape: ReplyShape | None = None
    mode: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    first: int = 0
    is_cancelled: bool = False  # nobody waits for it any more

    def seed_of(self, index: int, seed: Any) -> int | None:
        """Return the seed of one of the replies asked for; None without one. No two replies of a row share theirs."""
        return None if seed is None else int(seed) + self.first + index

    @property
    def forced(self) -> ReplyShape | None:
        """The shape that the engine itself is to force."""
        return None if self.mode in ("", PROMPT) else self.shape


class Completion(NamedTuple):
    """One reply; `logprobs` as OpenAI's protocol has them in a choice, None where none were asked for."""

    text: str
    finish_reason: str  # stop or length
    output_tokens: int
    logprobs: Mapping[str, Any] | None = None


class Completed(NamedTuple):
    """What one request brought."""

    completions: Sequence[Completion]
    input_tokens: int


class Engine(ABC):
    """A model in this process. `moved` is to be called whenever it has got on, from any thread."""

    def __init__(self, settings: Mapping[str, Any], moved: Callable[[], None]) -> None:
        self.settings = settings
        self.moved = moved
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="engine")

    @abstractmethod
    def load(self) -> None:
        """Load the model; called once, in the thread of `thread`. May take minutes and raise anything."""

    @abstractmethod
    async def answer(self, ask: Ask) -> Completed:
        """Answer one request among many others; raises RefusedRequestError for one that cannot be answered."""

    def unload(self) -> None:  # noqa: B027 - the end of the process gives back what most engines hold
        """Give back what the end of the process does not; called in the thread of `thread`."""

    def is_broken_by(self, error: BaseException) -> bool:
        """Whether the process is of no use any more after an error, so that a new host must load the model."""
        return "CUDA error" in str(error) or type(error).__name__ in ("AcceleratorError", "EngineDeadError")


class BatchingEngine(Engine):
    """An engine that answers a batch at a time, in one thread: what waits when the last batch ends is the next."""

    def __init__(self, settings: Mapping[str, Any], moved: Callable[[], None]) -> None:
        super().__init__(settings, moved)
        self._waiting: deque[tuple[Ask, asyncio.Future[Completed]]] = deque()
        self._work: asyncio.Task[None] | None = None

    @property
    def max_batch(self) -> int:
        """How many replies are made at the same time."""
        return 1

    @abstractmethod
    def generate(self, asks: Sequence[Ask]) -> Sequence[Completed | Exception]:
        """Answer some requests, in the engine's thread; one that cannot be answered brings its error."""

    async def answer(self, ask: Ask) -> Completed:
        future: asyncio.Future[Completed] = asyncio.get_running_loop().create_future()
        self._waiting.append((ask, future))
        if self._work is None or self._work.done():
            self._work = asyncio.ensure_future(self._answer_waiting())
        try:
            return await future
        except asyncio.CancelledError:
            ask.is_cancelled = True
            raise

    async def _answer_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            await self._gather()
            batch = self._take()
            if not batch:
                continue
            asks = [ask for ask, _ in batch]
            results: Sequence[Completed | Exception]
            try:
                results = await loop.run_in_executor(self.thread, self.generate, asks)
            except Exception as error:  # noqa: BLE001 - whatever the library raises is the failure of these requests
                results = [error] * len(asks)
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    async def _gather(self) -> None:
        """Wait a moment for requests that are about to come: those of one batch arrive one after the other."""
        waited_s, n_before = 0.0, 0
        while n_before < len(self._waiting) < self.max_batch and waited_s < LONGEST_GATHER_S:
            n_before = len(self._waiting)
            await asyncio.sleep(GATHER_S)
            waited_s += GATHER_S

    def _take(self) -> list[tuple[Ask, asyncio.Future[Completed]]]:
        taken: list[tuple[Ask, asyncio.Future[Completed]]] = []
        n_replies = 0
        while self._waiting and (not taken or n_replies + self._waiting[0][0].n <= self.max_batch):
            ask, future = self._waiting.popleft()
            if not ask.is_cancelled:
                taken.append((ask, future))
                n_replies += ask.n
        return taken


def raw_text(ask: Ask) -> str | None:
    """Return the text that goes to the model as it is, without its chat template; None for a chat."""
    first = ask.messages[0]
    return str(first["content"]) if first.get("role") == RAW else None


def text_messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Return messages with text alone; raises RefusedRequestError for images."""
    return [
        {"role": str(message["role"]), "content": _text_of(message.get("content"))} for message in messages
    ]


def _text_of(content: object) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    parts: list[Any] = content if isinstance(content, list) else [content]
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type", "text") != "text":
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise RefusedRequestError(
                f"A message holds a part of type {kind!r}; this engine takes text only.",
                "Ask a model that sees images through a server (`dn.llm('vllm:…')`).",
            )
    return "".join(str(part.get("text", "")) for part in parts)


def refusal(library: str, error: Exception) -> RefusedRequestError:
    """Make the error for a request that the library cannot take: a parameter of another type, out of its range."""
    return RefusedRequestError(
        f"{library} refused the request: {error}",
        "Change what the message names in the step or its model.",
    )


def too_long(n_tokens: int, n_context: int) -> ContextLengthError:
    """Make the error for a prompt that leaves no room for a reply."""
    return ContextLengthError(
        f"The prompt has {n_tokens} tokens; the context of the model has {n_context}, reply included.",
        "Shorten the prompt, or choose a model with a longer context.",
    )


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Return the text up to the first of the stop strings, and whether one was there.

    >>> cut_at_stop("one. two! three", ["!", "."])
    ('one', True)
    """
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def stops_of(parameters: Mapping[str, Any]) -> list[str]:
    """Return the stop strings of a request."""
    stop = parameters.get("stop") or []
    return [stop] if isinstance(stop, str) else [one for one in stop if one]

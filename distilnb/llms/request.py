"""What goes to a model and what comes back, as frozen data; and the one seam that a provider implements."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol, TypeAlias

from distilnb.llms.shape import ReplyShape

Message: TypeAlias = dict[str, Any]  # {"role": "system" | "user" | "assistant", "content": text}


@dataclass(frozen=True, slots=True)
class Request:
    """What one row asks of a model: messages, how many replies, and what shape they should have.

    `mode` says in which of the model's own ways (`LLM.shape_modes`) this sending is to force the shape; "" without
    a shape, "prompt" when the messages say it and nothing is to be forced. The caller sets it, anew for each sending.

    `sample` and `salt` are for stand-ins that rehearse; no provider sees them. `sample` makes a reply of the
    form that the task can parse; `salt` holds what tells equal requests apart (index of the first reply,
    repeat, attempt), "" for the first of them. `first` is the index of the first reply asked for, among those of
    its row: a client adds it to the seed, so that a model which is asked again writes another one. `place` tells a
    pool which of the proposers of a mixture it is: else all of them would draw alike. It is in no key.
    """

    messages: tuple[Message, ...]
    n: int = 1
    shape: ReplyShape | None = None
    sample: Callable[[Random], str] | None = field(default=None, compare=False, repr=False)
    salt: str = field(default="", compare=False, repr=False)
    mode: str = field(default="", compare=False)
    first: int = field(default=0, compare=False, repr=False)
    place: str = field(default="", compare=False, repr=False)

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """The JSON schema that replies should follow, where their shape has one."""
        return self.shape.schema if self.shape else None


@dataclass(frozen=True, slots=True)
class Reply:
    """One completion. Tokens are counts, None where the provider told none.

    A provider reports usage per request: the prompt's tokens stand on the first reply of a request, the
    completion's are shared out so that they add up.
    """

    text: str | None
    finish_reason: str = "stop"
    model: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    is_cached: bool = False

    @property
    def is_truncated(self) -> bool:
        """Whether the reply was cut off at the token limit."""
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request brought: up to n replies (a server may return fewer)."""

    replies: tuple[Reply, ...]
    request_id: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


class Before(Protocol):
    """Called whenever a request is about to be sent; returns what is to be awaited first, None where nothing is.

    `is_further` says that it repeats no failure: another way to force the shape was refused, or a server has left
    replies out.
    """

    def __call__(self, *, is_further: bool = False) -> Awaitable[None] | None: ...


class Client(Protocol):
    """A live connection to a model, used from one event loop."""

    async def send(self, request: Request) -> Answer:
        """Send one request once, within the model's `timeout`, its shape forced in the way that `mode` names.

        Raises ModelError of the right kind; retrying is not its task, nor is another mode: where a server refuses
        one, RefusedRequestError (or a ServerError of status 500 or 501) lets the caller try the next.
        """

    async def close(self) -> None:
        """Close connections."""

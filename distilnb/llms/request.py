"""What goes to a model and what comes back, as frozen data; and the one seam that a provider implements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol, TypeAlias

Message: TypeAlias = dict[str, Any]  # {"role": "system" | "user" | "assistant", "content": text}


@dataclass(frozen=True, slots=True)
class Request:
    """What one row asks of a model: messages, and how many replies.

    `sample` and `salt` are for stand-ins that rehearse; no provider sees them. `sample` makes a reply of the
    form that the task can parse; `salt` holds what tells equal requests apart (index of the first reply,
    repeat, attempt), "" for the first of them.
    """

    messages: tuple[Message, ...]
    n: int = 1
    schema: Mapping[str, Any] | None = None  # JSON schema that the reply should follow
    sample: Callable[[Random], str] | None = field(default=None, compare=False, repr=False)
    salt: str = field(default="", compare=False, repr=False)


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


class Client(Protocol):
    """A live connection to a model, used from one event loop."""

    async def send(self, request: Request) -> Answer:
        """Send one request once, within the model's `timeout`.

        Raises ModelError of the right kind; retrying is not its task.
        """

    async def close(self) -> None:
        """Close connections."""

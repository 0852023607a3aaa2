"""What all remote models share: an address, a key that stays at home, a check, a place in the reply cache."""

from __future__ import annotations

import os
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field

from distilnb.errors import MissingKeyError, SpecError
from distilnb.llms.address import check_listening, clean_url, host_of, origin, proxy_of
from distilnb.llms.base import LLM
from distilnb.llms.batches import Batches, BatchLimits
from distilnb.llms.failures import Target
from distilnb.llms.shape import ReplyShape
from distilnb.llms.structured import plain_output, shape_of
from distilnb.spec.base import dump_value

_HAVE_BATCHES = ("OpenAILLM", "GroqLLM", "AnthropicLLM")
_NAMES_OF_1X = {
    "use_offline_batch_generation": "offline_batch",
    "offline_batch_generation_block_until_done": "offline_batch_poll",
}


class RemoteLLM(LLM):
    """A model on a server.

    `base_url` is the server, else the one that the provider's variable names, else the provider's own.
    `structured_output` asks each reply to have a shape, where a task has none of its own: {"format": "json",
    "schema": a JSON schema or a pydantic model}, or "regex" with a pattern, or "choice" with a list. `cache_id`
    names the server in the reply cache instead of its address, for one that moves.

    `offline_batch=True` lets runs hand their requests over as jobs, which the provider does within a day, mostly at
    half the price (docs/batches.md); previews and `ask` go on asking at once. `offline_batch_size` is the most requests
    in one job, `offline_batch_poll` the seconds between two looks at it (longer and longer ones unless it is set),
    `offline_batch_discount` what is taken off the price, where the price list does not say (0.5: half).

    The environment's key goes to the provider's own host, or to the server that its variable names, and to no
    other: a pipeline from a file may hold any `base_url`, and would else collect keys. Another server gets the
    key that `api_key` gives it, or none.
    """

    url: ClassVar[str] = ""  # the provider's own server
    other_hosts: ClassVar[tuple[str, ...]] = ()  # further ones of the provider's
    url_variable: ClassVar[str] = ""  # the environment variable that names another one
    batch_limits: ClassVar[BatchLimits | None] = None  # of one job; None where there are no offline batches
    batch_discount: ClassVar[float] = 0.0  # that the provider's own host gives on them
    not_in_digest: ClassVar[frozenset[str]] = LLM.not_in_digest | {
        "offline_batch",
        "offline_batch_size",
        "offline_batch_poll",
        "offline_batch_discount",
    }

    base_url: str | None = None
    structured_output: dict[str, Any] | None = None
    cache_id: str | None = None
    offline_batch: bool = False
    offline_batch_size: int | None = Field(default=None, ge=1)
    offline_batch_poll: float | None = Field(default=None, gt=0)  # seconds
    offline_batch_discount: float | None = Field(default=None, ge=0, le=1)

    def __init__(self, **values: Any) -> None:
        for name, ours in _NAMES_OF_1X.items():
            if name in values:
                values.setdefault(ours, values.pop(name))
        if values.get("offline_batch") and self.batch_limits is None:
            raise SpecError(
                f"{type(self).__name__} has no offline_batch: {self.title or self.provider} takes no offline batches "
                "that distilnb knows.",
                f"Leave offline_batch out; {', '.join(_HAVE_BATCHES)} have it.",
            )
        # Here and not in validators: pydantic would wrap these errors, and quote a URL that holds a password.
        if isinstance(values.get("base_url"), str):
            values["base_url"] = clean_url(values["base_url"], "base_url")
        if "structured_output" in values:
            values["structured_output"] = plain_output(values["structured_output"])
        super().__init__(**values)

    # --- which server ---

    @property
    def server(self) -> str:
        """The server's address as the model or the environment gives it, without a slash at the end."""
        return self.base_url or self.environment_url() or self.url

    @property
    def endpoint(self) -> str:
        """The address below which the chat is asked."""
        return self.server

    @property
    def is_own(self) -> bool:
        """Whether the server is the provider's own."""
        parts = urlsplit(self.server)
        host = parts.hostname or ""
        own = [name for name in (urlsplit(self.url).hostname, *self.other_hosts) if name]
        return parts.scheme == "https" and any(host == name or host.endswith(f".{name}") for name in own)

    @property
    def needs_key(self) -> bool:
        """Whether the server surely refuses a request without a key."""
        return self.is_own

    def environment_url(self) -> str:
        """Return the address that the provider's variable names; "" when there is none."""
        named = os.environ.get(self.url_variable, "").strip() if self.url_variable else ""
        return clean_url(named, self.url_variable) if named else ""

    # --- what is asked of every model ---

    @property
    def reply_shape(self) -> ReplyShape | None:
        """The shape that `structured_output` asks of every reply."""
        return shape_of(self.structured_output) if self.structured_output else None

    def key(self) -> str:
        """Return the key to send to this server; "" when there is none for it."""
        if self.api_key is not None:
            return self.api_key.get_secret_value().strip()
        return super().key().strip() if self._may_have_key() else ""

    def check(self) -> None:
        """Raise MissingKeyError or UnsupportedParameterError where every request would be refused."""
        if self.needs_key:
            self.check_key()
        self.check_parameters()

    def check_key(self) -> None:
        """Raise MissingKeyError where no key may be sent to this server."""
        if self.key() or self._may_have_key():
            return super().check_key()
        where = f"the server that {self.url_variable} names" if self.url_variable else "its own host"
        raise MissingKeyError(
            f"No API key for {host_of(self.server)} is given: {self.key_variable} goes to {where} only.",
            f"Pass api_key=, or set {self.url_variable or 'no base_url='}.",
            provider=self.provider,
        )

    def probe(self) -> None:
        """Raise UnreachableError when a server that is not the provider's own does not accept a connection."""
        if not self.is_own and proxy_of(self.endpoint) is None:
            check_listening(self.endpoint, self.provider, self.start_hint())

    def identity(self) -> dict[str, Any]:
        """Return what the replies depend on; `cache_id` stands for provider and endpoint."""
        if self.cache_id:
            server: dict[str, Any] = {"cache_id": self.cache_id}
        else:
            server = {"provider": self.provider, "endpoint": self.endpoint}
        parameters = dump_value(self.generation_kwargs)
        if self.structured_output is not None:
            parameters["structured_output"] = dump_value(self.structured_output)
        return {**server, "model": self.model, "parameters": parameters}

    def target(self) -> Target:
        """Return who is asked, as errors tell it."""
        key = self.key()
        return Target(
            self.provider,
            self.model,
            host_of(self.endpoint) if self.endpoint else "its own choice of servers",
            key_hint=self._key_hint(key),
            model_hint=self.model_hint(),
            secrets=(key,) if key else (),
            signs=self.failures,
        )

    # --- offline batches ---

    @property
    def goes_by_batch(self) -> bool:
        """Whether runs hand their requests over as jobs."""
        return self.offline_batch

    def make_batches(self) -> Batches:
        """Return a live connection to the provider's jobs."""
        raise SpecError(f"{type(self).__name__} takes no offline batches.", "Leave offline_batch out.")

    def limits_of_jobs(self) -> BatchLimits:
        """Return the most that one job takes: the provider's limits, or fewer requests."""
        most = self.batch_limits or BatchLimits(1, 1)
        return most._replace(
            max_requests=min(most.max_requests, self.offline_batch_size or most.max_requests)
        )

    # --- what a provider may say in another way ---

    def start_hint(self) -> str:
        """Return what to do where nothing listens."""
        return "Start the server there, or correct base_url=."

    def model_hint(self) -> str:
        """Return what to do where the model is unknown."""
        return "Correct the model's name, or ask for access to it."

    # --- where the key may go ---

    def _may_have_key(self) -> bool:
        named = self.environment_url()
        return self.is_own or (bool(named) and origin(named) == origin(self.server))

    def _key_hint(self, key: str) -> str:
        if self.api_key is not None:
            return "Check the value of api_key=."
        if key:
            return f"Check the value of {self.key_variable}, or pass api_key=."
        if not self.key_variable:
            return "Pass api_key=."
        return (
            f"No key was sent: {self.key_variable} goes to {self.title}'s own host only. Pass api_key= here."
        )

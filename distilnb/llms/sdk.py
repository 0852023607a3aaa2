"""Models that are asked through their provider's SDK: one request, one time limit, one family of errors."""

from __future__ import annotations

import asyncio
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from distilnb.errors import MalformedReplyError, ModelError, RefusedRequestError
from distilnb.llms.address import is_loopback
from distilnb.llms.failures import error_of, quote, timed_out, unreachable
from distilnb.llms.images import check_sees, parts_of
from distilnb.llms.remote import RemoteLLM
from distilnb.llms.request import Answer, Message, Reply, Request
from distilnb.llms.transport import certificates
from distilnb.optional import optional

# What is sent where there is no key. Never nothing: an SDK would then read the environment's by itself, and send it to
# whatever host this is.
NO_KEY = "no-key"

_TRANSPORTS = ("httpx", "httpx2", "httpcore", "httpcore2", "aiohttp", "requests", "urllib3")


class SdkLLM(RemoteLLM):
    """A model that is asked through a package of its provider's, which an extra of distilnb installs."""

    package: ClassVar[str] = ""

    def check(self) -> None:
        """Raise MissingPackageError without the provider's package, and what every model may raise."""
        self.check_installed()
        super().check()

    def check_installed(self) -> None:
        """Raise MissingPackageError, which names the extra to install, where the package is not there."""
        with optional(self.extra_name, what=type(self).__name__):
            try:
                is_there = importlib.util.find_spec(self.package) is not None
            except ModuleNotFoundError:  # of `google.genai` not even `google`
                is_there = False
            if not is_there:
                raise ImportError(f"No module named {self.package!r}", name=self.package)


class Response(NamedTuple):
    """What a server answered, as an SDK's error carries it."""

    status: int
    headers: Mapping[str, str]  # names in lower case, or a mapping that does not care
    body: bytes


class SdkClient(ABC):
    """Sends requests through an SDK, whose own retries are off, and turns whatever it raises into our errors."""

    def __init__(self, llm: SdkLLM) -> None:
        self.target = llm.target()
        self.timeout_s = llm.timeout
        self.endpoint = llm.endpoint
        self.key = llm.key() or NO_KEY
        self._title, self._takes_images = llm.title, llm.takes_images

    def http_options(self) -> dict[str, Any]:
        """Return how an SDK's HTTP client is to be made: our time limit, no redirects, no proxy for this machine."""
        is_encrypted = self.endpoint.startswith("https:")
        return {
            "timeout": self.timeout_s,
            "follow_redirects": False,
            "trust_env": not is_loopback(self.endpoint),
            "verify": certificates() if is_encrypted else False,  # else it would load some for nothing
        }

    @abstractmethod
    def open(self) -> Any:
        """Return the SDK's client, made at first use: what its import takes is no part of a request's time."""

    @abstractmethod
    async def ask(self, request: Request) -> Answer:
        """Send one request; raise whatever the SDK raises, or ValueError for an answer that is none."""

    @abstractmethod
    def response_of(self, error: Exception) -> Response | None:
        """Return the response that an error of the SDK's carries; None where it carries none."""

    @abstractmethod
    async def close(self) -> None:
        """Close the SDK's client and its connections."""

    async def send(self, request: Request) -> Answer:
        """Send one request once."""
        check_sees(self._title, self._takes_images, request.messages)
        try:
            self.open()
            # The SDK's own limit holds for each read by itself, and a slow answer has many.
            return await asyncio.wait_for(self.ask(request), self.timeout_s)
        except ModelError:
            raise
        # `from None` below: errors of SDKs carry the request's headers, and with them the key.
        except Exception as error:  # noqa: BLE001 - an SDK may raise anything; it is the failure of this request
            raise self.error_from(error) from None

    def error_from(self, error: Exception) -> ModelError:
        """Return what an exception of the SDK's stands for."""
        response = self.response_of(error)
        if response is not None and not 200 <= response.status < 300:
            return error_of(response.status, response.headers, response.body, self.target)
        chain = list(_chain(error))
        if any("timeout" in type(link).__name__.lower() for link in chain):
            return timed_out(self.target, self.timeout_s)
        if response is None and any(_is_of_transport(link) for link in chain):
            return unreachable(self.target, chain[-1])
        said = response.body.decode("utf-8", "replace") if response is not None else str(error)
        return MalformedReplyError(
            f"{self.target} sent an answer that is not a reply ({type(error).__name__}): "
            f"{quote(said, self.target)!r}",
            "A proxy may stand between, or base_url= leads to a server with another protocol.",
            provider=self.target.provider,
        )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _is_of_transport(error: BaseException) -> bool:
    is_transports = type(error).__module__.partition(".")[0] in _TRANSPORTS
    return isinstance(error, OSError) or (is_transports and not isinstance(error, ValueError))


# --- what the clients share ---------------------------------------------------


def split_system(messages: tuple[Message, ...]) -> tuple[str, list[Message]]:
    """Return the text of the system's messages, and the others: for protocols that keep them apart."""
    system = [text_of(message) for message in messages if message.get("role") == "system"]
    return "\n\n".join(system), [message for message in messages if message.get("role") != "system"]


def text_of(message: Message) -> str:
    """Return the text of a message; raise RefusedRequestError where it holds something else."""
    texts = []
    for part in parts_of(message):
        if not isinstance(part, str):
            raise RefusedRequestError(
                f"A message of role {message.get('role')!r} holds an image, which this model is not sent there.",
                "Put images into messages of the user.",
            )
        texts.append(part)
    return "".join(texts)


def seeded(parameters: Mapping[str, Any], request: Request) -> dict[str, Any]:
    """Return the parameters of one sending: a reply that is asked for by itself has a seed of its own."""
    if request.first and isinstance(parameters.get("seed"), int):
        return {**parameters, "seed": parameters["seed"] + request.first}
    return dict(parameters)


def one_reply(
    text: str | None,
    finish_reason: str,
    model: str,
    *,
    tokens: tuple[int | None, int | None],
    request_id: str,
    logprobs: list[dict[str, Any]] | None = None,
) -> Answer:
    """Return the answer of a provider that brings one reply a request; `tokens` are of the input, of the output."""
    reply = Reply(text, finish_reason, model, *tokens)
    return Answer((reply,), request_id, {} if logprobs is None else {"logprobs": [{"content": logprobs}]})

"""What all providers share that speak OpenAI's chat protocol: parameters, request, transport."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import Self

from distilnb.errors import SpecError, UnreachableError
from distilnb.llms.address import clean_url, is_loopback
from distilnb.llms.batches import Batches
from distilnb.llms.chat import JSON_MODES, TEXT_MODES, BodyMaker
from distilnb.llms.images import Image
from distilnb.llms.parameters import Wire, names, on_the_wire
from distilnb.llms.remote import RemoteLLM
from distilnb.llms.request import Client, Request
from distilnb.llms.shape import ReplyShape
from distilnb.llms.tokens import openai_image_tokens

if TYPE_CHECKING:
    from distilnb.llms.transport import Connection, Reader

# Everything that OpenAI's chat takes of the unified set.
OPENAI_PARAMETERS: Mapping[str, Wire] = names(
    max_new_tokens="max_tokens",
    temperature="temperature",
    top_p="top_p",
    stop="stop",
    seed="seed",
    frequency_penalty="frequency_penalty",
    presence_penalty="presence_penalty",
    logprobs="logprobs",
    top_logprobs="top_logprobs",
    response_format="response_format",
)

_OF_CHATS = frozenset({"logprobs", "top_logprobs", "response_format"})
_SECRET_HEADER = re.compile(r"auth|cookie|key|token|secret|password", re.IGNORECASE)


class CompatibleLLM(RemoteLLM):
    """A model on a server that speaks OpenAI's chat protocol; each provider says how it differs.

    `transport="sdk"` sends through the package `openai` instead of aiohttp. `base_urls` in place of `base_url` are
    several servers that hold the same model: each request goes to the one with the least to do, and a server that
    fails is left out for a while. Limits count for all of them together. In the reply cache the first one stands for
    all (else `cache_id`), so put the one first that stays. Each gets the environment's key only if it may have it.
    """

    parameters: ClassVar[Mapping[str, Wire]] = OPENAI_PARAMETERS
    takes_images: ClassVar[frozenset[str]] = frozenset({"url", "file"})
    json_modes: ClassVar[tuple[str, ...]] = JSON_MODES  # ways to force a JSON object, best first
    text_modes: ClassVar[tuple[str, ...]] = TEXT_MODES  # and any other shape
    not_in_digest: ClassVar[frozenset[str]] = RemoteLLM.not_in_digest | {"default_headers", "transport"}

    base_urls: list[str] | None = None
    default_headers: dict[str, str] = Field(default_factory=dict)
    transport: Literal["aiohttp", "sdk"] = "aiohttp"

    def __init__(self, **values: Any) -> None:
        if values.get("base_urls") is not None:
            values["base_urls"] = _clean_urls(values["base_urls"], values.get("base_url"))
        super().__init__(**values)
        if self.offline_batch and self.base_urls:
            raise SpecError(
                f"{type(self).__name__} has both base_urls= and offline_batch=True: a job is one server's.",
                "Give that server as base_url=; for more, a model each in an LLMPool.",
            )
        if self.offline_batch and self.pre_query_template:
            raise SpecError(
                f"{type(self).__name__} has both a pre-query template and offline_batch=True: Magpie's requests go to "
                "/completions, which offline batches of chats do not.",
                "Leave one of them out.",
            )
        for name in self.default_headers:
            if _SECRET_HEADER.search(name):
                raise SpecError(
                    f"default_headers may not hold {name!r}: headers are written into the pipeline's file.",
                    "Pass the key as api_key=, which is never written down.",
                )

    def shape_modes(self, shape: ReplyShape) -> tuple[str, ...]:
        """Return how the server may be made to keep to a shape, best first."""
        if shape.kind == "json" and shape.schema is None:
            return ("json_object",)
        return self.json_modes if shape.is_object else self.text_modes

    def image_tokens(self, image: Image) -> int:
        """Return what OpenAI's own models count for an image, by whatever way they are reached."""
        told = openai_image_tokens(self.model.rpartition("/")[2], image.size) if image.size else None
        return super().image_tokens(image) if told is None else told

    # --- several servers ---

    @property
    def server(self) -> str:
        """The server's address, of several the first's."""
        return self.base_urls[0] if self.base_urls else super().server

    def by_server(self) -> list[Self]:
        """Return this model as each of its `base_urls` alone holds it: every rule about a server is kept for each."""
        return [self.updated(base_url=url, base_urls=None) for url in self.base_urls or ()]

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The addresses of all servers that are asked."""
        return tuple(one.endpoint for one in self.by_server()) or super().endpoints

    def check(self) -> None:
        """Raise what would make every request be refused, by any of the servers."""
        servers = self.by_server()
        for one in servers:
            one.check()
        if not servers:
            super().check()

    def probe(self) -> None:
        """Raise UnreachableError when no server accepts a connection."""
        servers = self.by_server()
        for number, one in enumerate(servers, 1):
            try:
                return one.probe()
            except UnreachableError:
                if number == len(servers):
                    raise
        if not servers:
            super().probe()

    def _may_have_key(self) -> bool:
        servers = self.by_server()
        return all(one._may_have_key() for one in servers) if servers else super()._may_have_key()

    def spread(self) -> Client | None:
        """Return a client for all servers, where there are several."""
        if not self.base_urls:
            return None
        from distilnb.llms.spreading import SpreadClient

        return SpreadClient([one.make_client() for one in self.by_server()])

    def make_client(self) -> Client:
        """Return a client over the chosen transport."""
        if (spread := self.spread()) is not None:
            return spread
        from distilnb.llms.protocol import read_answer
        from distilnb.llms.transport import HttpClient, SdkClient

        transport = SdkClient if self.transport == "sdk" else HttpClient
        chat = transport(self.connection("/chat/completions", self._body_maker(), read_answer))
        if not self.pre_query_template:
            return chat
        from distilnb.llms.magpie import MagpieClient, read_completion

        raw = transport(self.connection("/completions", self._completion_of, read_completion))
        return MagpieClient(chat, raw)

    def make_batches(self) -> Batches:
        """Return a connection to the server's jobs."""
        from distilnb.llms.openai_batches import OpenAIBatches
        from distilnb.llms.protocol import read_answer

        connection = self.connection("/chat/completions", self._body_maker(), read_answer)
        return OpenAIBatches(connection, self.limits_of_jobs())

    def connection(self, path: str, body_of: Callable[[Request], dict[str, Any]], read: Reader) -> Connection:
        """Return what a transport needs: where to send, with which headers, and how to write and read it."""
        from distilnb.llms.transport import Connection

        return Connection(
            endpoint=self.endpoint,
            headers={**self.default_headers, **self.key_headers(self.key())},
            timeout_s=self.timeout,
            uses_proxies=not is_loopback(self.endpoint),
            target=self.target(),
            body_of=body_of,
            query=self.query(),
            path=path,
            read=read,
        )

    # --- what a provider may say in another way ---

    def key_headers(self, key: str) -> dict[str, str]:
        """Return the headers that carry the key, and what else depends on whose server it is."""
        return {"Authorization": f"Bearer {key}"} if key else {}

    @property
    def shows_schema(self) -> bool:
        """Whether the server itself shows the model a schema that it forces."""
        return False

    def query(self) -> dict[str, str]:
        """Return what follows the path of each request after a question mark."""
        return {}

    def wires(self) -> Mapping[str, Wire]:
        """Return how this model's server calls the parameters."""
        return self.parameters

    # --- the request ---

    def _completion_of(self, request: Request) -> dict[str, Any]:
        """Return the body of a request to go on with a text, which takes fewer parameters than one for a chat."""
        from distilnb.llms.magpie import completion_body, stops_of

        given = {name: value for name, value in self.generation_kwargs.items() if name not in _OF_CHATS}
        extra = dict(given.pop("extra", {}))
        parameters = on_the_wire(given, self.parameters)
        return completion_body(self.model, parameters, extra, stops_of(self.pre_query_template), request)

    def _body_maker(self) -> BodyMaker:
        parameters = dict(self.generation_kwargs)
        extra = dict(parameters.pop("extra", {}))
        wires = self.wires()
        body = on_the_wire(parameters, wires)
        seed_name = wires["seed"].name if "seed" in wires else ""
        return BodyMaker(
            {"model": self.model, **body},
            extra,
            max_n=self.max_n,
            seed_name=seed_name,
            shows_schema=self.shows_schema,
            title=self.title,
            takes_images=self.takes_images,
        )


def _clean_urls(urls: object, base_url: object) -> list[str]:
    if base_url is not None:
        raise SpecError("base_url= and base_urls= are both given.", "Put all servers into base_urls=.")
    if isinstance(urls, str) or not isinstance(urls, (list, tuple)) or not urls:
        raise SpecError(f"base_urls is {urls!r:.80}.", "Give a list: base_urls=['http://host-1:8000/v1', …]")
    cleaned = [clean_url(str(url), "base_urls") for url in urls]
    if len({*cleaned}) < len(cleaned):
        raise SpecError(f"base_urls names a server twice: {cleaned}.", "Name each once.")
    return cleaned

"""What all providers share that speak OpenAI's chat protocol: parameters, request, transport."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from distilnb.errors import SpecError
from distilnb.llms.address import is_loopback
from distilnb.llms.batches import Batches
from distilnb.llms.chat import JSON_MODES, TEXT_MODES, BodyMaker
from distilnb.llms.parameters import Wire, names, on_the_wire
from distilnb.llms.remote import RemoteLLM
from distilnb.llms.request import Client, Request
from distilnb.llms.shape import ReplyShape

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

_SECRET_HEADER = re.compile(r"auth|cookie|key|token|secret|password", re.IGNORECASE)


class CompatibleLLM(RemoteLLM):
    """A model on a server that speaks OpenAI's chat protocol; each provider says how it differs.

    `transport="sdk"` sends through the package `openai` instead of aiohttp.
    """

    parameters: ClassVar[Mapping[str, Wire]] = OPENAI_PARAMETERS
    json_modes: ClassVar[tuple[str, ...]] = JSON_MODES  # ways to force a JSON object, best first
    text_modes: ClassVar[tuple[str, ...]] = TEXT_MODES  # and any other shape
    not_in_digest: ClassVar[frozenset[str]] = RemoteLLM.not_in_digest | {"default_headers", "transport"}

    default_headers: dict[str, str] = Field(default_factory=dict)
    transport: Literal["aiohttp", "sdk"] = "aiohttp"

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
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

    def make_client(self) -> Client:
        """Return a client over the chosen transport."""
        from distilnb.llms.protocol import read_answer
        from distilnb.llms.transport import HttpClient, SdkClient

        connection = self.connection("/chat/completions", self._body_maker(), read_answer)
        return SdkClient(connection) if self.transport == "sdk" else HttpClient(connection)

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
        )

"""Ollama's own chat API, through its SDK: more ways to sample than its OpenAI-compatible one has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar

from distilnb.llms.address import clean_url
from distilnb.llms.failures import FILTERED, TOO_LONG, Sign, on, request_id_of
from distilnb.llms.images import Image, parts_of
from distilnb.llms.magpie import RAW, MagpieClient, stops_of
from distilnb.llms.parameters import Wire, as_list, names, on_the_wire
from distilnb.llms.protocol import token_logprob
from distilnb.llms.request import Answer, Client, Message, Request
from distilnb.llms.sdk import Response, SdkClient, SdkLLM, one_reply, seeded
from distilnb.llms.shape import PROMPT, ReplyShape, told

if TYPE_CHECKING:
    import httpx
    import ollama

_EXTRA = frozenset(
    {"keep_alive", "options", "think", "tools"}
)  # fields of a request that have no name of ours

_OF_CHATS = frozenset({"logprobs", "top_logprobs"})

_answered: ContextVar[list[httpx.Response]] = ContextVar("answered")  # its errors leave the headers out


class OllamaLLM(SdkLLM):
    """A model that Ollama runs, on this machine or elsewhere.

    `base_url` (1.x: `host`) is the server, else OLLAMA_HOST names it, else it is port 11434 of this machine. A
    key is needed by Ollama's cloud only (OLLAMA_API_KEY). `dn.llm("ollama:NAME")` asks the same server through
    its OpenAI-compatible API, which needs no further package. `magpie_pre_query_template` ("llama3", "qwen2" or a text
    of one's own) lets the task Magpie have the model write the user's part too.

    >>> OllamaLLM(model="llama3.2", host="http://127.0.0.1:11434").endpoint
    'http://127.0.0.1:11434'
    """

    provider: ClassVar[str] = "ollama"
    title: ClassVar[str] = "Ollama"
    package: ClassVar[str] = "ollama"
    extra_name: ClassVar[str] = "ollama"
    url: ClassVar[str] = "http://127.0.0.1:11434"
    other_hosts: ClassVar[tuple[str, ...]] = ("ollama.com",)
    url_variable: ClassVar[str] = "OLLAMA_HOST"
    key_variable: ClassVar[str] = "OLLAMA_API_KEY"
    max_n: ClassVar[int | None] = 1
    parameters: ClassVar[Mapping[str, Wire]] = names(
        options=Wire("options", dict),  # as 1.x writes them: first, so that the others are added to them
        max_new_tokens="options.num_predict",
        temperature="options.temperature",
        top_p="options.top_p",
        top_k="options.top_k",
        min_p="options.min_p",
        stop=Wire("options.stop", as_list),
        seed="options.seed",
        frequency_penalty="options.frequency_penalty",
        presence_penalty="options.presence_penalty",
        logprobs="logprobs",
        top_logprobs="top_logprobs",
        repetition_penalty="options.repeat_penalty",
    )
    takes_images: ClassVar[frozenset[str]] = frozenset({"file"})
    failures: ClassVar[tuple[Sign, ...]] = (
        Sign(FILTERED, on(400), words="content filter"),
        Sign(TOO_LONG, on(400), words="exceeds the maximum context length|exceeds.* context"),
    )

    use_magpie_template: bool = False
    magpie_pre_query_template: str | None = None

    def __init__(self, **values: Any) -> None:
        if "host" in values:
            values["base_url"] = values.pop("host")
        super().__init__(**values)

    @property
    def pre_query_template(self) -> str:
        """What Magpie's requests are written with."""
        return self.magpie_pre_query_template or ""

    def environment_url(self) -> str:
        """Return the address in OLLAMA_HOST, which may lack the scheme and the port."""
        named = os.environ.get(self.url_variable, "").strip().rstrip("/")
        if not named or "://" in named:
            return super().environment_url()
        host, _, port = (
            named.rpartition(":") if named.rpartition(":")[2].isdecimal() else (named, "", "11434")
        )
        return clean_url(f"http://{host}:{port}", self.url_variable)

    def check_parameters(self) -> None:
        """Raise UnsupportedParameterError for what Ollama lacks, in `extra` too: its SDK takes a few fields only."""
        super().check_parameters()
        for name in sorted((self.generation_kwargs.get("extra") or {}).keys() - _EXTRA):
            raise self.unsupported(name)

    def start_hint(self) -> str:
        """Return the command that starts it."""
        return "Start it: ollama serve"

    def model_hint(self) -> str:
        """Return the command that fetches the model."""
        return f"Fetch it: ollama pull {self.model}"

    def shape_modes(self, shape: ReplyShape) -> tuple[str, ...]:
        """Return how the model may be made to keep to a shape."""
        if shape.kind == "json" and shape.schema is None:
            return ("json",)
        return ("json_schema", "json") if shape.is_object else ("json_schema",)

    def make_client(self) -> Client:
        """Return a client over the SDK."""
        client = _Client(self)
        return MagpieClient(client, client) if self.pre_query_template else client


class _Client(SdkClient):
    def __init__(self, llm: OllamaLLM) -> None:
        super().__init__(llm)
        self._llm = llm
        self._client: ollama.AsyncClient | None = None

    async def send(self, request: Request) -> Answer:
        """Send one request once, and keep the response for an error that leaves its headers out."""
        _answered.set([])
        return await super().send(request)

    async def ask(self, request: Request) -> Answer:
        client = self.open()
        messages = request.messages
        if messages[0].get("role") == RAW:
            return await self._complete(client, request)
        fields = on_the_wire(seeded(self._llm.generation_kwargs, request), self._llm.parameters)
        if request.shape is not None and request.mode != PROMPT:
            fields["format"] = "json" if request.mode == "json" else request.shape.as_object()
            messages = told(messages, request.shape)
        reply = await client.chat(
            model=self._llm.model,
            messages=[_message_of(message) for message in messages],
            **fields,
        )
        answered = _answered.get([])
        return _read(reply, request_id_of(answered[-1].headers) if answered else "")

    async def _complete(self, client: ollama.AsyncClient, request: Request) -> Answer:
        """Let the model go on with a text, past its template of chats."""
        given = {
            name: value
            for name, value in seeded(self._llm.generation_kwargs, request).items()
            if name not in _OF_CHATS
        }
        fields = on_the_wire(given, self._llm.parameters)
        fields.pop("tools", None)
        options = fields.pop("options", {})
        stops = [*(options.get("stop") or ()), *stops_of(self._llm.pre_query_template)]
        reply = await client.generate(
            model=self._llm.model,
            prompt=request.messages[0]["content"],
            raw=True,
            options={**options, **({"stop": stops} if stops else {})},
            **fields,
        )
        if not reply.done:
            raise ValueError("the reply is not done")
        answered = _answered.get([])
        return one_reply(
            reply.response,
            reply.done_reason or "stop",
            reply.model or "",
            tokens=(reply.prompt_eval_count, reply.eval_count),
            request_id=request_id_of(answered[-1].headers) if answered else "",
        )

    def response_of(self, error: Exception) -> Response | None:
        import ollama

        if not isinstance(error, ollama.ResponseError):
            return None
        answered = _answered.get([])
        if not answered:
            return Response(error.status_code, {}, error.error.encode())
        return Response(answered[-1].status_code, answered[-1].headers, answered[-1].content)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    def open(self) -> ollama.AsyncClient:
        if self._client is not None:
            return self._client
        import httpx
        import ollama

        self._client = ollama.AsyncClient(
            host=self.endpoint,
            headers={"Authorization": f"Bearer {self.key}"},
            limits=httpx.Limits(),
            event_hooks={"response": [_note]},
            **self.http_options(),
        )
        return self._client


async def _note(response: httpx.Response) -> None:
    _answered.get([]).append(response)


def _message_of(message: Message) -> dict[str, Any]:
    """Return a message as Ollama writes it: the text, and the images beside it."""
    parts = list(parts_of(message))
    told: dict[str, Any] = {
        "role": message["role"],
        "content": "\n\n".join(part for part in parts if isinstance(part, str)),
    }
    # As bytes: of a text the SDK would see whether there is a file of that name.
    images = [part.content() for part in parts if isinstance(part, Image)]
    return {**told, "images": images} if images else told


def _read(reply: ollama.ChatResponse, request_id: str) -> Answer:
    if not reply.done:
        raise ValueError("the reply is not done")
    logprobs = None
    if reply.logprobs is not None:
        logprobs = [
            token_logprob(
                told.token, told.logprob, [(other.token, other.logprob) for other in told.top_logprobs or ()]
            )
            for told in reply.logprobs
        ]
    return one_reply(
        reply.message.content or "",
        reply.done_reason or "stop",
        reply.model or "",
        tokens=(reply.prompt_eval_count, reply.eval_count),
        request_id=request_id,
        logprobs=logprobs,
    )

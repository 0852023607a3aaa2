"""Cohere's chat API, version 2, through its SDK."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from distilnb.llms.failures import FILTERED, NO_CREDIT, TOO_LONG, TOO_SLOW, Sign, on, request_id_of
from distilnb.llms.images import for_openai
from distilnb.llms.parameters import Wire, as_list, names, on_the_wire
from distilnb.llms.protocol import token_logprob
from distilnb.llms.request import Answer, Client, Request
from distilnb.llms.sdk import Response, SdkClient, SdkLLM, one_reply, seeded
from distilnb.llms.shape import PROMPT, ReplyShape, told

if TYPE_CHECKING:
    import cohere

_FINISH: Mapping[str, str] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "TOOL_CALL": "tool_calls",
    "MAX_TOKENS": "length",
    "ERROR": "error",
    "TIMEOUT": "error",
}


class CohereLLM(SdkLLM):
    """A chat model of Cohere (COHERE_API_KEY, or CO_API_KEY as its SDK calls it).

    >>> CohereLLM(model="command-a-03-2025").label
    'cohere:command-a-03-2025'
    """

    provider: ClassVar[str] = "cohere"
    title: ClassVar[str] = "Cohere"
    package: ClassVar[str] = "cohere"
    extra_name: ClassVar[str] = "cohere"
    url: ClassVar[str] = "https://api.cohere.com"
    other_hosts: ClassVar[tuple[str, ...]] = ("api.cohere.ai",)
    url_variable: ClassVar[str] = "COHERE_BASE_URL"
    key_variable: ClassVar[str] = "COHERE_API_KEY"
    other_key_variables: ClassVar[tuple[str, ...]] = ("CO_API_KEY",)
    max_n: ClassVar[int | None] = 1
    parameters: ClassVar[Mapping[str, Wire]] = names(
        max_new_tokens="max_tokens",
        temperature="temperature",
        top_p="p",
        top_k="k",
        stop=Wire("stop_sequences", as_list),
        seed="seed",
        frequency_penalty="frequency_penalty",
        presence_penalty="presence_penalty",
        logprobs="logprobs",
    )
    failures: ClassVar[tuple[Sign, ...]] = (
        Sign(FILTERED, on(498)),
        Sign(TOO_SLOW, on(499)),
        Sign(TOO_LONG, on(400, 422), words="too many tokens"),
        Sign(NO_CREDIT, on(429), words=r"trial key.*limited to .*month|calls / month"),
    )
    takes_images: ClassVar[frozenset[str]] = frozenset({"url", "file"})
    not_in_digest: ClassVar[frozenset[str]] = SdkLLM.not_in_digest | {"client_name"}

    client_name: str = "distilnb"

    def shape_modes(self, shape: ReplyShape) -> tuple[str, ...]:
        """Return how the model may be made to keep to a shape."""
        if shape.kind == "json" and shape.schema is None:
            return ("json_object",)
        return ("json_schema", "json_object") if shape.is_object else ("json_schema",)

    def make_client(self) -> Client:
        """Return a client over the SDK."""
        return _Client(self)


class _Client(SdkClient):
    def __init__(self, llm: CohereLLM) -> None:
        super().__init__(llm)
        self._llm = llm
        self._client: cohere.AsyncClientV2 | None = None

    async def ask(self, request: Request) -> Answer:
        client = self.open()
        messages = request.messages
        body = on_the_wire(seeded(self._llm.generation_kwargs, request), self._llm.parameters)
        if request.shape is not None and request.mode != PROMPT:
            form: dict[str, Any] = {"type": "json_object"}
            if request.mode != "json_object":
                form["json_schema"] = request.shape.as_object()
            body["response_format"] = form
            messages = told(messages, request.shape)
        answered = await client.with_raw_response.chat(
            model=self._llm.model,
            messages=for_openai(messages),  # images are written as in OpenAI's protocol
            request_options={"additional_body_parameters": body, "max_retries": 0},
        )
        return _read(answered.data, self._llm.model, request_id_of(answered.headers))

    def response_of(self, error: Exception) -> Response | None:
        from cohere.core.api_error import ApiError

        if not isinstance(error, ApiError) or error.status_code is None:
            return None
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        body = error.body if isinstance(error.body, str) else json.dumps(error.body, default=str)
        return Response(error.status_code, headers, body.encode())

    async def close(self) -> None:
        if self._client is not None:
            await self._client.__aexit__(None, None, None)
            self._client = None

    def open(self) -> cohere.AsyncClientV2:
        if self._client is not None:
            return self._client
        import cohere
        import httpx

        limits = httpx.Limits()  # as many connections as requests in flight
        self._client = cohere.AsyncClientV2(
            api_key=self.key,
            base_url=self.endpoint,
            client_name=self._llm.client_name,
            timeout=self.timeout_s,
            httpx_client=httpx.AsyncClient(limits=limits, **self.http_options()),
            log_warning_experimental_features=False,
        )
        return self._client


def _read(reply: cohere.V2ChatResponse, model: str, request_id: str) -> Answer:
    texts = [part.text for part in reply.message.content or () if part.type == "text"]
    reason = str(reply.finish_reason)
    billed = reply.usage.billed_units if reply.usage else None
    logprobs = None
    if reply.logprobs is not None:
        logprobs = [token_logprob(told.text or "", (told.logprobs or [None])[0]) for told in reply.logprobs]
    return one_reply(
        "".join(texts),
        _FINISH.get(reason, reason.lower()),
        model,  # which the reply leaves out
        tokens=(_whole(billed and billed.input_tokens), _whole(billed and billed.output_tokens)),
        request_id=request_id or reply.id,
        logprobs=logprobs,
    )


def _whole(count: float | None) -> int | None:
    return None if count is None else int(count)

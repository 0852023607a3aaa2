"""Anthropic's messages API, through its SDK."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from distilnb.llms.batches import Batches, BatchLimits
from distilnb.llms.failures import FILTERED, NO_CREDIT, TOO_LONG, Sign, on, request_id_of
from distilnb.llms.images import Image, in_parts
from distilnb.llms.parameters import Wire, as_list, names, on_the_wire
from distilnb.llms.request import Answer, Client, Message, Request
from distilnb.llms.sdk import Response, SdkClient, SdkLLM, one_reply, split_system, text_of
from distilnb.llms.shape import PROMPT, ReplyShape
from distilnb.llms.tokens import anthropic_image_tokens

if TYPE_CHECKING:
    import anthropic

MAX_TOKENS = 4096  # where no limit is set: the API wants one, and every model takes this one
_TOOL = "reply"
_FINISH: Mapping[str, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
}


class AnthropicLLM(SdkLLM):
    """A chat model of Anthropic (ANTHROPIC_API_KEY).

    Where `max_new_tokens` is not set a reply has at most 4096 tokens. The headers of ANTHROPIC_CUSTOM_HEADERS
    go where the environment's key may go, and to no other server.

    >>> AnthropicLLM(model="claude-sonnet-4-5").label
    'anthropic:claude-sonnet-4-5'
    """

    provider: ClassVar[str] = "anthropic"
    title: ClassVar[str] = "Anthropic"
    package: ClassVar[str] = "anthropic"
    extra_name: ClassVar[str] = "anthropic"
    url: ClassVar[str] = "https://api.anthropic.com"
    url_variable: ClassVar[str] = "ANTHROPIC_BASE_URL"
    key_variable: ClassVar[str] = "ANTHROPIC_API_KEY"
    takes_images: ClassVar[frozenset[str]] = frozenset({"url", "file"})
    max_n: ClassVar[int | None] = 1
    batch_limits: ClassVar[BatchLimits | None] = BatchLimits(100_000, 256_000_000)
    batch_discount: ClassVar[float] = 0.5
    parameters: ClassVar[Mapping[str, Wire]] = names(
        max_new_tokens="max_tokens",
        temperature="temperature",
        top_p="top_p",
        top_k="top_k",
        stop=Wire("stop_sequences", as_list),
    )
    failures: ClassVar[tuple[Sign, ...]] = (
        Sign(NO_CREDIT, on(400, 403), words="credit balance is too low"),
        Sign(NO_CREDIT, code="billing_error"),
        Sign(FILTERED, on(400), words="content filtering policy"),
        Sign(TOO_LONG, on(400, 413), words="prompt is too long|exceed context limit|request_too_large"),
    )

    def shape_modes(self, shape: ReplyShape) -> tuple[str, ...]:
        """Return how the model may be made to keep to a shape: newer ones by a schema, all by a tool."""
        return ("tool",) if shape.kind == "json" and shape.schema is None else ("json_schema", "tool")

    def image_tokens(self, image: Image) -> int:
        """Return what Claude counts for an image."""
        return anthropic_image_tokens(image.size) if image.size else super().image_tokens(image)

    def make_client(self) -> Client:
        """Return a client over the SDK."""
        return _Client(self, sends_custom_headers=self._may_have_key())

    def make_batches(self) -> Batches:
        """Return a connection to the message batches."""
        from distilnb.llms.anthropic_batches import AnthropicBatches

        client = _Client(self, sends_custom_headers=self._may_have_key())
        return AnthropicBatches(client, self.limits_of_jobs(), client.open, client.body_of, read_message)


class _Client(SdkClient):
    def __init__(self, llm: AnthropicLLM, *, sends_custom_headers: bool) -> None:
        super().__init__(llm)
        self._sends_custom_headers = sends_custom_headers
        body = {"max_tokens": MAX_TOKENS, **on_the_wire(llm.generation_kwargs, llm.parameters)}
        self._model = llm.model
        self._max_tokens = body.pop("max_tokens")
        self._body = body
        self._client: anthropic.AsyncAnthropic | None = None

    async def ask(self, request: Request) -> Answer:
        body = self.body_of(request)
        answered = await self.open().messages.with_raw_response.create(
            model=body.pop("model"),
            max_tokens=body.pop("max_tokens"),
            messages=body.pop("messages"),
            extra_body=body,
        )
        response = answered.http_response
        return read_message(json.loads(response.content), request_id_of(response.headers))

    def body_of(self, request: Request) -> dict[str, Any]:
        """Return a request in the words of the API."""
        system, turns = split_system(request.messages)
        return {
            "model": self._model,
            "max_tokens": self._max_tokens,
            "messages": [{"role": turn["role"], "content": _content_of(turn)} for turn in turns],
            **self._body,
            **({"system": system} if system else {}),
            **_forcing(request),
        }

    def response_of(self, error: Exception) -> Response | None:
        import anthropic

        if not isinstance(error, anthropic.APIStatusError):
            return None
        return Response(error.response.status_code, error.response.headers, error.response.content)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    def open(self) -> anthropic.AsyncAnthropic:
        if self._client is not None:
            return self._client
        import anthropic

        self._client = anthropic.AsyncAnthropic(
            api_key=self.key,
            base_url=self.endpoint,
            timeout=self.timeout_s,
            max_retries=0,
            http_client=anthropic.DefaultAsyncHttpxClient(**self.http_options()),
        )
        if not self._sends_custom_headers:
            # The SDK takes them from the environment whatever server it is given; they may hold keys. Left out by
            # `default_headers`, its own of the same name would be gone too.
            self._client._custom_headers = {}
        return self._client


def _content_of(turn: Message) -> Any:
    """Return what a turn says: text, or blocks of text and images."""
    if not isinstance(turn.get("content"), list):
        return text_of(turn)
    return in_parts(turn, lambda text: {"type": "text", "text": text}, _image_block)


def _image_block(image: Image) -> dict[str, Any]:
    if image.url:
        return {"type": "image", "source": {"type": "url", "url": image.url}}
    source = {"type": "base64", "media_type": image.media_type, "data": image.in_base64()}
    return {"type": "image", "source": source}


def _forcing(request: Request) -> dict[str, Any]:
    """Return the fields that make the reply keep to a shape in the mode of this sending."""
    shape = request.shape
    if shape is None or request.mode == PROMPT:
        return {}
    if request.mode == "json_schema":
        return {"output_config": {"format": {"type": "json_schema", "schema": shape.as_object()}}}
    tool = {"name": _TOOL, "description": "Give the reply.", "input_schema": shape.as_object()}
    return {"tools": [tool], "tool_choice": {"type": "tool", "name": _TOOL}}


def read_message(data: Mapping[str, Any], request_id: str) -> Answer:
    """Return what a message of the API's holds; raises KeyError or TypeError where it is none."""
    texts = []
    for block in data["content"]:
        if block["type"] == "text":
            texts.append(block["text"])
        elif block["type"] == "tool_use":
            texts.append(json.dumps(block["input"], ensure_ascii=False))
    reason = data.get("stop_reason") or "end_turn"
    usage = data.get("usage") or {}
    read = [usage.get(f"{name}input_tokens") for name in ("", "cache_creation_", "cache_read_")]
    return one_reply(
        "".join(texts),
        _FINISH.get(reason, reason),
        data.get("model") or "",
        tokens=(sum(map(int, filter(None, read))) if usage else None, usage.get("output_tokens")),
        request_id=request_id or data.get("id") or "",
    )

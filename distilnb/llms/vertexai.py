"""Google's Gemini models, on Vertex AI or by a key of the Gemini API, through Google's SDK."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from distilnb.errors import ContentFilterError, MissingKeyError, SpecError
from distilnb.llms.address import host_of
from distilnb.llms.failures import NO_CREDIT, TOO_LONG, WRONG_KEY, Sign, on
from distilnb.llms.images import Image, in_parts
from distilnb.llms.parameters import Wire, as_list, names, on_the_wire
from distilnb.llms.protocol import share_out, token_logprob
from distilnb.llms.request import Answer, Client, Reply, Request
from distilnb.llms.sdk import Response, SdkClient, SdkLLM, seeded, split_system
from distilnb.llms.shape import PROMPT, ReplyShape, told
from distilnb.llms.tokens import gemini_image_tokens

if TYPE_CHECKING:
    import httpx
    from google import genai

DEFAULT_LOCATION = "global"
_REGIONAL_HOST = re.compile(r"[a-z0-9-]+-aiplatform\.googleapis\.com")
_FILTERED = "content_filter"
_FINISH: Mapping[str, str] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"), _FILTERED),
}


class VertexAILLM(SdkLLM):
    """A Gemini model: of a project on Vertex AI, or by a key of the Gemini API (GEMINI_API_KEY, GOOGLE_API_KEY).

    With `project` (or GOOGLE_CLOUD_PROJECT) and without a key, Vertex AI is asked in `location`, with the
    credentials that `gcloud auth application-default login` leaves on this machine. As keys do, they go to
    Google's hosts and to the server that GOOGLE_GEMINI_BASE_URL names, and to no other.

    >>> VertexAILLM(model="gemini-2.5-flash").label
    'vertexai:gemini-2.5-flash'
    """

    provider: ClassVar[str] = "vertexai"
    title: ClassVar[str] = "Gemini"
    package: ClassVar[str] = "google.genai"
    extra_name: ClassVar[str] = "vertexai"
    url: ClassVar[str] = "https://generativelanguage.googleapis.com"
    other_hosts: ClassVar[tuple[str, ...]] = ("aiplatform.googleapis.com",)
    url_variable: ClassVar[str] = "GOOGLE_GEMINI_BASE_URL"
    key_variable: ClassVar[str] = "GEMINI_API_KEY"
    other_key_variables: ClassVar[tuple[str, ...]] = ("GOOGLE_API_KEY",)
    max_n: ClassVar[int | None] = 8
    parameters: ClassVar[Mapping[str, Wire]] = names(
        max_new_tokens="generationConfig.maxOutputTokens",
        temperature="generationConfig.temperature",
        top_p="generationConfig.topP",
        top_k="generationConfig.topK",
        stop=Wire("generationConfig.stopSequences", as_list),
        seed="generationConfig.seed",
        frequency_penalty="generationConfig.frequencyPenalty",
        presence_penalty="generationConfig.presencePenalty",
        logprobs="generationConfig.responseLogprobs",
        top_logprobs="generationConfig.logprobs",
    )
    takes_images: ClassVar[frozenset[str]] = frozenset({"file"})
    failures: ClassVar[tuple[Sign, ...]] = (
        Sign(WRONG_KEY, on(400), words="API_KEY_INVALID|API key not valid"),
        Sign(NO_CREDIT, on(429), words="PerDay"),
        Sign(TOO_LONG, on(400), words=r"input token count .*exceeds the maximum"),
    )

    project: str | None = None
    location: str | None = None

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if self.location:
            self.cloud_location()

    @property
    def is_own(self) -> bool:
        """Whether the server is Google's; each location has a host of its own."""
        parts = urlsplit(self.server)
        is_regional = parts.scheme == "https" and _REGIONAL_HOST.fullmatch(parts.hostname or "") is not None
        return is_regional or super().is_own

    @property
    def is_vertex(self) -> bool:
        """Whether a project on Vertex AI is asked, by the credentials of this machine."""
        return bool(self.cloud_project()) and not self.key() and self._may_have_key()

    @property
    def endpoint(self) -> str:
        """The server's address: that of Vertex AI for a project."""
        if self.base_url or self.environment_url() or not self.is_vertex:
            return self.server
        place = self.cloud_location()
        return f"https://{'' if place == DEFAULT_LOCATION else f'{place}-'}aiplatform.googleapis.com"

    def cloud_project(self) -> str:
        """Return the project on Vertex AI that is asked; "" when none is named."""
        return self.project or os.environ.get("GOOGLE_CLOUD_PROJECT", "").strip()

    def cloud_location(self) -> str:
        """Return where on Vertex AI it is asked.

        Raises SpecError for what is no name of a location: it is part of the host's name.
        """
        place = self.location or os.environ.get("GOOGLE_CLOUD_LOCATION", "").strip() or DEFAULT_LOCATION
        if not re.fullmatch(r"[a-z0-9-]+", place):
            raise SpecError(
                f"{'location' if self.location else 'GOOGLE_CLOUD_LOCATION'} is {place!r}, which names no location.",
                f"Write it as Google does: 'europe-west4', or {DEFAULT_LOCATION!r}.",
            )
        return place

    def key(self) -> str:
        """Return the key of the Gemini API; "" when there is none, or a project is named here."""
        if self.api_key is None and self.project:
            return ""
        return super().key()

    def check(self) -> None:
        """Raise what every model may raise, and MissingKeyError for a project on a server that is not Google's."""
        super().check()
        if self.project and self.api_key is None and not self._may_have_key():
            raise MissingKeyError(
                f"The credentials for project {self.project!r} go to Google's own hosts only, and not to "
                f"{host_of(self.server)}.",
                f"Pass api_key=, set {self.url_variable}, or set no base_url=.",
                provider=self.provider,
            )

    def check_key(self) -> None:
        """Raise MissingKeyError where neither a key nor a project is set."""
        if not self.is_vertex:
            super().check_key()

    def identity(self) -> dict[str, Any]:
        """Return what the replies depend on; not where on Vertex AI they come from."""
        identity = super().identity()
        if self.is_vertex and "endpoint" in identity and not self.base_url:
            identity["endpoint"] = "vertex"
        return identity

    def shape_modes(self, shape: ReplyShape) -> tuple[str, ...]:
        """Return how the model may be made to keep to a shape."""
        if shape.kind == "json" and shape.schema is None:
            return ("json_object",)
        return ("json_schema", "json_object") if shape.is_object else ("json_schema",)

    def image_tokens(self, image: Image) -> int:
        """Return what Gemini counts for an image."""
        return gemini_image_tokens(image.size) if image.size else super().image_tokens(image)

    def make_client(self) -> Client:
        """Return a client over the SDK."""
        return _Client(self)


class _Client(SdkClient):
    def __init__(self, llm: VertexAILLM) -> None:
        super().__init__(llm)
        self._llm = llm
        self._client: genai.Client | None = None
        self._http: httpx.AsyncClient | None = None

    async def ask(self, request: Request) -> Answer:
        client = self.open()
        body = on_the_wire(seeded(self._llm.generation_kwargs, request), self._llm.parameters)
        options = body.setdefault("generationConfig", {})
        if request.n > 1:
            options["candidateCount"] = min(request.n, self._llm.max_n or 1)
        messages = request.messages
        if request.shape is not None and request.mode != PROMPT:
            options["responseMimeType"] = "application/json"
            if request.mode == "json_object":
                messages = told(messages, request.shape)
            else:
                options["responseJsonSchema"] = request.shape.as_object()
        system, turns = split_system(messages)
        if system:
            body["systemInstruction"] = {"parts": [{"text": system}]}
        reply = await client.aio.models.generate_content(
            model=self._llm.model,
            contents=[
                {
                    "role": "model" if turn["role"] == "assistant" else "user",
                    "parts": in_parts(turn, lambda text: {"text": text}, _inline),
                }
                for turn in turns
            ],
            # Through extra_body, so that the SDK neither refuses nor drops what the server takes.
            config={"http_options": {"extra_body": body}},
        )
        return self._read(reply)

    def _read(self, reply: Any) -> Answer:
        candidates = reply.candidates or []
        blocked = reply.prompt_feedback.block_reason if reply.prompt_feedback else None
        if not candidates and blocked:
            raise ContentFilterError(
                f"{self.target} refused the request for its content: {blocked.value}.",
                "Change the prompt, or the filter (safetySettings in extra).",
                provider=self.target.provider,
                request_id=reply.response_id or "",
            )
        if not candidates:
            raise ValueError("no candidates")
        usage = reply.usage_metadata
        input_tokens = usage.prompt_token_count if usage else None
        written = [usage.candidates_token_count, usage.thoughts_token_count] if usage else [None]
        total = sum(filter(None, written)) if any(count is not None for count in written) else None
        replies = []
        for candidate, tokens in zip(candidates, share_out(total, len(candidates)), strict=True):
            parts = (candidate.content.parts if candidate.content else None) or []
            text = "".join(part.text or "" for part in parts if not part.thought)
            reason = candidate.finish_reason.value if candidate.finish_reason else "STOP"
            finish = _FINISH.get(reason, reason.lower())
            replies.append(Reply(text, finish, reply.model_version or "", input_tokens, tokens))
            input_tokens = 0 if input_tokens is not None else None  # the prompt's stand on the first reply
        logprobs = [_logprobs(candidate) for candidate in candidates]
        extra = {"logprobs": logprobs} if any(logprobs) else {}
        return Answer(tuple(replies), reply.response_id or "", extra)

    def response_of(self, error: Exception) -> Response | None:
        from google.genai.errors import APIError

        if not isinstance(error, APIError):
            return None
        headers = getattr(error.response, "headers", None) or {}
        body = json.dumps(error.details, default=str).encode()
        return Response(error.code, {name.lower(): value for name, value in headers.items()}, body)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aio.aclose()
            self._client.close()
            self._client = None
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    def open(self) -> genai.Client:
        if self._client is not None:
            return self._client
        import httpx
        from google import genai

        # Else the SDK would take aiohttp where that is there, and httpx where not.
        self._http = httpx.AsyncClient(limits=httpx.Limits(), **self.http_options())
        where: dict[str, Any] = {"vertexai": False, "api_key": self.key}
        if self._llm.is_vertex:
            place = self._llm.cloud_location()
            where = {"vertexai": True, "project": self._llm.cloud_project(), "location": place}
        self._client = genai.Client(
            **where,
            http_options={
                "base_url": self.endpoint,
                "timeout": int(self.timeout_s * 1000),
                "httpx_async_client": self._http,
                "retry_options": {"attempts": 1},
            },
        )
        return self._client


def _inline(image: Image) -> dict[str, Any]:
    return {"inline_data": {"mime_type": image.media_type, "data": image.content()}}


def _logprobs(candidate: Any) -> dict[str, Any] | None:
    result = candidate.logprobs_result
    if result is None:
        return None
    chosen = result.chosen_candidates or []
    top = result.top_candidates or [None] * len(chosen)
    return {
        "content": [
            token_logprob(
                token.token,
                token.log_probability,
                [(other.token, other.log_probability) for other in (others.candidates if others else ())],
            )
            for token, others in zip(chosen, top, strict=False)
        ]
    }

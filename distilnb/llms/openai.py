"""OpenAI's chat API, and every server that speaks it (vLLM, Ollama, LM Studio, llama.cpp, gateways)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field

from distilnb.errors import SpecError, UnsupportedParameterError
from distilnb.llms.address import check_listening, clean_url, host_of, is_loopback, origin, proxy_of
from distilnb.llms.base import GENERATION_PARAMETERS, LLM
from distilnb.llms.chat import (
    JSON_MODES,
    OPENAI_JSON_MODES,
    OPENAI_TEXT_MODES,
    TEXT_MODES,
    VLLM_TEXT_MODES,
    BodyMaker,
    response_format,
)
from distilnb.llms.parameters import unify_parameters
from distilnb.llms.request import Client
from distilnb.llms.shape import ReplyShape
from distilnb.spec.base import dump_value

OPENAI_URL = "https://api.openai.com/v1"

# OpenAI-compatible servers that run on this machine, by the name that the catalog gives them.
LOCAL_SERVERS: Mapping[str, str] = {
    "llamacpp": "http://127.0.0.1:8080/v1",
    "lmstudio": "http://127.0.0.1:1234/v1",
    "ollama": "http://127.0.0.1:11434/v1",
    "vllm": "http://127.0.0.1:8000/v1",
}
_HOW_TO_START: Mapping[str, str] = {
    "llamacpp": "Start it: llama-server -m MODEL.gguf",
    "lmstudio": "Start it: lms server start",
    "ollama": "Start it: ollama serve",
    "vllm": "Start it: vllm serve MODEL",
}

# Parameters that OpenAI's own API lacks and other servers take; the last three are names of 1.x.
_OF_OTHER_SERVERS = frozenset({"top_k", "min_p", "repetition_penalty", "stop_token_ids", "echo"})
_KNOWN = GENERATION_PARAMETERS | _OF_OTHER_SERVERS | {"response_format"}

# Models that reason take max_completion_tokens and refuse max_tokens.
_REASONING_MODEL = re.compile(r"(?:.*[/:])?(?:o\d|gpt-[5-9])")
_ACCOUNT_HEADERS = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
_SECRET_HEADER = re.compile(r"auth|cookie|key|token|secret|password", re.IGNORECASE)


class OpenAILLM(LLM):
    """A chat model of OpenAI, or of any server that speaks OpenAI's protocol.

    `base_url` is the server, else the environment's OPENAI_BASE_URL, else OpenAI's own. `structured_output`
    asks each reply to be JSON: {"format": "json", "schema": a JSON schema or a pydantic model}. `cache_id`
    names the server in the reply cache instead of its address, for one that moves. `transport="sdk"` sends
    through the package `openai` instead of aiohttp.

    The environment's OPENAI_API_KEY goes to OpenAI's own host, or to the server that OPENAI_BASE_URL names,
    and to no other: a pipeline from a file may hold any `base_url`, and would else collect keys. Another
    server gets the key that `api_key` gives it, or none.

    >>> OpenAILLM(model="gpt-4o-mini", generation_kwargs={"temperature": 0.7}).label
    'openai:gpt-4o-mini'
    """

    provider: ClassVar[str] = "openai"
    key_variable: ClassVar[str] = "OPENAI_API_KEY"
    not_in_digest: ClassVar[frozenset[str]] = LLM.not_in_digest | {"default_headers", "transport"}

    base_url: str | None = None
    default_headers: dict[str, str] = Field(default_factory=dict)
    structured_output: dict[str, Any] | None = None
    cache_id: str | None = None
    transport: Literal["aiohttp", "sdk"] = "aiohttp"

    def __init__(self, **values: Any) -> None:
        # Here and not in validators: pydantic would wrap these errors, and quote a URL that holds a password.
        if isinstance(values.get("base_url"), str):
            values["base_url"] = clean_url(values["base_url"], "base_url")
        if isinstance(values.get("generation_kwargs"), Mapping):
            given = values["generation_kwargs"]
            values["generation_kwargs"] = unify_parameters(type(self).__name__, given, _KNOWN)
        super().__init__(**values)
        for name in self.default_headers:
            if _SECRET_HEADER.search(name):
                raise SpecError(
                    f"default_headers may not hold {name!r}: headers are written into the pipeline's file.",
                    "Pass the key as api_key=, which is never written down.",
                )

    @property
    def endpoint(self) -> str:
        """The server's address without a slash at the end."""
        named = os.environ.get("OPENAI_BASE_URL", "").strip()
        return self.base_url or (clean_url(named, "OPENAI_BASE_URL") if named else OPENAI_URL)

    @property
    def is_openai(self) -> bool:
        """Whether the server is OpenAI's own."""
        parts = urlsplit(self.endpoint)
        host = parts.hostname or ""
        return parts.scheme == "https" and (host == "api.openai.com" or host.endswith(".api.openai.com"))

    @property
    def label(self) -> str:
        """The short name in tables: provider (or local server) and model."""
        return f"{self._local_server() or self.provider}:{self.model}"

    def key(self) -> str:
        """Return the key to send to this server; "" when there is none for it."""
        if self.api_key is not None:
            return self.api_key.get_secret_value().strip()
        return super().key().strip() if self.is_openai or self._is_the_environments() else ""

    def check(self) -> None:
        """Raise MissingKeyError or UnsupportedParameterError where every request would be refused."""
        if self.is_openai:
            super().check()
            for name in sorted(_OF_OTHER_SERVERS & self.generation_kwargs.keys()):
                raise UnsupportedParameterError(
                    f"OpenAI's API has no parameter {name!r}, which {self.model!r} is given.",
                    f"Leave {name} out, or set base_url= to a server that takes it (vLLM, llama.cpp).",
                    provider=self.provider,
                )
        response_format(self.structured_output, self.provider)

    def shape_modes(self, shape: ReplyShape) -> tuple[str, ...]:
        """Return how this server may be made to keep to a shape, best first."""
        if shape.kind == "json" and shape.schema is None:
            return ("json_object",)
        if shape.is_object:
            return OPENAI_JSON_MODES if self.is_openai else JSON_MODES
        if self.is_openai:
            return OPENAI_TEXT_MODES
        return VLLM_TEXT_MODES if self._local_server() == "vllm" else TEXT_MODES

    def probe(self) -> None:
        """Raise UnreachableError when a server that is not OpenAI's own does not accept a connection."""
        if not self.is_openai and proxy_of(self.endpoint) is None:
            fix = _HOW_TO_START.get(self._local_server(), "Start the server there, or correct base_url=.")
            check_listening(self.endpoint, self.provider, fix)

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

    def make_client(self) -> Client:
        """Return a client over the chosen transport."""
        from distilnb.llms.protocol import Target
        from distilnb.llms.transport import Connection, HttpClient, SdkClient

        key = self.key()
        target = Target(
            self.provider,
            self.model,
            host_of(self.endpoint),
            key_hint=self._key_hint(key),
            model_hint=self._model_hint(),
            secrets=(key,) if key else (),
        )
        connection = Connection(
            endpoint=self.endpoint,
            headers=self._headers(key),
            timeout_s=self.timeout,
            uses_proxies=not is_loopback(self.endpoint),
            target=target,
            body_of=self._body_maker(),
        )
        return SdkClient(connection) if self.transport == "sdk" else HttpClient(connection)

    # --- the request ---

    def _headers(self, key: str) -> dict[str, str]:
        headers = dict(self.default_headers)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        if self.is_openai:
            headers.update(
                {name: os.environ[key] for name, key in _ACCOUNT_HEADERS.items() if os.environ.get(key)}
            )
        return headers

    def _body_maker(self) -> BodyMaker:
        parameters = dict(self.generation_kwargs)
        extra = parameters.pop("extra", {})
        limit = parameters.pop("max_new_tokens", None)
        if limit is not None:
            name = "max_completion_tokens" if _REASONING_MODEL.match(self.model) else "max_tokens"
            parameters[name] = limit
        wanted = response_format(self.structured_output, self.provider)
        if wanted is not None:
            parameters["response_format"] = wanted
        return BodyMaker({"model": self.model, **parameters}, dict(extra), shows_schema=self.is_openai)

    # --- where the key may go ---

    def _is_the_environments(self) -> bool:
        named = os.environ.get("OPENAI_BASE_URL", "").strip()
        return bool(named) and origin(clean_url(named, "OPENAI_BASE_URL")) == origin(self.endpoint)

    def _key_hint(self, key: str) -> str:
        if self.api_key is not None:
            return "Check the value of api_key=."
        if key:
            return f"Check the value of {self.key_variable}, or pass api_key=."
        return f"No key was sent: {self.key_variable} goes to OpenAI's own host only. Pass api_key= here."

    def _model_hint(self) -> str:
        if self.is_openai:
            return "Correct the model's name, or ask for access to it."
        return "Correct the model's name. If it is right, base_url= should end in the API's path, often /v1."

    def _local_server(self) -> str:
        return next((name for name, url in LOCAL_SERVERS.items() if url == self.endpoint), "")

"""OpenAI's chat API, and every server that speaks it (vLLM, Ollama, LM Studio, llama.cpp, gateways)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import ClassVar

from distilnb.errors import UnsupportedParameterError
from distilnb.llms.batches import BatchLimits
from distilnb.llms.chat import OPENAI_JSON_MODES, OPENAI_TEXT_MODES, VLLM_TEXT_MODES
from distilnb.llms.compatible import OPENAI_PARAMETERS, CompatibleLLM
from distilnb.llms.parameters import Wire, names
from distilnb.llms.shape import ReplyShape

OPENAI_URL = "https://api.openai.com/v1"

# OpenAI-compatible servers that run on this machine, by the name that the catalog gives them.
LOCAL_SERVERS: Mapping[str, str] = {
    "llamacpp": "http://127.0.0.1:8080/v1",
    "lmstudio": "http://127.0.0.1:1234/v1",
    "ollama": "http://127.0.0.1:11434/v1",
    "vllm": "http://127.0.0.1:8000/v1",
}
HOW_TO_START: Mapping[str, str] = {
    "llamacpp": "Start it: llama-server -m MODEL.gguf",
    "lmstudio": "Start it: lms server start",
    "ollama": "Start it: ollama serve",
    "vllm": "Start it: vllm serve MODEL",
}

# Parameters that OpenAI's own API lacks and other servers take; the last three are names of 1.x.
OF_OTHER_SERVERS: Mapping[str, Wire] = names(
    top_k="top_k",
    min_p="min_p",
    repetition_penalty="repetition_penalty",
    stop_token_ids="stop_token_ids",
    echo="echo",
)

# Models that reason take max_completion_tokens and refuse max_tokens.
REASONING_MODEL = re.compile(r"(?:.*[/:])?(?:o\d|gpt-[5-9])")
_ACCOUNT_HEADERS = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}


class OpenAILLM(CompatibleLLM):
    """A chat model of OpenAI, or of any server that speaks OpenAI's protocol.

    `base_url` is the server, else the environment's OPENAI_BASE_URL, else OpenAI's own. `structured_output`
    asks each reply to have a shape, where a task has none of its own: {"format": "json", "schema": a JSON schema
    or a pydantic model}, or "regex" with a pattern, or "choice" with a list. `cache_id` names the server in the
    reply cache instead of its address, for one that moves. `transport="sdk"` sends through the package `openai`
    instead of aiohttp.

    `magpie_pre_query_template` ("llama3", "qwen2" or a text of one's own) lets the task Magpie have the model write
    the user's part; the server must complete texts too.

    The environment's OPENAI_API_KEY goes to OpenAI's own host, or to the server that OPENAI_BASE_URL names,
    and to no other: a pipeline from a file may hold any `base_url`, and would else collect keys. Another
    server gets the key that `api_key` gives it, or none.

    >>> OpenAILLM(model="gpt-4o-mini", generation_kwargs={"temperature": 0.7}).label
    'openai:gpt-4o-mini'
    """

    provider: ClassVar[str] = "openai"
    title: ClassVar[str] = "OpenAI"
    url: ClassVar[str] = OPENAI_URL
    url_variable: ClassVar[str] = "OPENAI_BASE_URL"
    key_variable: ClassVar[str] = "OPENAI_API_KEY"
    batch_limits: ClassVar[BatchLimits | None] = BatchLimits(50_000, 200_000_000)
    batch_discount: ClassVar[float] = 0.5
    parameters: ClassVar[Mapping[str, Wire]] = {**OPENAI_PARAMETERS, **OF_OTHER_SERVERS}

    use_magpie_template: bool = False
    magpie_pre_query_template: str | None = None

    @property
    def pre_query_template(self) -> str:
        """What Magpie's requests are written with."""
        return self.magpie_pre_query_template or ""

    @property
    def shows_schema(self) -> bool:
        """OpenAI's own does."""
        return self.is_openai

    @property
    def is_openai(self) -> bool:
        """Whether the server is OpenAI's own."""
        return self.is_own

    @property
    def label(self) -> str:
        """The short name in tables: provider (or local server) and model."""
        return f"{self._local_server() or self.provider}:{self.model}"

    def check_parameters(self) -> None:
        """Raise UnsupportedParameterError for what OpenAI's own API lacks, if that is asked."""
        super().check_parameters()
        for name in sorted(OF_OTHER_SERVERS.keys() & self.generation_kwargs.keys()):
            if self.is_openai:
                raise self.unsupported(name)

    def unsupported(self, name: str) -> UnsupportedParameterError:
        """Make the error for a parameter that OpenAI's own API lacks and others may take."""
        error = super().unsupported(name)
        error.fix = f"Leave {name} out, or set base_url= to a server that takes it (vLLM, llama.cpp)."
        return error

    def shape_modes(self, shape: ReplyShape) -> tuple[str, ...]:
        """Return how this server may be made to keep to a shape, best first."""
        if shape.is_object and self.is_openai and shape.schema is not None:
            return OPENAI_JSON_MODES
        if not shape.is_object and self.is_openai:
            return OPENAI_TEXT_MODES
        if not shape.is_object and self._local_server() == "vllm":
            return VLLM_TEXT_MODES
        return super().shape_modes(shape)

    def key_headers(self, key: str) -> dict[str, str]:
        """Return the headers of the key and, for OpenAI's own host, of the account."""
        headers = super().key_headers(key)
        if self.is_openai:
            headers.update(
                {name: os.environ[key] for name, key in _ACCOUNT_HEADERS.items() if os.environ.get(key)}
            )
        return headers

    def wires(self) -> Mapping[str, Wire]:
        """Return how the parameters are called: the token limit in another way where the model reasons."""
        return (
            limited_by_completion(self.parameters) if REASONING_MODEL.match(self.model) else self.parameters
        )

    def start_hint(self) -> str:
        """Return the command that starts a local server."""
        return HOW_TO_START.get(self._local_server(), super().start_hint())

    def model_hint(self) -> str:
        """Return what to do where the model is unknown."""
        if self.is_openai:
            return super().model_hint()
        return "Correct the model's name. If it is right, base_url= should end in the API's path, often /v1."

    def _local_server(self) -> str:
        return next((name for name, url in LOCAL_SERVERS.items() if url == self.endpoint), "")


def limited_by_completion(table: Mapping[str, Wire]) -> dict[str, Wire]:
    """Return a table in which the token limit has its newer name."""
    return {**table, "max_new_tokens": Wire("max_completion_tokens")}

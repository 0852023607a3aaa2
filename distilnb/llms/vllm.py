"""vLLM's server: OpenAI's protocol with vLLM's own ways to sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from distilnb.llms.chat import VLLM_TEXT_MODES
from distilnb.llms.compatible import CompatibleLLM
from distilnb.llms.openai import LOCAL_SERVERS, OpenAILLM
from distilnb.llms.parameters import Wire


class ClientvLLM(CompatibleLLM):
    """A model on a server of vLLM: the one of `base_url`, else of VLLM_BASE_URL, else port 8000 of this machine.

    `tokenizer` and `tokenizer_revision` are taken from pipelines of 1.x, which wrote the chat's template out
    themselves; the server does that.

    >>> ClientvLLM(model="meta-llama/Llama-3.1-8B-Instruct").endpoint
    'http://127.0.0.1:8000/v1'
    """

    provider: ClassVar[str] = "vllm"
    title: ClassVar[str] = "vLLM"
    url: ClassVar[str] = LOCAL_SERVERS["vllm"]
    url_variable: ClassVar[str] = "VLLM_BASE_URL"
    key_variable: ClassVar[str] = "VLLM_API_KEY"
    parameters: ClassVar[Mapping[str, Wire]] = OpenAILLM.parameters
    text_modes: ClassVar[tuple[str, ...]] = VLLM_TEXT_MODES
    not_in_digest: ClassVar[frozenset[str]] = CompatibleLLM.not_in_digest | {
        "tokenizer",
        "tokenizer_revision",
    }

    tokenizer: str | None = None
    tokenizer_revision: str | None = None
    use_magpie_template: bool = False
    magpie_pre_query_template: str | None = None

    @property
    def pre_query_template(self) -> str:
        """What Magpie's requests are written with."""
        return self.magpie_pre_query_template or ""

    @property
    def is_own(self) -> bool:
        """Never: there is no server that all users of vLLM share."""
        return False

    def start_hint(self) -> str:
        """Return the command that starts it."""
        return f"Start it: vllm serve {self.model}"

"""Azure OpenAI: OpenAI's protocol, with a path for each deployment and the key in a header of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import quote

from distilnb.errors import SpecError
from distilnb.llms.chat import OPENAI_JSON_MODES, OPENAI_TEXT_MODES
from distilnb.llms.compatible import CompatibleLLM
from distilnb.llms.failures import UNKNOWN_MODEL, Sign, on
from distilnb.llms.openai import REASONING_MODEL, limited_by_completion
from distilnb.llms.parameters import Wire

DEFAULT_API_VERSION = "2024-10-21"


class AzureOpenAILLM(CompatibleLLM):
    """A model that is deployed in a resource of Azure OpenAI.

    `base_url` is the resource (https://NAME.openai.azure.com), else AZURE_OPENAI_ENDPOINT names it.
    `deployment` is the name under which the model is deployed, else that of the model. `api_version` is the
    environment's OPENAI_API_VERSION where it is not given. AZURE_OPENAI_API_KEY goes to the resource that
    AZURE_OPENAI_ENDPOINT names and to no other; else pass `api_key`.

    >>> AzureOpenAILLM(model="gpt-4o", base_url="https://mine.openai.azure.com", deployment="four").endpoint
    'https://mine.openai.azure.com/openai/deployments/four'
    """

    provider: ClassVar[str] = "azure"
    title: ClassVar[str] = "Azure OpenAI"
    url_variable: ClassVar[str] = "AZURE_OPENAI_ENDPOINT"
    key_variable: ClassVar[str] = "AZURE_OPENAI_API_KEY"
    json_modes: ClassVar[tuple[str, ...]] = OPENAI_JSON_MODES
    text_modes: ClassVar[tuple[str, ...]] = OPENAI_TEXT_MODES
    failures: ClassVar[tuple[Sign, ...]] = (Sign(UNKNOWN_MODEL, on(404), code="DeploymentNotFound"),)

    api_version: str | None = None
    deployment: str | None = None

    @property
    def endpoint(self) -> str:
        """The address of the deployment; "" where neither the model nor the environment names a resource."""
        server = self.server
        if not server:
            return ""
        return f"{server.removesuffix('/openai')}/openai/deployments/{quote(self.deployment or self.model)}"

    @property
    def needs_key(self) -> bool:
        """Always: every resource is somebody's."""
        return True

    def check(self) -> None:
        """Raise SpecError where no resource is named, and what every model may raise."""
        if not self.server:
            raise SpecError(
                "AzureOpenAILLM has no address.",
                "Set AZURE_OPENAI_ENDPOINT or base_url= to https://NAME.openai.azure.com.",
            )
        super().check()

    def key_headers(self, key: str) -> dict[str, str]:
        """Return the header that carries the key."""
        return {"api-key": key} if key else {}

    @property
    def shows_schema(self) -> bool:
        """As OpenAI's own does."""
        return True

    def query(self) -> dict[str, str]:
        """Return the version of the API that is spoken."""
        named = os.environ.get("OPENAI_API_VERSION", "").strip()
        return {"api-version": self.api_version or named or DEFAULT_API_VERSION}

    def wires(self) -> Mapping[str, Wire]:
        """Return how the parameters are called: the token limit in another way where the model reasons."""
        return (
            limited_by_completion(self.parameters) if REASONING_MODEL.match(self.model) else self.parameters
        )

    def model_hint(self) -> str:
        """Return what to do where there is no such deployment."""
        return "Correct deployment= (the name that the resource gives the model), or api_version=."

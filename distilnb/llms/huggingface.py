"""Hugging Face: Inference Providers by the model's id, Inference Endpoints by their name, servers of TGI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from distilnb.llms.compatible import OPENAI_PARAMETERS, CompatibleLLM
from distilnb.llms.failures import FAILED, TOO_LONG, Sign, on
from distilnb.llms.parameters import Wire, as_list
from distilnb.llms.request import Answer, Client, Request

_ENDPOINTS_MODEL = "tgi"  # what an endpoint calls its one model


class InferenceEndpointsLLM(CompatibleLLM):
    """A chat model at Hugging Face (HF_TOKEN).

    One of three says where it is: `model_id` is asked of Inference Providers; `endpoint_name` (with
    `endpoint_namespace`) is an Inference Endpoint of one's own, whose address is looked up; `base_url` is any
    server that runs text-generation-inference. `model_display_name` is its name in tables. `tokenizer_id` is
    taken from pipelines of 1.x, which wrote the chat's template out themselves; the server does that.

    >>> InferenceEndpointsLLM(model_id="meta-llama/Llama-3.3-70B-Instruct").label
    'huggingface:meta-llama/Llama-3.3-70B-Instruct'
    """

    provider: ClassVar[str] = "huggingface"
    title: ClassVar[str] = "Hugging Face"
    url: ClassVar[str] = "https://router.huggingface.co/v1"
    url_variable: ClassVar[str] = "HF_INFERENCE_ENDPOINTS_BASE_URL"
    key_variable: ClassVar[str] = "HF_TOKEN"
    max_n: ClassVar[int | None] = 1
    parameters: ClassVar[Mapping[str, Wire]] = {**OPENAI_PARAMETERS, "stop": Wire("stop", as_list)}
    failures: ClassVar[tuple[Sign, ...]] = (
        Sign(TOO_LONG, on(400, 413, 422), words=r"must have less than \d+ tokens|must be <= \d+"),
        Sign(FAILED, on(424)),
    )
    not_in_digest: ClassVar[frozenset[str]] = CompatibleLLM.not_in_digest | {
        "model_display_name",
        "tokenizer_id",
    }

    model: str = _ENDPOINTS_MODEL
    endpoint_name: str | None = None
    endpoint_namespace: str | None = None
    model_display_name: str | None = None
    tokenizer_id: str | None = None

    def __init__(self, **values: Any) -> None:
        model = values.pop("model_id", None)
        if model is not None:
            values["model"] = model
        if isinstance(values.get("generation_kwargs"), Mapping):
            values["generation_kwargs"] = without_what_chats_imply(values["generation_kwargs"])
        super().__init__(**values)

    @property
    def model_id(self) -> str:
        """The model's id on the Hub, as 1.x calls it."""
        return self.model

    @property
    def label(self) -> str:
        """The short name in tables."""
        name = self.endpoint_name if self.model == _ENDPOINTS_MODEL else self.model
        return self.model_display_name or f"{self.provider}:{name or self.model}"

    def identity(self) -> dict[str, Any]:
        """Return what the replies depend on: an endpoint by its name, which it keeps when it is made anew."""
        identity = super().identity()
        if self.endpoint_name and "endpoint" in identity:
            identity["endpoint"] = f"{self.endpoint_namespace or ''}/{self.endpoint_name}"
        return identity

    def make_client(self) -> Client:
        """Return a client; that of an endpoint looks its address up before the first request."""
        if self.endpoint_name and not self.base_url:
            return _EndpointClient(self)
        return super().make_client()


def without_what_chats_imply(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters of 1.x without those that say what a chat does anyway."""
    implied = {"do_sample": True, "return_full_text": False, "watermark": False}
    return {name: value for name, value in given.items() if value is not implied.get(name, ...)}


class _EndpointClient:
    """Asks an endpoint whose address is known by its name only."""

    def __init__(self, llm: InferenceEndpointsLLM) -> None:
        self._llm = llm
        self._client: Client | None = None
        self._looked_up: Any = None

    async def send(self, request: Request) -> Answer:
        import asyncio

        if self._client is None:
            if self._looked_up is None:  # once, however many requests wait for it
                self._looked_up = asyncio.ensure_future(asyncio.to_thread(address_of, self._llm))
            url = await asyncio.shield(self._looked_up)
            if self._client is None:
                # The token may go there: it is an endpoint of one's own, as the Hub says.
                found = self._llm.updated(base_url=url, api_key=self._llm.key() or None)
                self._client = found.make_client()
        return await self._client.send(request)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None


def address_of(llm: InferenceEndpointsLLM) -> str:
    """Ask the Hub for the address of an endpoint."""
    from huggingface_hub import HfApi

    found = HfApi(token=llm.key() or False).get_inference_endpoint(
        str(llm.endpoint_name), namespace=llm.endpoint_namespace
    )
    return f"{str(found.url).rstrip('/')}/v1"

"""Hugging Face: Inference Providers by the model's id, Inference Endpoints by their name, servers of TGI."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from distilnb.errors import MalformedReplyError, ModelError, SpecError, UnknownModelError, UnreachableError
from distilnb.llms.compatible import OPENAI_PARAMETERS, CompatibleLLM
from distilnb.llms.failures import FAILED, TOO_LONG, Sign, Target, error_of, on, quote, timed_out, unreachable
from distilnb.llms.parameters import Wire, as_list
from distilnb.llms.request import Answer, Client, Request

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
_HUB_HOST = "api.endpoints.huggingface.cloud"  # tells the addresses of endpoints
_SOON_UP = ("pending", "initializing", "updating")
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
    use_magpie_template: bool = False
    magpie_pre_query_template: str | None = None

    @property
    def pre_query_template(self) -> str:
        """What Magpie's requests are written with."""
        return self.magpie_pre_query_template or ""

    def __init__(self, **values: Any) -> None:
        model = values.pop("model_id", None)
        if model is not None:
            values["model"] = model
        if isinstance(values.get("generation_kwargs"), Mapping):
            values["generation_kwargs"] = without_what_chats_imply(values["generation_kwargs"])
        super().__init__(**values)
        if self.endpoint_name and self.base_urls:
            raise SpecError(
                f"{type(self).__name__} has both endpoint_name= and base_urls=: an endpoint has one address, which is "
                "looked up.",
                "Give the addresses of several endpoints as base_urls= alone.",
            )

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
        self._looked_up: asyncio.Future[str] | None = None

    async def send(self, request: Request) -> Answer:
        if self._client is None:
            url = await self._address()
            if self._client is None:
                # The token may go there: it is an endpoint of one's own, as the Hub says.
                found = self._llm.updated(base_url=url, api_key=self._llm.key() or None)
                self._client = found.make_client()
        return await self._client.send(request)

    async def _address(self) -> str:
        """Return the address, which is looked up once however many requests wait; a failure is not kept."""
        import asyncio

        looked_up = self._looked_up
        if looked_up is None:
            looked_up = self._looked_up = _in_a_thread(lambda: address_of(self._llm))
        try:
            return await asyncio.wait_for(asyncio.shield(looked_up), self._llm.timeout)
        except asyncio.TimeoutError:
            self._forget(looked_up)
            raise timed_out(_hub(self._llm), self._llm.timeout) from None
        except Exception:  # not CancelledError: that ends one request, not the look-up
            self._forget(looked_up)
            raise

    def _forget(self, looked_up: asyncio.Future[str]) -> None:
        if self._looked_up is looked_up:  # else another request looks already
            self._looked_up = None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None


def _in_a_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Return what a function will have returned; unlike the loop's own threads, one that hangs holds nobody up."""
    import asyncio

    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    done.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody may be there to ask

    def settle(value: T | None, error: Exception | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(value)  # type: ignore[arg-type]  # T may itself be None

    def run() -> None:
        value, error = None, None
        try:
            value = work()
        except Exception as raised:  # noqa: BLE001 - it is the future's
            error = raised
        try:
            loop.call_soon_threadsafe(settle, value, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    threading.Thread(target=run, name="distilnb-endpoint", daemon=True).start()
    return done


def address_of(llm: InferenceEndpointsLLM) -> str:
    """Ask the Hub for the address of an endpoint.

    Raises AuthenticationError, UnknownModelError and what else a server's answer may mean, also UnknownModelError for
    an endpoint that is paused or failed; UnreachableError without an answer, or for an endpoint that is not up yet.
    """
    from huggingface_hub import HfApi

    try:
        found = HfApi(token=llm.key() or False).get_inference_endpoint(
            str(llm.endpoint_name), namespace=llm.endpoint_namespace
        )
    except Exception as error:  # noqa: BLE001 - each version has another HTTP client, and so other errors
        # `from None`: they carry the request, and with it the token.
        raise _meaning_of(error, llm) from None
    if not found.url:
        kind = UnreachableError if found.status in _SOON_UP else UnknownModelError
        raise kind(
            f"The endpoint {llm.endpoint_name!r} has no address: it is {str(found.status)!r}.",
            "Resume it at Hugging Face, and wait until it is running.",
            provider=llm.provider,
        )
    return f"{str(found.url).rstrip('/')}/v1"


def _meaning_of(error: Exception, llm: InferenceEndpointsLLM) -> ModelError:
    """Return what an error of the Hub's client means."""
    hub = _hub(llm)
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if response is not None and isinstance(status, int):
        headers = {str(name).lower(): str(value) for name, value in dict(response.headers).items()}
        return error_of(status, headers, response.content, hub)
    # An answer that is none or lacks something, or no namespace.
    if isinstance(error, (ValueError, LookupError, TypeError)) and not isinstance(error, OSError):
        return MalformedReplyError(
            f"{hub} did not tell the endpoint's address ({type(error).__name__}): {quote(str(error), hub)}",
            "Set endpoint_namespace=; a proxy may also stand between.",
            provider=llm.provider,
        )
    return unreachable(hub, error)


def _hub(llm: InferenceEndpointsLLM) -> Target:
    """Return who is asked for an address, as errors tell it."""
    key = llm.key()
    return Target(
        llm.provider,
        str(llm.endpoint_name),
        _HUB_HOST,
        key_hint=f"Check {llm.key_variable}: it must be allowed to read endpoints.",
        model_hint="Correct endpoint_name= and endpoint_namespace=.",
        secrets=(key,) if key else (),
    )

"""The providers under test, a line each; and the behaviours, which the tests name."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, TypeVar

import pytest

from distilnb.llms.base import GENERATION_PARAMETERS, LLM
from distilnb.llms.calling import Caller
from distilnb.llms.local import LocalLLM
from distilnb.llms.request import Answer, Request
from distilnb.spec.registry import load_kind
from tests.llms.engines.real import KEY, REAL_ENGINES, RealEngine, Served
from tests.llms.scripted import ask
from tests.servers import MockLLM

CANARY = KEY
MODEL = "mock-model"
T = TypeVar("T")


@dataclass(frozen=True)
class Provider:
    """A class of models, and where the mock server speaks its protocol."""

    kind: str
    path: str  # on the mock server, in place of the host of the provider
    fields: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""  # the mark of tests that `make test` leaves out

    def as_parameter(self) -> Any:
        """Return it as pytest takes it: with its name and its mark."""
        marks = [getattr(pytest.mark, self.part)] if self.part else []
        return pytest.param(self, id=self.kind, marks=marks)

    @property
    def cls(self) -> type[LLM]:
        return load_kind(self.kind)  # type: ignore[return-value]

    def model(self, server: Server, **fields: Any) -> LLM:
        """Return a model that is asked on the mock server."""
        own = {"model": MODEL, "api_key": CANARY, "base_url": self.url(server)}
        return self.cls(**{**own, **self.fields, **fields})

    def url(self, server: Server) -> str:
        assert isinstance(server, MockLLM)
        return server.base_url.removesuffix("/v1") + self.path


PROVIDERS = (
    Provider("AnthropicLLM", "/anthropic"),
    Provider("AnyscaleLLM", "/anyscale/v1"),
    Provider("AzureOpenAILLM", "/azure"),
    Provider("ClientvLLM", "/vllm/v1"),
    Provider("CohereLLM", "/cohere"),
    Provider("GroqLLM", "/groq/openai/v1"),
    Provider("InferenceEndpointsLLM", "/huggingface/v1"),
    Provider("LiteLLM", "/v1", {"model": "openai/mock-model"}, part="litellm"),
    Provider("MistralLLM", "/mistral/v1"),
    Provider("OllamaLLM", "/ollama"),
    Provider("OpenAILLM", "/v1"),
    Provider("TogetherLLM", "/together/v1"),
    Provider("VertexAILLM", "/gemini"),
)


Subject: TypeAlias = Provider | RealEngine
Server: TypeAlias = MockLLM | Served  # where a subject is asked: a mock server for a provider

# Why a behaviour is not asked of a real engine.
FAULT = "It takes a server that fails on purpose, which a real one cannot be made to."
NO_FILTER = "It filters nothing."
NO_KEY = "A model in process needs no key."
NO_ADDRESS = "A model in process has no address."
OWN_FILE = "A model in process is a file of this machine, and looked for by the check."
ONE_MODEL = "It has one model, and answers with it under any name."
BLIND = "The tiny model sees no images."
UNBOUNDED = "The tiny model ends no object that nothing bounds."
NO_PATTERN = (
    "It cannot be held to a pattern: a reply that does not match is refused, which a test of its own shows."
)
ALL_FORMS = "It refuses no form of a schema."
REASONS = (
    *(FAULT, NO_FILTER, NO_KEY, NO_ADDRESS, OWN_FILE, ONE_MODEL, BLIND, UNBOUNDED, NO_PATTERN),
    ALL_FORMS,
)


class Behaviour(NamedTuple):
    """What one test shows of every subject; where a provider lacks what it `needs`, that it says so."""

    title: str
    needs: str
    suite: str  # the module of its test
    images: str = ""  # the way in which it takes images, where that is what is shown
    test: str = ""  # the name of the function
    unreal: Mapping[str, str] = {}

    def not_of(self, engine: RealEngine) -> str:
        """Return why it is not asked of a real engine; "" where it is."""
        return next(
            (self.unreal[word] for word in (engine.name, engine.family, "") if word in self.unreal), ""
        )


BEHAVIOURS: dict[str, Behaviour] = {}  # by title, in the order of their modules' import

# What these protocols have no word for.
UNTOLD = {"CohereLLM": "error", "OllamaLLM": "stop"}  # a reply that the filter cut


def behaviour(
    title: str, *, needs: str = "", images: str = "", unreal: str | Mapping[str, str] = ""
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test for every provider and every real engine, as a row of the tables in docs/llms.md.

    `needs` names a generation parameter: where the provider lacks it, the model is refused by name instead. `unreal`
    tells why it is not asked of real engines: of none of them, or of those that are named, or of a whole family.
    """

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        suite = test.__module__.rpartition(".")[2]
        reasons = unreal if isinstance(unreal, Mapping) else {"": unreal} if unreal else {}
        assert set(reasons.values()) <= set(REASONS)
        found = BEHAVIOURS[title] = Behaviour(title, needs, suite, images, test.__name__, reasons)
        real = [engine for engine in REAL_ENGINES if not found.not_of(engine)]
        subjects = [subject.as_parameter() for subject in (*PROVIDERS, *real)]
        return pytest.mark.parametrize("provider", subjects)(test)

    return decorate


def parameters_of(model: LLM) -> set[str]:
    """Return the names of the generation parameters that a model takes."""
    if isinstance(model, LocalLLM):
        return set(GENERATION_PARAMETERS | model.own_parameters) - model.refused
    return set(model.parameters)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that must end: no provider may keep a test for ever."""
    return asyncio.run(asyncio.wait_for(main, 60))


def send(model: LLM, request: Request | str) -> Answer:
    """Send one request once, by the model's own client."""

    async def main() -> Answer:
        client = model.make_client()
        try:
            return await client.send(ask(request) if isinstance(request, str) else request)
        finally:
            await client.close()

    return run(main())


def call(model: LLM, *requests: Request) -> list[Answer]:
    """Ask all at once, as a run does: within the model's limits, again where that may help."""

    async def main() -> list[Answer]:
        caller = Caller.of(model)

        async def one(request: Request) -> Answer:
            async with caller.asking(request) as answer:
                return answer

        try:
            return await asyncio.gather(*map(one, requests))
        finally:
            await caller.close()

    return run(main())


def text_of(answer: Answer) -> str:
    """Return the text of the one reply of an answer."""
    (reply,) = answer.replies
    assert reply.text is not None
    return reply.text


def at(body: Any, path: str) -> Any:
    """Return what stands at a dotted path in a request's body."""
    for name in path.split("."):
        body = body[name]
    return body


def set_environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """Set variables, and unset all others that hold keys or addresses of providers."""
    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_BASE_URL", "_ENDPOINT", "_TOKEN", "_HOST")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

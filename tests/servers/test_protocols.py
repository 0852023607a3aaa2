"""Each protocol of the mock server, proved with the provider's own SDK: its good replies, and its errors."""

from __future__ import annotations

import base64
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pytest

from tests.servers import MockLLM, mock_llm

MODEL = "mock-model"
KEY = "any-key-0123456789"
MESSAGES: Any = [{"role": "user", "content": "hello"}]


class Said(NamedTuple):
    """What an SDK understood of a reply."""

    text: str | None
    finish: str
    input_tokens: int
    output_tokens: int


Ask = Callable[[str, str], Said]  # the server's address, the prompt


class Sdk(NamedTuple):
    """A provider's SDK: how it asks, and which error it raises for which mark, with which status."""

    package: str
    ask: Callable[..., Said]
    finish: Mapping[str, str]
    errors: Mapping[str, tuple[str, int]]


def user(prompt: str) -> Any:
    return [{"role": "user", "content": prompt}]


def of_openai(reply: Any) -> Said:
    choice = reply.choices[0]
    usage = reply.usage
    return Said(choice.message.content, choice.finish_reason, usage.prompt_tokens, usage.completion_tokens)


def ask_openai(path: str, root: str, prompt: str) -> Said:
    import openai

    with openai.OpenAI(base_url=root + path, api_key=KEY, max_retries=0) as client:
        return of_openai(client.chat.completions.create(model=MODEL, messages=user(prompt)))


def ask_azure(root: str, prompt: str) -> Said:
    import openai

    with openai.AzureOpenAI(
        azure_endpoint=f"{root}/azure", api_key=KEY, api_version="2024-10-21", max_retries=0
    ) as client:
        return of_openai(client.chat.completions.create(model=MODEL, messages=user(prompt)))


def ask_groq(root: str, prompt: str) -> Said:
    import groq

    with groq.Groq(base_url=f"{root}/groq", api_key=KEY, max_retries=0) as client:
        return of_openai(client.chat.completions.create(model=MODEL, messages=user(prompt)))


def ask_together(root: str, prompt: str) -> Said:
    import together

    with together.Together(base_url=f"{root}/together", api_key=KEY, max_retries=0) as client:
        return of_openai(client.chat.completions.create(model=MODEL, messages=user(prompt)))


def ask_mistral(root: str, prompt: str) -> Said:
    from mistralai.client import Mistral

    with Mistral(api_key=KEY, server_url=f"{root}/mistral") as client:
        return of_openai(client.chat.complete(model=MODEL, messages=user(prompt)))


def ask_huggingface(root: str, prompt: str) -> Said:
    from huggingface_hub import InferenceClient

    with InferenceClient(base_url=f"{root}/huggingface", token=KEY) as client:
        return of_openai(client.chat.completions.create(model=MODEL, messages=user(prompt)))


def ask_anthropic(root: str, prompt: str) -> Said:
    import anthropic

    with anthropic.Anthropic(base_url=f"{root}/anthropic", api_key=KEY, max_retries=0) as client:
        reply = client.messages.create(model=MODEL, max_tokens=100, messages=user(prompt))
    text = "".join(block.text for block in reply.content if block.type == "text")
    return Said(text, reply.stop_reason or "", reply.usage.input_tokens, reply.usage.output_tokens)


def ask_cohere(root: str, prompt: str) -> Said:
    import cohere

    with cohere.ClientV2(api_key=KEY, base_url=f"{root}/cohere", max_retries=0) as client:
        reply = client.chat(model=MODEL, messages=user(prompt))
    text = "".join(part.text for part in reply.message.content or () if part.type == "text")
    assert reply.usage is not None
    assert reply.usage.billed_units is not None
    billed = reply.usage.billed_units
    return Said(text, reply.finish_reason, int(billed.input_tokens or 0), int(billed.output_tokens or 0))


def ask_gemini(root: str, prompt: str) -> Said:
    from google import genai

    client = genai.Client(api_key=KEY, http_options={"base_url": f"{root}/gemini"})
    try:
        reply = client.models.generate_content(model=MODEL, contents=prompt)
    finally:
        client.close()
    usage = reply.usage_metadata
    if not reply.candidates:
        raise RuntimeError(f"blocked: {reply.prompt_feedback.block_reason.value}")
    finish = reply.candidates[0].finish_reason.value
    return Said(reply.text, finish, usage.prompt_token_count, usage.candidates_token_count)


def ask_ollama(root: str, prompt: str) -> Said:
    import ollama

    with ollama.Client(host=f"{root}/ollama") as client:
        reply = client.chat(model=MODEL, messages=user(prompt))
    return Said(
        reply.message.content, reply.done_reason or "", reply.prompt_eval_count or 0, reply.eval_count or 0
    )


OPENAI_FINISH = {"": "stop", "length": "length", "filtered": "content_filter"}
OPENAI_ERRORS = {
    "400": ("BadRequestError", 400),
    "401": ("AuthenticationError", 401),
    "404": ("NotFoundError", 404),
    "429": ("RateLimitError", 429),
    "500": ("InternalServerError", 500),
    "busy": ("InternalServerError", 503),
    "context": ("BadRequestError", 400),
    "filter": ("BadRequestError", 400),
    "quota": ("RateLimitError", 429),
}

SDKS = {
    "openai": Sdk("openai", functools.partial(ask_openai, "/v1"), OPENAI_FINISH, OPENAI_ERRORS),
    "vllm": Sdk("openai", functools.partial(ask_openai, "/vllm/v1"), OPENAI_FINISH, OPENAI_ERRORS),
    "anyscale": Sdk("openai", functools.partial(ask_openai, "/anyscale/v1"), OPENAI_FINISH, OPENAI_ERRORS),
    "azure": Sdk("openai", ask_azure, OPENAI_FINISH, OPENAI_ERRORS),
    "groq": Sdk("groq", ask_groq, OPENAI_FINISH, {**OPENAI_ERRORS, "quota": ("BadRequestError", 400)}),
    "together": Sdk(
        "together",
        ask_together,
        OPENAI_FINISH,
        {**OPENAI_ERRORS, "quota": ("APIStatusError", 402), "context": ("UnprocessableEntityError", 422)},
    ),
    "mistral": Sdk(
        "mistralai.client.errors",
        ask_mistral,
        OPENAI_FINISH,
        {
            "400": ("HTTPValidationError", 422),
            "401": ("SDKError", 401),
            "404": ("SDKError", 400),
            "429": ("SDKError", 429),
            "500": ("SDKError", 500),
            "context": ("SDKError", 400),
            "quota": ("SDKError", 402),
        },
    ),
    "huggingface": Sdk(
        "huggingface_hub.errors",
        ask_huggingface,
        OPENAI_FINISH,
        {
            "400": ("BadRequestError", 400),
            "401": ("HfHubHTTPError", 401),
            "404": ("BadRequestError", 400),
            "429": ("HfHubHTTPError", 429),
            "500": ("HfHubHTTPError", 500),
            "context": ("HfHubHTTPError", 422),
            "quota": ("HfHubHTTPError", 402),
        },
    ),
    "anthropic": Sdk(
        "anthropic",
        ask_anthropic,
        {"": "end_turn", "length": "max_tokens", "filtered": "refusal"},
        {**OPENAI_ERRORS, "busy": ("OverloadedError", 529), "quota": ("BadRequestError", 400)},
    ),
    "cohere": Sdk(
        "cohere.errors",
        ask_cohere,
        {"": "COMPLETE", "length": "MAX_TOKENS"},
        {
            "400": ("UnprocessableEntityError", 422),
            "401": ("UnauthorizedError", 401),
            "404": ("NotFoundError", 404),
            "429": ("TooManyRequestsError", 429),
            "500": ("InternalServerError", 500),
            "busy": ("ServiceUnavailableError", 503),
            "context": ("BadRequestError", 400),
            "filter": ("InvalidTokenError", 498),
        },
    ),
    "gemini": Sdk(
        "google.genai.errors",
        ask_gemini,
        {"": "STOP", "length": "MAX_TOKENS", "filtered": "SAFETY"},
        {
            "400": ("ClientError", 400),
            "401": ("ClientError", 400),
            "404": ("ClientError", 404),
            "429": ("ClientError", 429),
            "500": ("ServerError", 500),
            "busy": ("ServerError", 503),
            "context": ("ClientError", 400),
            "quota": ("ClientError", 429),
        },
    ),
    "ollama": Sdk(
        "ollama",
        ask_ollama,
        {"": "stop", "length": "length"},
        {
            "400": ("ResponseError", 400),
            "401": ("ResponseError", 401),
            "404": ("ResponseError", 404),
            "429": ("ResponseError", 429),
            "500": ("ResponseError", 500),
            "busy": ("ResponseError", 503),
        },
    ),
}


@pytest.fixture(scope="module")
def running() -> Iterator[MockLLM]:
    with mock_llm(record=5) as server:
        yield server


@pytest.fixture
def server(running: MockLLM) -> MockLLM:
    running.reset()
    return running


def root_of(server: MockLLM) -> str:
    return server.base_url.removesuffix("/v1")


@pytest.mark.parametrize("name, mark", [(name, mark) for name, sdk in SDKS.items() for mark in sdk.finish])
def test_the_sdk_reads_text_reason_and_usage(server: MockLLM, name: str, mark: str) -> None:
    sdk = SDKS[name]
    said = sdk.ask(root_of(server), f"hello [[{mark}]]" if mark else "hello")
    assert said.finish == sdk.finish[mark]
    assert len((said.text or "").split()) == (16 if mark == "filtered" else 32) or mark == "filtered"
    stats = server.stats()
    assert (said.input_tokens, said.output_tokens) == (stats["prompt_tokens"], stats["completion_tokens"])


@pytest.mark.parametrize("name, mark", [(name, mark) for name, sdk in SDKS.items() for mark in sdk.errors])
def test_the_sdk_raises_its_own_error(server: MockLLM, name: str, mark: str) -> None:
    sdk = SDKS[name]
    kind, status = sdk.errors[mark]
    with pytest.raises(Exception, match=r"(?s).") as caught:
        sdk.ask(root_of(server), f"hello [[{mark}x9]]")
    error: Any = caught.value
    response = getattr(error, "response", None)
    statuses = [getattr(holder, "status_code", None) for holder in (error, response)]
    assert status in [*statuses, getattr(error, "code", None)]
    assert kind in [parent.__name__ for parent in type(error).__mro__]
    module = importlib.import_module(sdk.package)
    assert isinstance(error, getattr(module, kind, type(error)))
    assert KEY not in str(error)


def test_a_prompt_that_gemini_blocks_has_a_good_status_and_no_candidate(server: MockLLM) -> None:
    with pytest.raises(RuntimeError, match="blocked: PROHIBITED_CONTENT"):
        ask_gemini(root_of(server), "hello [[filter]]")


PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def show_openai(path: str, root: str, data: bytes) -> None:
    import openai

    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    parts: Any = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
    with openai.OpenAI(base_url=root + path, api_key=KEY, max_retries=0) as client:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": parts}])


def show_mistral(root: str, data: bytes) -> None:
    from mistralai.client import Mistral

    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    parts: Any = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": url}]
    with Mistral(api_key=KEY, server_url=f"{root}/mistral") as client:
        client.chat.complete(model=MODEL, messages=[{"role": "user", "content": parts}])


def show_anthropic(root: str, data: bytes) -> None:
    import anthropic

    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(data).decode()}
    parts: Any = [{"type": "image", "source": source}, {"type": "text", "text": "What?"}]
    with anthropic.Anthropic(base_url=f"{root}/anthropic", api_key=KEY, max_retries=0) as client:
        client.messages.create(model=MODEL, max_tokens=9, messages=[{"role": "user", "content": parts}])


def show_cohere(root: str, data: bytes) -> None:
    import cohere

    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    parts: Any = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
    with cohere.ClientV2(api_key=KEY, base_url=f"{root}/cohere", max_retries=0) as client:
        client.chat(model=MODEL, messages=[{"role": "user", "content": parts}])


def show_gemini(root: str, data: bytes) -> None:
    from google import genai
    from google.genai import types

    client = genai.Client(api_key=KEY, http_options={"base_url": f"{root}/gemini"})
    try:
        picture = types.Part.from_bytes(data=data, mime_type="image/png")
        client.models.generate_content(model=MODEL, contents=["What?", picture])
    finally:
        client.close()


def show_ollama(root: str, data: bytes) -> None:
    import ollama

    with ollama.Client(host=f"{root}/ollama") as client:
        client.chat(model=MODEL, messages=[{"role": "user", "content": "What?", "images": [data]}])


SHOWS: dict[str, Callable[[str, bytes], None]] = {
    "openai": functools.partial(show_openai, "/v1"),
    "vllm": functools.partial(show_openai, "/vllm/v1"),
    "together": functools.partial(show_openai, "/together/v1"),
    "huggingface": functools.partial(show_openai, "/huggingface/v1"),
    "mistral": show_mistral,
    "anthropic": show_anthropic,
    "cohere": show_cohere,
    "gemini": show_gemini,
    "ollama": show_ollama,
}


@pytest.mark.parametrize("name", SHOWS)
def test_an_image_as_the_sdk_sends_it_is_taken_and_what_is_none_is_refused(
    server: MockLLM, name: str
) -> None:
    SHOWS[name](root_of(server), PNG)
    assert server.stats()["ok"] == 1
    with pytest.raises(Exception, match=r"(?s)."):
        SHOWS[name](root_of(server), b"not a picture at all")
    assert server.stats()["ok"] == 1


def test_openais_sdk_reads_an_image(server: MockLLM) -> None:
    import openai

    with openai.OpenAI(base_url=server.base_url, api_key=KEY, max_retries=0) as client:
        drawn = client.images.generate(model="gpt-image-1", prompt="A kite.", size="1024x1024")
        assert base64.b64decode((drawn.data or [])[0].b64_json or "").startswith(b"\x89PNG")
        assert drawn.usage is not None
        assert drawn.usage.output_tokens == 100
        address = client.images.generate(model="dall-e-3", prompt="A kite.")
        assert (address.data or [])[0].url
        with pytest.raises(openai.BadRequestError):
            client.images.generate(model="gpt-image-1", prompt="A kite.", response_format="b64_json")


def test_hugging_faces_sdk_reads_an_image(server: MockLLM) -> None:
    from huggingface_hub import InferenceClient

    client = InferenceClient(model=f"{root_of(server)}/huggingface/models/owner/name", token=KEY)
    assert client.text_to_image("A kite.", width=64).size == (8, 8)


@pytest.mark.parametrize("name", ["anthropic", "cohere", "gemini", "groq", "mistral", "together"])
def test_a_field_that_the_reference_does_not_list_is_refused(server: MockLLM, name: str) -> None:
    paths = {
        "anthropic": "/anthropic/v1/messages",
        "cohere": "/cohere/v2/chat",
        "gemini": "/gemini/v1beta/models/m:generateContent",
        "groq": "/groq/openai/v1/chat/completions",
        "mistral": "/mistral/v1/chat/completions",
        "together": "/together/v1/chat/completions",
    }
    from urllib.error import HTTPError
    from urllib.request import ProxyHandler, Request, build_opener

    body = b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "wibble": 1}'
    request = Request(root_of(server) + paths[name], data=body)
    with pytest.raises(HTTPError) as caught:
        build_opener(ProxyHandler({})).open(request)
    with caught.value as refused:
        assert refused.code in (400, 422)
        assert b"wibble" in refused.read() or name == "gemini"

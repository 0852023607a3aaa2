"""What single providers do in their own way: addresses, keys, names."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from distilnb.errors import MissingKeyError, SpecError, UnsupportedParameterError
from distilnb.llms import huggingface
from distilnb.llms.azure import AzureOpenAILLM
from distilnb.llms.cohere import CohereLLM
from distilnb.llms.groq import GroqLLM
from distilnb.llms.huggingface import InferenceEndpointsLLM
from distilnb.llms.mistral import MistralLLM
from distilnb.llms.ollama import OllamaLLM
from distilnb.llms.together import TogetherLLM
from distilnb.llms.vertexai import VertexAILLM
from distilnb.llms.vllm import ClientvLLM
from tests.llms.conformance.providers import set_environment
from tests.llms.scripted import ask
from tests.servers import MockLLM

CANARY = "sk-canary-0123456789abcdef"


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch)
    for name in ("GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION", "OPENAI_API_VERSION"):
        monkeypatch.delenv(name, raising=False)


# azure -----------------------------------------------------------------------------------------------------


def test_azure_needs_a_resource_and_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    model = AzureOpenAILLM(model="gpt-4o")
    with pytest.raises(SpecError, match="has no address"):
        model.check()
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", CANARY)
    elsewhere = model.updated(base_url="https://theirs.openai.azure.com")
    with pytest.raises(
        MissingKeyError, match="AZURE_OPENAI_API_KEY goes to the server that AZURE_OPENAI_END"
    ):
        elsewhere.check()
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://mine.openai.azure.com/")
    model.check()
    assert model.key() == CANARY
    assert elsewhere.key() == ""


def test_a_deployment_and_a_version_stand_in_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    model = AzureOpenAILLM(model="gpt-4o", base_url="https://a.example/openai", deployment="my four")
    assert model.endpoint == "https://a.example/openai/deployments/my%20four"
    assert model.query() == {"api-version": "2024-10-21"}
    monkeypatch.setenv("OPENAI_API_VERSION", "2025-01-01")
    assert model.query() == {"api-version": "2025-01-01"}
    assert model.updated(api_version="2023-05-15").query() == {"api-version": "2023-05-15"}


@pytest.mark.parametrize("transport", ["aiohttp", "sdk"])
def test_azure_is_asked_both_ways(server: MockLLM, transport: str) -> None:
    root = server.base_url.removesuffix("/v1")
    model = AzureOpenAILLM(model="m", base_url=f"{root}/azure", api_key=CANARY, transport=transport)
    assert len(str(model.ask("hello")).split()) == 32


# hugging face ----------------------------------------------------------------------------------------------


def test_an_inference_model_has_the_names_of_1_x() -> None:
    model = InferenceEndpointsLLM(
        model_id="org/model",
        tokenizer_id="org/model",
        generation_kwargs={"max_new_tokens": 5, "do_sample": True, "return_full_text": False},
    )
    assert (model.model, model.model_id, model.endpoint) == (
        "org/model",
        "org/model",
        "https://router.huggingface.co/v1",
    )
    assert model.generation_kwargs == {"max_new_tokens": 5}
    assert (
        model.digest == InferenceEndpointsLLM(model="org/model", generation_kwargs={"max_tokens": 5}).digest
    )
    assert model.updated(model_display_name="mine").label == "mine"


def test_an_endpoint_is_looked_up_once_by_its_name(server: MockLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def look_up(llm: InferenceEndpointsLLM) -> str:
        asked.append(llm.endpoint_name)
        return server.base_url.removesuffix("/v1") + "/huggingface/v1"

    monkeypatch.setattr(huggingface, "address_of", look_up)
    monkeypatch.setenv("HF_TOKEN", CANARY)
    model = InferenceEndpointsLLM(endpoint_name="ours", endpoint_namespace="argilla")
    model.check()
    assert model.label == "huggingface:ours"
    assert model.identity()["endpoint"] == "argilla/ours"

    async def main() -> list[Any]:
        client = model.make_client()
        answers = await asyncio.gather(*[client.send(ask(f"hello {i}")) for i in range(3)])
        await client.close()
        return answers

    assert all(answer.replies[0].text for answer in asyncio.run(main()))
    assert asked == ["ours"]


# google ----------------------------------------------------------------------------------------------------


def test_gemini_is_asked_by_a_key_and_vertex_by_a_project(monkeypatch: pytest.MonkeyPatch) -> None:
    model = VertexAILLM(model="gemini-2.5-flash")
    with pytest.raises(MissingKeyError, match="GEMINI_API_KEY"):
        model.check()
    monkeypatch.setenv("GOOGLE_API_KEY", CANARY)
    model.check()
    assert (model.key(), model.endpoint) == (CANARY, "https://generativelanguage.googleapis.com")
    vertex = model.updated(project="p", location="europe-west4")
    vertex.check()
    assert (vertex.key(), vertex.endpoint) == ("", "https://europe-west4-aiplatform.googleapis.com")
    assert vertex.updated(location=None).endpoint == "https://aiplatform.googleapis.com"
    assert vertex.identity() == vertex.updated(location=None).identity() != model.identity()
    monkeypatch.delenv("GOOGLE_API_KEY")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "from-environment")
    model.check()
    assert model.is_vertex


def test_the_credentials_of_this_machine_go_to_google_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "from-environment")
    model = VertexAILLM(model="m")
    for own in (None, "https://aiplatform.googleapis.com", "https://europe-west4-aiplatform.googleapis.com"):
        assert model.updated(base_url=own).is_vertex
    for other in (
        "https://evil.example",
        "http://aiplatform.googleapis.com",
        "https://evil-aiplatform.googleapis.com.example",
        "https://evil.example-aiplatform.googleapis.com",
    ):
        assert not model.updated(base_url=other).is_vertex
        with pytest.raises(MissingKeyError, match="project 'p' go to Google's own hosts only"):
            model.updated(base_url=other, project="p").check()
    gateway = "https://gateway.example"
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", gateway)
    assert model.updated(base_url=gateway, project="p").is_vertex


def test_the_sdk_finds_no_credentials_for_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "from-environment")
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    client: Any = VertexAILLM(model="m", base_url="https://evil.example").make_client()
    opened = client.open()
    assert not opened.vertexai
    assert client.key == "no-key"
    asyncio.run(client.close())


@pytest.mark.parametrize("place", ["evil.example/", "evil.example?", "a@evil.example#", "a b", "EU\n"])
def test_a_location_is_a_name_and_no_address(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match=r"location is .* which names no location"):
        VertexAILLM(model="m", project="p", location=place)
    monkeypatch.setenv("GOOGLE_CLOUD_LOCATION", place)
    with pytest.raises(SpecError, match="GOOGLE_CLOUD_LOCATION is"):
        _ = VertexAILLM(model="m", project="p").endpoint


# others ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "named, endpoint",
    [
        ("", "http://127.0.0.1:11434"),
        ("10.0.0.5", "http://10.0.0.5:11434"),
        ("10.0.0.5:8080", "http://10.0.0.5:8080"),
        ("https://ollama.example/", "https://ollama.example"),
    ],
)
def test_the_host_of_ollama_may_lack_scheme_and_port(
    named: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", named)
    assert OllamaLLM(model="m").endpoint == endpoint


def test_only_ollamas_cloud_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    OllamaLLM(model="m").check()
    with pytest.raises(MissingKeyError, match="OLLAMA_API_KEY"):
        OllamaLLM(model="m", host="https://ollama.com").check()


def test_what_ollamas_sdk_does_not_take_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedParameterError, match="no parameter 'wibble'"):
        OllamaLLM(model="m", generation_kwargs={"extra": {"wibble": 1}}).check()
    OllamaLLM(model="m", generation_kwargs={"extra": {"keep_alive": "5m"}, "options": {"num_ctx": 9}}).check()


def test_cohere_finds_its_key_under_both_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CO_API_KEY", CANARY)
    assert CohereLLM(model="m").key() == CANARY
    assert CohereLLM(model="m", base_url="https://other.example").key() == ""


def test_mistral_takes_the_endpoint_of_1_x() -> None:
    assert MistralLLM(model="m", endpoint="https://api.mistral.ai") == MistralLLM(
        model="m", base_url="https://api.mistral.ai/v1"
    )


def test_both_addresses_of_together_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOGETHER_API_KEY", CANARY)
    for base_url in (None, "https://api.together.xyz/v1", "https://api.together.ai/v1"):
        assert TogetherLLM(model="m", base_url=base_url).key() == CANARY


def test_a_server_of_vllm_needs_no_key_and_is_probed() -> None:
    model = ClientvLLM(model="m", tokenizer="org/m")
    model.check()
    assert not model.is_own
    assert model.start_hint() == "Start it: vllm serve m"
    assert model.digest == ClientvLLM(model="m").digest


def test_a_gateway_in_the_environment_gets_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", CANARY)
    monkeypatch.setenv("GROQ_BASE_URL", "https://gateway.example/groq")
    assert GroqLLM(model="m").key() == CANARY
    assert GroqLLM(model="m", base_url="https://gateway.example/other").key() == CANARY
    assert GroqLLM(model="m", base_url="https://evil.example").key() == ""

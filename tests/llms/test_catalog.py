from __future__ import annotations

import http.server
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from distilnb.errors import MissingKeyError, SpecError, UnknownKindError, UnknownParameterError
from distilnb.llms import catalog
from distilnb.llms.catalog import as_llm, found_models, llm
from distilnb.llms.groq import GroqLLM
from distilnb.llms.keys import forget_keys
from distilnb.llms.openai import LOCAL_SERVERS, OpenAILLM
from distilnb.llms.rehearsal import RehearsalLLM
from distilnb.spec.registry import load_kind
from tests.llms.test_keys import fake_colab
from tests.servers import MockLLM

CANARY = "sk-canary-0123456789abcdef"
NAMES = sorted(catalog.PROVIDERS)


@pytest.mark.parametrize(
    "name, model",
    [
        ("openai:gpt-4o-mini", OpenAILLM(model="gpt-4o-mini")),
        (" OpenAI : gpt-4o-mini ", OpenAILLM(model="gpt-4o-mini")),
        ("openai:ft:gpt-4o:org::x", OpenAILLM(model="ft:gpt-4o:org::x")),
        ("ollama:llama3.2:1b", OpenAILLM(model="llama3.2:1b", base_url="http://127.0.0.1:11434/v1")),
        ("vllm:org/model", OpenAILLM(model="org/model", base_url="http://127.0.0.1:8000/v1")),
        ("groq:llama-3.3-70b-versatile", GroqLLM(model="llama-3.3-70b-versatile")),
        ("rehearsal", RehearsalLLM()),
        ("rehearsal:judge", RehearsalLLM(model="judge")),
    ],
)
def test_a_name_is_a_model(name: str, model: object) -> None:
    assert llm(name) == model
    assert as_llm(name) == model


@pytest.mark.parametrize("provider, kind", [*catalog.PROVIDERS.items()])
def test_a_provider_is_called_as_its_module(provider: str, kind: str) -> None:
    assert provider in LOCAL_SERVERS or load_kind(kind).provider == provider


def test_keywords_go_where_they_belong() -> None:
    made = llm(
        "openai:m",
        base_url="http://127.0.0.1:9/v1",
        api_key=CANARY,
        max_concurrency=3,
        rpm=4,
        tpm=5,
        timeout=6,
        temperature=0.7,
        max_tokens=8,
        generation_kwargs={"seed": 1},
    )
    assert made == OpenAILLM(
        model="m",
        base_url="http://127.0.0.1:9/v1",
        max_concurrency=3,
        rpm=4,
        tpm=5,
        timeout=6.0,
        generation_kwargs={"seed": 1, "temperature": 0.7, "max_new_tokens": 8},
    )
    assert made.key() == CANARY
    assert CANARY not in repr(made)


def test_a_base_url_moves_a_local_server() -> None:
    assert llm("vllm:m", base_url="http://10.0.0.5:8000/v1").endpoint == "http://10.0.0.5:8000/v1"


def test_fields_of_the_class_come_before_generation_parameters() -> None:
    assert llm("rehearsal", seed=3) == RehearsalLLM(seed=3)
    assert llm("openai:m", seed=3).generation_kwargs == {"seed": 3}


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "opnai:gpt-4o",
            f"There is no provider 'opnai'; there are {NAMES}.\nDid you mean 'openai'?",
        ),
        (
            "fireworks:llama",
            (
                f"There is no provider 'fireworks'; there are {NAMES}.\nIf its server speaks OpenAI's protocol: "
                "llm('openai:llama', base_url='https://…')."
            ),
        ),
        (
            "gpt-4o-mini",
            (
                f"'gpt-4o-mini' names no provider; there are {NAMES}.\n"
                "Write 'provider:model', for instance 'openai:gpt-4o-mini'."
            ),
        ),
        ("rehersal", f"'rehersal' names no provider; there are {NAMES}.\nDid you mean 'rehearsal'?"),
        ("openai:", "'openai:' names a provider and no model.\nWrite 'openai:MODEL'."),
        ("ollama", "'ollama' names a provider and no model.\nWrite 'ollama:MODEL'."),
    ],
)
def test_a_wrong_name_says_what_there_is(name: str, message: str) -> None:
    with pytest.raises(UnknownKindError) as caught:
        llm(name)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "keyword, fix",
    [
        ("temprature", "Did you mean 'temperature'?"),
        ("max_concurency", "Did you mean 'max_concurrency'?"),
        ("num_generations", "The number of replies is the task's: num_generations=."),
    ],
)
def test_a_wrong_keyword_says_what_was_meant(keyword: str, fix: str) -> None:
    with pytest.raises(UnknownParameterError) as caught:
        llm("openai:m", **{keyword: 1})
    assert caught.value.fix == fix


def test_a_rehearsal_has_no_address() -> None:
    with pytest.raises(UnknownParameterError, match="RehearsalLLM has no field 'base_url'"):
        llm("rehearsal", base_url="http://127.0.0.1:9")


def test_a_model_may_be_given_as_itself_as_a_name_or_as_data() -> None:
    model = OpenAILLM(model="m", generation_kwargs={"seed": 1})
    assert as_llm(model) is model
    assert as_llm(model.dump()) == model


@pytest.mark.parametrize("wrong, kind", [(5, "int"), (None, "NoneType"), ({"model": "m"}, "dict")])
def test_anything_else_is_no_model(wrong: object, kind: str) -> None:
    with pytest.raises(UnknownKindError, match=f"A value of type '{kind}' stands where a model belongs"):
        as_llm(wrong)


def test_data_of_another_kind_is_no_model() -> None:
    with pytest.raises(SpecError):
        as_llm({"kind": "KeepColumns", "columns": ["a"]})


# what is there ---------------------------------------------------------------------------------------------


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Local servers at ports where nothing listens, until a test puts something there."""
    servers = dict.fromkeys(LOCAL_SERVERS, "http://127.0.0.1:1/v1")
    monkeypatch.setattr(catalog, "LOCAL_SERVERS", servers)
    return servers


@contextmanager
def serving(body: bytes) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/v1"
        running.shutdown()


def test_nothing_is_found_where_nothing_is(ports: dict[str, str]) -> None:
    assert found_models() == []


def test_keys_are_found_by_name_and_not_by_value(
    ports: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    (found,) = found_models()
    assert found == ("openai", "OPENAI_API_KEY", (), "LLM=openai:gpt-4o-mini")


def test_a_secret_that_colab_does_not_grant_is_no_key_found(
    ports: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setitem(sys.modules, "google.colab", fake_colab({}, refused=("OPENAI_API_KEY",)))
    forget_keys()
    try:
        with pytest.raises(MissingKeyError, match="may not read"):
            OpenAILLM.find_own_key()
        assert found_models() == []
    finally:
        forget_keys()


def test_a_local_server_is_found_with_its_models(ports: dict[str, str], server: MockLLM) -> None:
    ports["vllm"] = server.base_url
    (found,) = found_models()
    assert found == ("vllm", server.base_url, ("mock-model",), "LLM=vllm:mock-model")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"data": 5}', b'{"data": [{"name": "x"}]}', b""])
def test_something_else_at_the_port_is_no_model(ports: dict[str, str], body: bytes) -> None:
    with serving(body) as url:
        ports["llamacpp"] = url
        assert found_models() == []


def test_what_is_found_can_be_used(ports: dict[str, str], server: MockLLM) -> None:
    ports["ollama"] = server.base_url
    (found,) = found_models()
    name = found.line.removeprefix("LLM=")
    assert llm(name).endpoint == server.base_url


def test_only_loopback_is_asked() -> None:
    assert {url.split("/")[2].split(":")[0] for url in LOCAL_SERVERS.values()} == {"127.0.0.1"}

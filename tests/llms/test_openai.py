from __future__ import annotations

import socket
from typing import Any

import pytest

from distilnb.errors import (
    MissingKeyError,
    SpecError,
    UnknownParameterError,
    UnreachableError,
    UnsupportedParameterError,
)
from distilnb.llms.openai import LOCAL_SERVERS, OpenAILLM
from distilnb.llms.request import Request
from distilnb.llms.shape import ReplyShape, ShapeKind
from distilnb.llms.transport import HttpClient, SdkClient
from distilnb.spec.registry import build

CANARY = "sk-canary-0123456789abcdef"
MESSAGES = ({"role": "user", "content": "hi"},)


def body_of(model: OpenAILLM) -> dict[str, Any]:
    client = model.make_client()
    assert isinstance(client, HttpClient)
    return client._connection.body_of(Request(MESSAGES))


# where the key goes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base_url, environment_url, sent",
    [
        (None, None, True),
        ("https://api.openai.com/v1", None, True),
        ("https://eu.api.openai.com/v1", None, True),
        ("http://api.openai.com/v1", None, False),
        ("https://api.openai.com.evil.com/v1", None, False),
        ("https://evil.com/v1", None, False),
        ("http://127.0.0.1:8000/v1", None, False),
        (None, "https://gateway.example/v1", True),
        ("https://gateway.example/other", "https://gateway.example/v1", True),
        ("http://gateway.example/v1", "https://gateway.example/v1", False),
        ("https://gateway.example:444/v1", "https://gateway.example/v1", False),
        ("https://evil.com/v1", "https://gateway.example/v1", False),
    ],
)
def test_the_environments_key_goes_to_openai_and_to_the_environments_server_only(
    base_url: str | None, environment_url: str | None, sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f" {CANARY}\n")
    if environment_url:
        monkeypatch.setenv("OPENAI_BASE_URL", environment_url)
    assert OpenAILLM(model="m", base_url=base_url).key() == (CANARY if sent else "")


def test_a_key_that_is_given_goes_anywhere() -> None:
    assert OpenAILLM(model="m", base_url="https://other.example/v1", api_key="mine").key() == "mine"


def test_account_headers_go_to_openai_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    for base_url, sent in ((None, {"OpenAI-Organization": "org-1"}), ("https://other.example", {})):
        client = OpenAILLM(model="m", base_url=base_url).make_client()
        assert isinstance(client, HttpClient)
        assert client._connection.headers == sent


@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key", "cookie", "x-gateway-token"])
def test_a_header_that_holds_a_secret_is_refused_because_headers_are_written_down(name: str) -> None:
    with pytest.raises(SpecError, match=f"may not hold '{name}'") as caught:
        OpenAILLM(model="m", default_headers={name: CANARY})
    assert CANARY not in str(caught.value)


# the check -------------------------------------------------------------------------------------------------


def test_only_openais_own_host_needs_a_key() -> None:
    OpenAILLM(model="m", base_url="http://127.0.0.1:8000/v1").check()
    OpenAILLM(model="m", base_url="https://other.example/v1").check()
    with pytest.raises(MissingKeyError):
        OpenAILLM(model="m").check()


@pytest.mark.parametrize("name", ["top_k", "min_p", "repetition_penalty", "stop_token_ids", "echo"])
def test_what_openai_lacks_is_refused_for_its_own_host_and_sent_to_others(name: str) -> None:
    own = OpenAILLM(model="gpt-4o", api_key="k", generation_kwargs={name: 1})
    with pytest.raises(UnsupportedParameterError, match=f"no parameter '{name}'") as caught:
        own.check()
    assert caught.value.fix.startswith(f"Leave {name} out")
    other = own.updated(base_url="http://127.0.0.1:8000/v1")
    other.check()
    assert body_of(other)[name] == 1


def test_structured_output_is_checked_when_the_model_is_made() -> None:
    with pytest.raises(SpecError, match="is no regular expression"):
        OpenAILLM(model="m", structured_output={"format": "regex", "schema": "("})


def test_a_parameter_that_nobody_knows_is_refused_when_the_model_is_made() -> None:
    with pytest.raises(UnknownParameterError) as caught:
        OpenAILLM(model="m", generation_kwargs={"temprature": 1})
    assert caught.value.fix == "Did you mean 'temperature'?"


def test_names_of_1_x_are_understood() -> None:
    older = {
        "max_tokens": 5,
        "extra_body": {"a": 1},
        "response_format": {"type": "json_object"},
        "top_p": None,
    }
    model = OpenAILLM(model="m", generation_kwargs=older)
    newer = {"max_new_tokens": 5, "extra": {"a": 1}, "response_format": {"type": "json_object"}}
    assert model == OpenAILLM(model="m", generation_kwargs=newer)


@pytest.mark.parametrize("wrong", [{"base_url": 5}, {"transport": "pigeon"}, {"generation_kwargs": "hot"}])
def test_a_value_of_the_wrong_type_is_a_spec_error(wrong: dict[str, object]) -> None:
    with pytest.raises(SpecError, match="OpenAILLM cannot be made"):
        OpenAILLM(**{"model": "m", **wrong})


def test_a_bad_address_in_the_environment_is_told_by_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost:8000")
    with pytest.raises(SpecError, match="OPENAI_BASE_URL is not the address of a server"):
        OpenAILLM(model="m", api_key="k").check()


# the probe -------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_told_before_the_run() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        model = OpenAILLM(model="m", base_url=f"http://127.0.0.1:{port}/v1")
        model.probe()
    with pytest.raises(UnreachableError) as caught:
        model.probe()
    assert str(caught.value) == (
        f"Nothing listens at 127.0.0.1:{port}.\nStart the server there, or correct base_url=."
    )


def test_a_known_local_server_comes_with_the_command_that_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> socket.socket:
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(UnreachableError) as caught:
        OpenAILLM(model="llama3.2", base_url=LOCAL_SERVERS["ollama"]).probe()
    assert str(caught.value) == "Nothing listens at 127.0.0.1:11434.\nStart it: ollama serve"


def test_neither_openai_nor_a_server_behind_a_proxy_is_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*arguments: object) -> socket.socket:
        raise AssertionError("no connection may be made")

    monkeypatch.setattr(socket, "create_connection", connect)
    OpenAILLM(model="m").probe()
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    OpenAILLM(model="m", base_url="https://other.example/v1").probe()


# identity --------------------------------------------------------------------------------------------------


def test_identity_is_what_replies_depend_on() -> None:
    model = OpenAILLM(model="m", base_url="HTTP://LocalHost:80/v1/", generation_kwargs={"max_tokens": 3})
    assert model.identity() == {
        "provider": "openai",
        "endpoint": "http://localhost/v1",
        "model": "m",
        "parameters": {"max_new_tokens": 3},
    }
    same = model.updated(
        api_key="k", rpm=1, timeout=3.0, price=(1.0, 1.0), transport="sdk", max_concurrency=1
    )
    assert same.identity() == model.identity()


def test_a_cache_id_stands_for_the_server() -> None:
    one = OpenAILLM(model="m", base_url="http://10.0.0.1/v1", cache_id="ours")
    two = OpenAILLM(model="m", base_url="http://10.0.0.2/v1", cache_id="ours")
    assert one.identity() == two.identity() == {"cache_id": "ours", "model": "m", "parameters": {}}


def test_structured_output_is_part_of_identity() -> None:
    model = OpenAILLM(model="m", structured_output={"format": "json"})
    assert model.identity()["parameters"] == {"structured_output": {"format": "json"}}


def test_a_dump_builds_the_same_model_again() -> None:
    model = OpenAILLM(
        model="m", base_url="http://127.0.0.1:1/v1", api_key="k", generation_kwargs={"seed": 1}, cache_id="c"
    )
    assert build(model.dump()) == model
    assert "k" not in model.dump().values()


@pytest.mark.parametrize("name, url", [*LOCAL_SERVERS.items(), ("openai", "http://127.0.0.1:9/v1")])
def test_a_label_names_the_local_server(name: str, url: str) -> None:
    assert OpenAILLM(model="m", base_url=url).label == f"{name}:m"


# the request -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model, name",
    [
        ("gpt-4o-mini", "max_tokens"),
        ("my-o1-like", "max_tokens"),
        ("gpt-oss:20b", "max_tokens"),
        ("o1", "max_completion_tokens"),
        ("o4-mini", "max_completion_tokens"),
        ("gpt-5-mini", "max_completion_tokens"),
        ("openai/gpt-5", "max_completion_tokens"),
        ("ft:gpt-5:org", "max_completion_tokens"),
    ],
)
def test_models_that_reason_have_another_name_for_the_token_limit(model: str, name: str) -> None:
    body = body_of(OpenAILLM(model=model, generation_kwargs={"max_new_tokens": 7}))
    assert body == {"model": model, "messages": MESSAGES, name: 7}


def test_structured_output_of_the_model_is_the_shape_of_requests() -> None:
    model = OpenAILLM(model="m", structured_output={"format": "json", "schema": {"type": "object"}})
    assert model.reply_shape == ReplyShape("json", {"type": "object"})
    assert OpenAILLM(model="m").reply_shape is None


@pytest.mark.parametrize(
    "url, kind, modes",
    [
        ("https://api.openai.com/v1", "json", ("json_schema", "json_object")),
        ("https://api.openai.com/v1", "choice", ("json_schema",)),
        ("http://127.0.0.1:9/v1", "json", ("json_schema", "json_object_schema", "json_object")),
        ("http://127.0.0.1:9/v1", "regex", ("json_schema", "json_object_schema")),
        (LOCAL_SERVERS["vllm"], "regex", ("structured_outputs", "json_schema", "json_object_schema")),
    ],
)
def test_the_ways_to_a_shape_are_those_of_the_server(
    url: str, kind: ShapeKind, modes: tuple[str, ...]
) -> None:
    model = OpenAILLM(model="m", base_url=url)
    assert model.shape_modes(ReplyShape(kind, {"type": "object"} if kind == "json" else None)) == modes
    assert model.shape_modes(ReplyShape("json")) == ("json_object",)


def test_the_transport_is_chosen_by_a_field() -> None:
    assert isinstance(OpenAILLM(model="m").make_client(), HttpClient)
    assert isinstance(OpenAILLM(model="m", transport="sdk").make_client(), SdkClient)

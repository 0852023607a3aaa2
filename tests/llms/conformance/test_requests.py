"""What goes to a provider: parameters under its own names, the key and nothing else that is secret."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from distilnb.errors import MissingKeyError, UnsupportedParameterError
from distilnb.llms.base import GENERATION_PARAMETERS
from distilnb.spec.registry import LLMS, build
from tests.llms.conformance.local import local_kinds
from tests.llms.conformance.providers import (
    CANARY,
    MODEL,
    PROVIDERS,
    Provider,
    at,
    behaviour,
    send,
    set_environment,
    text_of,
)
from tests.servers import MockLLM

VALUES: dict[str, Any] = {
    "max_new_tokens": 9,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.1,
    "stop": ["\n\n"],
    "seed": 3,
    "frequency_penalty": 0.25,
    "presence_penalty": 0.75,
    "logprobs": True,
    "top_logprobs": 2,
}


@behaviour("parameters under the provider's names")
def test_every_parameter_arrives_under_the_providers_name(provider: Provider, server: MockLLM) -> None:
    given = {name: value for name, value in VALUES.items() if name in provider.cls.parameters}
    model = provider.model(server, generation_kwargs=given)
    model.check()
    assert text_of(send(model, "hello"))  # the mock server refuses fields that the reference does not list
    (seen,) = server.seen()
    expected = {}
    for name, (path, value_of) in provider.cls.parameters.items():
        if name in given:
            expected[path] = value_of(given[name])
    assert {path: at(seen["body"], path) for path in expected} == expected
    assert len(expected) >= 5


@behaviour("what a provider lacks is refused by name")
def test_what_the_provider_lacks_is_refused_before_the_run(provider: Provider, server: MockLLM) -> None:
    for name in sorted(GENERATION_PARAMETERS - provider.cls.parameters.keys() - {"extra"}):
        with pytest.raises(UnsupportedParameterError, match=f"no parameter '{name}'") as caught:
            provider.model(server, generation_kwargs={name: VALUES[name]}).check()
        assert caught.value.provider == provider.cls.provider
        assert str(caught.value).startswith(provider.cls.title)


@behaviour("fields of the server's own (extra)")
def test_extra_fields_arrive_as_they_are(provider: Provider, server: MockLLM) -> None:
    table = provider.cls.parameters
    extra: dict[str, Any] = {}
    *folders, last = table["temperature"].name.split(".")
    place = extra
    for folder in folders:
        place = place.setdefault(folder, {})
    place[last] = 0.125
    model = provider.model(server, generation_kwargs={"top_p": 0.5, "extra": extra})
    assert text_of(send(model, "hello"))
    (seen,) = server.seen()
    assert at(seen["body"], table["temperature"].name) == 0.125
    assert at(seen["body"], table["top_p"].name) == 0.5


@behaviour("no key in anything that is shown")
def test_the_key_shows_nowhere(provider: Provider, server: MockLLM) -> None:
    model = provider.model(server)
    client = model.make_client()
    shown = [repr(model), str(model), json.dumps(model.dump()), json.dumps(model.identity()), model.label]
    assert [text for text in shown if CANARY in text] == []
    assert CANARY.encode() not in pickle.dumps(model)
    assert CANARY not in repr(client)
    assert send(model, "hello").replies
    (seen,) = server.seen()
    assert CANARY not in seen["path"] + json.dumps(seen["body"])
    assert [name for name, value in seen["headers"].items() if CANARY in value] != []


@behaviour("the key of the environment")
def test_the_key_of_the_environment_is_found_by_its_name(
    provider: Provider, server: MockLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = provider.cls
    if not cls.key_variable:  # LiteLLM looks for keys of many providers itself
        assert provider.model(server, api_key=None).key() == ""
        return
    url_variable = getattr(cls, "url_variable", "")
    set_environment(monkeypatch, **{cls.key_variable: CANARY, url_variable: provider.url(server)})
    fields = {name: value for name, value in provider.fields.items() if name != "api_key"}
    model = cls(**{"model": MODEL, **fields})
    model.check()
    assert send(model, "hello").replies
    (seen,) = server.seen()
    assert [name for name, value in seen["headers"].items() if CANARY in value] != []


@behaviour("the environment's key goes to no other host")
def test_the_key_of_the_environment_stays_at_home(
    provider: Provider, server: MockLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = dict.fromkeys(
        (provider.cls.key_variable or "OPENAI_API_KEY", "CO_API_KEY", "GOOGLE_API_KEY"), CANARY
    )
    set_environment(monkeypatch, **variables)
    model = provider.model(server, api_key=None)
    assert model.key() == ""
    assert send(model, "hello").replies
    (seen,) = server.seen()
    assert CANARY not in json.dumps(seen)


@behaviour("a missing key, told before the run")
def test_a_missing_key_says_which_variable_to_set(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch)
    cls = provider.cls
    fields = {name: value for name, value in provider.fields.items() if name != "api_key"}
    if cls.kind() == "AzureOpenAILLM":
        fields["base_url"] = "https://mine.openai.azure.com"
    model = cls(**{"model": MODEL, **fields})
    if cls.kind() in ("ClientvLLM", "OllamaLLM", "LiteLLM"):  # they run without one
        model.check()
        return
    with pytest.raises(MissingKeyError, match=cls.key_variable) as caught:
        model.check()
    assert caught.value.fatal


@behaviour("dumped and built again")
def test_a_dump_builds_the_same_model(provider: Provider, server: MockLLM) -> None:
    model = provider.model(server, generation_kwargs={"temperature": 0.5})
    assert build(model.dump()) == model
    assert model.dump()["kind"] == provider.kind


def test_no_two_providers_share_replies(server: MockLLM) -> None:
    models = [provider.model(server) for provider in PROVIDERS]
    assert len({json.dumps(model.identity(), sort_keys=True) for model in models}) == len(models)
    assert len({model.digest for model in models}) == len(models)


def test_every_remote_model_of_the_registry_is_here() -> None:
    assert {provider.kind for provider in PROVIDERS} == set(LLMS) - {"RehearsalLLM", *local_kinds()}

"""What goes to a provider: parameters under its own names, the key and nothing else that is secret."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from distilnb.errors import (
    AuthenticationError,
    MissingKeyError,
    UnknownParameterError,
    UnsupportedParameterError,
)
from distilnb.llms.base import GENERATION_PARAMETERS
from distilnb.llms.local import LocalLLM
from distilnb.llms.remote import RemoteLLM
from distilnb.spec.registry import LLMS, build, load_kind
from tests.llms.conformance.providers import (
    CANARY,
    MODEL,
    NO_KEY,
    PROVIDERS,
    Server,
    Subject,
    at,
    behaviour,
    parameters_of,
    send,
    set_environment,
    text_of,
)
from tests.llms.engines.real import RealEngine, Served
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
def test_every_parameter_arrives_under_the_providers_name(provider: Subject, server: Server) -> None:
    if isinstance(server, Served):
        return changes_what_is_drawn(provider, server)
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
    return None


def changes_what_is_drawn(engine: Subject, served: Served) -> None:
    """See of each way to sample that it has its effect."""

    def drawn(**wanted: Any) -> str:
        return text_of(send(engine.model(served, generation_kwargs=wanted), "hello"))

    greedy = drawn()
    assert len({drawn(temperature=1.5) for _ in range(4)}) > 1
    for only_the_best in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        assert drawn(temperature=1.0, **only_the_best) == greedy
    long = drawn(max_new_tokens=40)
    own = [{"repetition_penalty": 3.0}] if issubclass(engine.cls, LocalLLM) else []
    for against_repeats in ({"frequency_penalty": 2.0}, {"presence_penalty": 2.0}, *own):
        assert drawn(max_new_tokens=40, **against_repeats) != long


@behaviour("what a provider lacks is refused by name")
def test_what_the_provider_lacks_is_refused_before_the_run(provider: Subject, server: Server) -> None:
    with pytest.raises(UnknownParameterError, match=r"'top_kk'.*\n*.*'top_k'"):
        provider.model(server, generation_kwargs={"top_kk": 1})
    for name in sorted(GENERATION_PARAMETERS - parameters_of(provider.model(server)) - {"extra"}):
        with pytest.raises(UnsupportedParameterError, match=f"no parameter '{name}'") as caught:
            provider.model(server, generation_kwargs={name: VALUES[name]}).check()
        assert caught.value.provider == provider.cls.provider
        assert str(caught.value).startswith(provider.cls.title)


@behaviour("fields of the server's own (extra)")
def test_extra_fields_arrive_as_they_are(provider: Subject, server: Server) -> None:
    if isinstance(server, Served):
        greedy = text_of(send(provider.model(server), "hello"))
        wanted = {"temperature": 1.5, "extra": {"top_k": 1}}
        for _ in range(3):
            assert text_of(send(provider.model(server, generation_kwargs=wanted), "hello")) == greedy
        return
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
def test_the_key_shows_nowhere(provider: Subject, server: Server) -> None:
    model = provider.model(server, api_key=CANARY)
    client = model.make_client()
    shown = [repr(model), str(model), json.dumps(model.dump()), json.dumps(model.identity()), model.label]
    assert [text for text in shown if CANARY in text] == []
    assert CANARY.encode() not in pickle.dumps(model)
    assert CANARY not in repr(client)
    assert send(model, "hello").replies
    if isinstance(server, Served):
        return
    (seen,) = server.seen()
    assert CANARY not in seen["path"] + json.dumps(seen["body"])
    assert [name for name, value in seen["headers"].items() if CANARY in value] != []


@behaviour("the key of the environment", unreal={"in process": NO_KEY})
def test_the_key_of_the_environment_is_found_by_its_name(
    provider: Subject, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = provider.cls
    url_variable = getattr(cls, "url_variable", "")
    if isinstance(server, Served):  # which answers to no other key
        set_environment(monkeypatch, **{cls.key_variable: CANARY, url_variable: server.url})
        model = cls(model="tiny", generation_kwargs={"max_new_tokens": 4})
        model.check()
        assert send(model, "hello").replies
        return
    assert not isinstance(provider, RealEngine)
    if not cls.key_variable:  # LiteLLM looks for keys of many providers itself
        assert provider.model(server, api_key=None).key() == ""
        return
    set_environment(monkeypatch, **{cls.key_variable: CANARY, url_variable: provider.url(server)})
    fields = {name: value for name, value in provider.fields.items() if name != "api_key"}
    model = cls(**{"model": MODEL, **fields})
    model.check()
    assert send(model, "hello").replies
    (seen,) = server.seen()
    assert [name for name, value in seen["headers"].items() if CANARY in value] != []


@behaviour("the environment's key goes to no other host", unreal={"in process": NO_KEY})
def test_the_key_of_the_environment_stays_at_home(
    provider: Subject, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = dict.fromkeys(
        (provider.cls.key_variable or "OPENAI_API_KEY", "CO_API_KEY", "GOOGLE_API_KEY"), CANARY
    )
    set_environment(monkeypatch, **variables)
    model = provider.model(server, api_key=None)
    assert model.key() == ""
    if isinstance(server, Served):  # with the key it would have answered
        with pytest.raises(AuthenticationError):
            send(model, "hello")
        return
    assert send(model, "hello").replies
    (seen,) = server.seen()
    assert CANARY not in json.dumps(seen)


@behaviour("a missing key, told before the run")
def test_a_missing_key_says_which_variable_to_set(
    provider: Subject, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch)
    cls = provider.cls
    if isinstance(provider, RealEngine):  # one at an address of the user's own, or in process, may need none
        provider.model(server, api_key=None).check()
        return
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
def test_a_dump_builds_the_same_model(provider: Subject, server: Server) -> None:
    model = provider.model(server, generation_kwargs={"temperature": 0.5})
    assert build(model.dump()) == model
    assert model.dump()["kind"] == provider.kind


def test_no_two_providers_share_replies(server: MockLLM) -> None:
    models = [provider.model(server) for provider in PROVIDERS]
    assert len({json.dumps(model.identity(), sort_keys=True) for model in models}) == len(models)
    assert len({model.digest for model in models}) == len(models)


def test_every_remote_model_of_the_registry_is_here() -> None:
    remote = {kind for kind in LLMS if issubclass(load_kind(kind), RemoteLLM)}
    assert {provider.kind for provider in PROVIDERS} == remote

"""Keys come from the environment, Colab's secrets and the keyring, in that order; a missing one is told by its name."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

import distilnb as dn
from distilnb.engine.keys import key_sources, secrets_to_send
from distilnb.errors import MissingKeyError
from distilnb.llms import LlamaCppLLM, TransformersLLM
from distilnb.llms.keys import find_key, forget_keys, how_to_give
from distilnb.llms.openai import OpenAILLM

VARIABLE = "OPENAI_API_KEY"
CANARY = "canary-0123456789abcdef"


class SecretNotFoundError(Exception):
    pass


class NotebookAccessError(Exception):
    pass


def fake_colab(secrets: dict[str, str], *, refused: tuple[str, ...] = ()) -> types.ModuleType:
    """Return a stand-in for the package `google.colab`, with its two errors and `userdata.get`."""

    def get(name: str) -> str:
        if name in refused:
            raise NotebookAccessError(name)
        if name not in secrets:
            raise SecretNotFoundError(name)
        return secrets[name]

    package: Any = types.ModuleType("google.colab")
    package.userdata = types.SimpleNamespace(
        get=get, SecretNotFoundError=SecretNotFoundError, NotebookAccessError=NotebookAccessError
    )
    return package  # type: ignore[no-any-return]


def fake_keyring(
    passwords: dict[tuple[str, str], str], *, error: Exception | None = None
) -> types.ModuleType:
    """Return a stand-in for the package `keyring`."""

    def get_password(service: str, user: str) -> str | None:
        if error is not None:
            raise error
        return passwords.get((service, user))

    package: Any = types.ModuleType("keyring")
    package.get_password = get_password
    return package  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "keyring", fake_keyring({}))
    forget_keys()
    yield
    forget_keys()


def in_keyring(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setitem(sys.modules, "keyring", fake_keyring({("distilnb", VARIABLE): value}))
    forget_keys()


def in_colab(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setitem(sys.modules, "google.colab", fake_colab({VARIABLE: value}))
    forget_keys()


def test_environment_before_colab_before_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_key(VARIABLE) is None
    in_keyring(monkeypatch, "of-keyring")
    assert find_key(VARIABLE) == ("of-keyring", "keyring")
    in_colab(monkeypatch, "of-colab")
    assert find_key(VARIABLE) == ("of-colab", "colab")
    monkeypatch.setenv(VARIABLE, " of-env\n")
    assert find_key(VARIABLE) == ("of-env", "env")


def test_a_model_has_its_key_and_tells_only_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = OpenAILLM(model="gpt-4o-mini")
    assert (llm.key(), llm.key_source()) == ("", "")
    in_keyring(monkeypatch, CANARY)
    assert (llm.key(), llm.key_source()) == (CANARY, f"keyring:{VARIABLE}")
    in_colab(monkeypatch, CANARY + "2")
    assert llm.key_source() == f"colab:{VARIABLE}"
    monkeypatch.setenv(VARIABLE, CANARY + "3")
    assert llm.key_source() == f"env:{VARIABLE}"
    literal = OpenAILLM(model="gpt-4o-mini", api_key=CANARY + "4")  # type: ignore[arg-type]
    assert (literal.key(), literal.key_source()) == (CANARY + "4", "literal")
    for shown in (repr(llm), repr(literal), repr(find_key(VARIABLE)), str(find_key(VARIABLE))):
        assert "canary" not in shown


def test_another_host_gets_no_key_from_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    in_keyring(monkeypatch, CANARY)
    llm = OpenAILLM(model="m", base_url="http://127.0.0.1:9/v1")
    assert (llm.key(), llm.key_source()) == ("", "")


def test_a_missing_key_is_found_at_check_time_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = OpenAILLM(model="gpt-4o-mini")
    with pytest.raises(MissingKeyError) as caught:
        llm.check()
    assert caught.value.fix == (
        f"Set the environment variable {VARIABLE}, store it in the keyring (keyring set distilnb {VARIABLE}), "
        "or pass api_key=."
    )
    monkeypatch.setitem(sys.modules, "google.colab", fake_colab({}))
    assert f"add a secret {VARIABLE} in Colab" in how_to_give(VARIABLE)
    in_colab(monkeypatch, CANARY)
    llm.check()


def test_a_check_looks_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = OpenAILLM(model="gpt-4o-mini")
    with pytest.raises(MissingKeyError):
        llm.check()
    monkeypatch.setitem(sys.modules, "keyring", fake_keyring({("distilnb", VARIABLE): CANARY}))
    llm.check()
    assert llm.key() == CANARY


def test_a_secret_that_the_notebook_may_not_read_says_how_to_grant_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "google.colab", fake_colab({}, refused=(VARIABLE,)))
    with pytest.raises(MissingKeyError, match="which this notebook may not read") as caught:
        OpenAILLM(model="gpt-4o-mini").check()
    assert "Grant it access" in caught.value.fix


@pytest.mark.parametrize("error", [RuntimeError("locked"), OSError("no bus")])
def test_a_keyring_that_fails_holds_no_key(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setitem(sys.modules, "keyring", fake_keyring({}, error=error))
    assert find_key(VARIABLE) is None


def test_without_the_package_keyring_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert find_key(VARIABLE) is None


def test_the_token_of_a_local_model_comes_from_where_keys_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    llm = TransformersLLM(model="a/b")
    graph = dn.Pipeline("p").from_dicts([{"instruction": "x"}]).generate("answer", llm=llm).graph
    assert (llm.key(), llm.key_source(), key_sources(graph)) == ("", "", {})

    monkeypatch.setitem(sys.modules, "keyring", fake_keyring({("distilnb", "HF_TOKEN"): CANARY}))
    forget_keys()
    assert llm.key_source() == "keyring:HF_TOKEN"
    assert llm.host().secrets == {"HF_TOKEN": CANARY}
    assert key_sources(graph) == {"answer.llm.api_key": "keyring:HF_TOKEN"}
    assert secrets_to_send(graph) == {"answer.llm.api_key": CANARY}

    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    assert (llm.key(), llm.key_source()) == ("hf_environment", "env:HF_TOKEN")
    assert (key_sources(graph), secrets_to_send(graph)) == ({}, {})
    assert LlamaCppLLM(model_path="x.gguf").key_source() == ""

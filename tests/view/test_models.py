"""`dn.models()`: what is installed, configured and reachable, with the line to use, and never a key."""

from __future__ import annotations

import http.server
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import distilnb as dn
from distilnb.llms import catalog, inventory
from distilnb.llms.base import LLM
from distilnb.llms.cohere import CohereLLM
from distilnb.llms.inventory import Offer, forget_names, is_installed, model_names, offers
from distilnb.llms.keys import forget_keys
from distilnb.llms.openai import LOCAL_SERVERS
from distilnb.llms.vertexai import VertexAILLM
from tests.llms.test_keys import VARIABLE, fake_colab, fake_keyring
from tests.servers import mock_llm

CANARY = "sk-canary-0123456789abcdef"


@pytest.fixture(autouse=True)
def ports(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Local servers at ports where nothing listens, until a test puts something there."""
    servers = dict.fromkeys(LOCAL_SERVERS, "http://127.0.0.1:1/v1")
    monkeypatch.setattr(catalog, "LOCAL_SERVERS", servers)
    monkeypatch.setitem(sys.modules, "keyring", fake_keyring({}))
    forget_names()
    forget_keys()
    yield servers
    forget_names()
    forget_keys()


OTHERS = {
    *("gguf (vectors)", "openai (vectors)", "rehearsal (vectors)"),
    *("sentence-transformers (vectors)", "vllm_engine (vectors)"),
    *("huggingface (images)", "openai (images)", "rehearsal (images)"),
}


def offer(provider: str) -> Offer:
    return next(one for one in dn.models() if one.provider == provider)


def test_every_provider_is_told_with_what_makes_it_ready() -> None:
    table = dn.models()
    assert {one.provider for one in table} == {*catalog.PROVIDERS, *OTHERS}
    assert offer("rehearsal").state == "ready"
    assert dn.llm("rehearsal") == eval(offer("rehearsal").line, {"dn": dn})
    assert (offer("openai").state, offer("openai").models) == ("no key", ())
    assert VARIABLE in offer("openai").fix
    assert (offer("ollama").state, offer("ollama").fix) == ("not running", "Start it: ollama serve")
    states = [one.state for one in table if one.provider not in OTHERS]
    assert states == sorted(states, key=["ready", "no key", "not running", "not installed"].index)


def test_models_that_make_vectors_and_images_are_told_too() -> None:
    assert offer("rehearsal (images)").line == 'ImageGeneration(llm="rehearsal")'
    assert "openai:gpt-image-1" in offer("openai (images)").line
    assert offer("rehearsal (vectors)").state == "ready"
    assert offer("rehearsal (vectors)").line == 'p.embed("text", model="rehearsal")'
    assert offer("openai (vectors)").state == "no key"
    assert 'model="openai:text-embedding-3-small"' in offer("openai (vectors)").line
    assert not [name for name in model_names() if "vectors" in name]  # they answer no prompt


def test_a_local_server_is_listed_with_its_models_by_name(ports: dict[str, str]) -> None:
    names = ("llama3.2", "qwen2.5:0.5b", "a", "b", "c", "d")
    with mock_llm(models=names) as server:
        ports["ollama"] = server.base_url
        found = offer("ollama")
        assert found == ("ollama", "ready", server.base_url, names, 'dn.llm("ollama:llama3.2")', "")
        assert "llama3.2, qwen2.5:0.5b, a, b and 2 more" in repr(dn.models())
        assert "ollama:qwen2.5:0.5b" in model_names()


@pytest.mark.parametrize("place", ["env", "colab", "keyring"])
def test_a_key_is_told_by_its_source_and_never_shown(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if place == "env":
        monkeypatch.setenv(VARIABLE, CANARY)
    elif place == "colab":
        monkeypatch.setitem(sys.modules, "google.colab", fake_colab({VARIABLE: CANARY}))
    else:
        monkeypatch.setitem(sys.modules, "keyring", fake_keyring({("distilnb", VARIABLE): CANARY}))
    found = offer("openai")
    assert (found.state, found.source) == ("ready", f"{place}:{VARIABLE}")
    assert found.line == 'dn.llm("openai:gpt-4o-mini")'
    table = dn.models()
    assert CANARY not in repr(table) + table._repr_html_() + repr(list(table)) + table.to_pandas().to_csv()


@pytest.mark.parametrize("cls, variable", [(CohereLLM, "CO_API_KEY"), (VertexAILLM, "GOOGLE_API_KEY")])
def test_a_key_under_its_other_name_is_found(
    cls: type[LLM], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = cls.provider
    monkeypatch.setattr(cls, "extra_name", "")
    monkeypatch.delenv(cls.key_variable, raising=False)
    monkeypatch.setenv(variable, CANARY)
    assert (offer(provider).state, offer(provider).source) == ("ready", f"env:{variable}")
    # A name that Colab refuses hides no other.
    colab = fake_colab({}, refused=(cls.key_variable,))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    assert offer(provider).source == f"env:{variable}"
    monkeypatch.delenv(variable)
    assert "Grant it access" in offer(provider).fix


def test_what_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    required = ["pydantic>=2", 'nobody-has-this>=1; extra == "odd"', 'pydantic>=2; extra == "here"']
    monkeypatch.setattr(inventory.metadata, "requires", lambda name: required)
    assert is_installed("here")
    assert not is_installed("odd")
    assert is_installed("unheard-of")
    monkeypatch.setattr(dn.llms.OpenAILLM, "extra_name", "odd", raising=False)
    assert (offer("openai").state, offer("openai").fix) == ("not installed", "pip install 'distilnb[odd]'")


def test_servers_are_asked_all_at_once(ports: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    everybody = threading.Barrier(len(LOCAL_SERVERS), timeout=20)

    def listed(url: str) -> tuple[str, ...]:
        everybody.wait()  # breaks unless all are here
        return ()

    monkeypatch.setattr(catalog, "_list_models", listed)
    assert [one.state for one in offers() if one.provider in LOCAL_SERVERS] == ["not running"] * 4


@contextmanager
def answering(body: bytes, delay_s: float = 0.0) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(delay_s)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/v1"
        running.shutdown()


def test_what_a_server_calls_its_models_is_escaped(ports: dict[str, str]) -> None:
    with answering(b'{"data": [{"id": "<script>x</script>\\u001b[31m"}]}') as url:
        ports["vllm"] = url
        table = dn.models()
    assert "<script>" not in table._repr_html_()
    assert "&lt;script&gt;" in table._repr_html_()
    assert "\x1b" not in repr(table) + table._repr_html_()


def test_names_are_believed_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def listed(url: str) -> tuple[str, ...]:
        calls.append(url)
        return ("m",)

    now: Any = [1000.0]
    monkeypatch.setattr(catalog, "_list_models", listed)
    monkeypatch.setattr(inventory.time, "monotonic", lambda: now[0])
    first = model_names()
    assert "vllm:m" in first
    assert len(calls) == len(LOCAL_SERVERS)
    assert model_names() == first
    assert len(calls) == len(LOCAL_SERVERS)
    now[0] += 60
    model_names()
    assert len(calls) == 2 * len(LOCAL_SERVERS)


def test_the_table_is_a_frame_too() -> None:
    frame = dn.models().to_pandas()
    assert list(frame.columns) == ["state", "source", "models", "line", "fix"]
    assert frame.loc["rehearsal", "state"] == "ready"
    assert len(frame) == len(dn.models()) == len(catalog.PROVIDERS) + len(OTHERS)

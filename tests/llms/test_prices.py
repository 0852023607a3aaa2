from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from distilnb.errors import SpecError
from distilnb.llms.catalog import llm
from distilnb.llms.openai import OpenAILLM
from distilnb.llms.prices import Price, cost_usd, price_of


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*arguments: object) -> None:
        raise AssertionError("prices may not touch the network")

    monkeypatch.setattr(socket.socket, "connect", connect)


def test_a_listed_model_has_its_price() -> None:
    price = price_of(OpenAILLM(model="gpt-4o-mini"))
    assert price is not None
    assert price == pytest.approx(Price(0.15, 0.6))
    assert cost_usd(OpenAILLM(model="gpt-4o-mini"), 1_000_000, 1_000_000) == pytest.approx(0.75)


def test_a_gateway_has_its_own_prices() -> None:
    price = price_of(OpenAILLM(model="deepseek-chat", base_url="https://api.deepseek.com/v1"))
    assert price is not None
    assert 0 < price.input_usd < price.output_usd


@pytest.mark.parametrize("name", ["rehearsal", "ollama:llama3.2", "vllm:gpt-4o"])
def test_what_runs_on_this_machine_costs_nothing(name: str) -> None:
    assert cost_usd(llm(name), 10**9, 10**9) == 0.0


@pytest.mark.parametrize("base_url", [None, "https://gateway.example/v1"])
def test_a_model_that_is_not_listed_has_no_price(base_url: str | None) -> None:
    model = OpenAILLM(model="never-heard-of", base_url=base_url)
    assert price_of(model) is None
    assert cost_usd(model, 1, 1) is None


def test_a_given_price_comes_first() -> None:
    for name in ("openai:gpt-4o-mini", "openai:never-heard-of", "vllm:m", "rehearsal"):
        model = llm(name, price=(1.0, 2.0))
        assert price_of(model) == Price(1.0, 2.0)
        assert cost_usd(model, 500_000, 250_000) == 1.0


# --- the user's own list ----------------------------------------------------------------------------------------


def write_list(home: Path, text: str) -> Path:
    home.mkdir(exist_ok=True)
    path = home / "prices.yaml"
    path.write_text(text, "utf-8")
    return path


def test_the_users_list_comes_before_the_public_one_and_after_the_models_own(home: Path) -> None:
    write_list(
        home,
        """
        openai:never-heard-of: [0.3, 1.2]
        openai:gpt-4o-mini: [1, 2]
        vllm:m: [0.5, 0.5]
        https://gateway.example/v1 llama-3: [0.1, 0.1]
        """,
    )
    assert price_of(llm("openai:never-heard-of")) == Price(0.3, 1.2)
    assert price_of(llm("openai:gpt-4o-mini")) == Price(1, 2)
    assert price_of(llm("vllm:m")) == Price(0.5, 0.5)  # a gateway on this machine may pass on to a paid one
    assert price_of(llm("openai:llama-3", base_url="https://gateway.example/v1/")) == Price(0.1, 0.1)
    assert price_of(llm("openai:llama-3", base_url="https://other.example/v1")) is None
    assert price_of(llm("openai:gpt-4o-mini", price=(7.0, 8.0))) == Price(7, 8)


def test_a_changed_list_is_read_anew(home: Path) -> None:
    path = write_list(home, "openai:m: [1, 2]")
    assert price_of(llm("openai:m")) == Price(1, 2)
    path.write_text("openai:m: [3, 4]", "utf-8")
    os.utime(path, ns=(1, 1))
    assert price_of(llm("openai:m")) == Price(3, 4)
    path.unlink()
    assert price_of(llm("openai:m")) is None


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}"])
def test_an_empty_list_changes_nothing(home: Path, text: str) -> None:
    write_list(home, text)
    assert price_of(llm("openai:m")) is None


@pytest.mark.parametrize(
    "text, told",
    [
        ("openai:m: 3", "The price of 'openai:m' in '.*prices.yaml' is 3."),
        ("openai:m: [1]", r"is \[1\]"),
        ("openai:m: [1, -2]", r"is \[1, -2\]"),
        ("openai:m: [true, 2]", r"is \[True, 2\]"),
        ("openai:m: [a, b]", "is "),
        ("- openai:m", "is "),
        ("openai:m: [1, 2", "cannot be read"),
        ("!!python/object/apply:os.system ['true']", "cannot be read"),
    ],
)
def test_a_list_that_makes_no_sense_says_how_to_write_it(home: Path, text: str, told: str) -> None:
    write_list(home, text)
    with pytest.raises(SpecError, match=told) as caught:
        price_of(llm("openai:gpt-4o-mini"))
    assert "openai:gpt-4o-mini: [0.15, 0.60]" in caught.value.fix

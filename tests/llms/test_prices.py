from __future__ import annotations

import socket

import pytest

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
    assert price == pytest.approx((0.15, 0.6))
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

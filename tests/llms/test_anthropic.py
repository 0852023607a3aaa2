"""What Anthropic's SDK finds in the environment goes where the environment's key may go, and to no other server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from distilnb.llms.anthropic import AnthropicLLM
from tests.llms.conformance.providers import set_environment
from tests.llms.scripted import ask
from tests.servers import MockLLM, mock_llm

CANARY = "canary-0123456789abcdef"


@pytest.fixture
def recording() -> Iterator[MockLLM]:
    with mock_llm(record=5) as running:
        yield running


def seen_by(server: MockLLM, **fields: Any) -> dict[str, Any]:
    """Return the one request that a model sends."""

    async def main() -> None:
        client = AnthropicLLM(model="m", **fields).make_client()
        assert (await client.send(ask("hello"))).replies
        await client.close()

    asyncio.run(main())
    (seen,) = server.seen()
    return dict(seen)


@pytest.mark.parametrize("name", ["X-Gateway-Secret", "Authorization", "x-api-key"])
def test_headers_of_the_environment_go_to_no_other_server(
    name: str, recording: MockLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, ANTHROPIC_CUSTOM_HEADERS=f"{name}: {CANARY}", ANTHROPIC_AUTH_TOKEN=CANARY)
    url = recording.base_url.removesuffix("/v1") + "/anthropic"
    seen = seen_by(recording, base_url=url, api_key="sk-mine-0123456789")
    assert CANARY not in json.dumps(seen)
    assert any("sk-mine-0123456789" in value for value in seen["headers"].values())


def test_a_gateway_that_the_environment_names_gets_its_headers(
    recording: MockLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = recording.base_url.removesuffix("/v1") + "/anthropic"
    set_environment(
        monkeypatch,
        ANTHROPIC_BASE_URL=url,
        ANTHROPIC_API_KEY="sk-mine-0123456789",
        ANTHROPIC_CUSTOM_HEADERS=f"X-Gateway-Secret: {CANARY}",
    )
    assert CANARY in seen_by(recording)["headers"].values()

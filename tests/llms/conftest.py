"""What tests of models share: an environment without keys and proxies, and a mock server."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.servers import MockLLM, mock_llm


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OPENAI_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def running_server() -> Iterator[MockLLM]:
    with mock_llm() as running:
        yield running


@pytest.fixture
def server(running_server: MockLLM) -> MockLLM:
    running_server.reset()
    return running_server

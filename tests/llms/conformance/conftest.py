"""The mock server that all providers are asked on, in their protocols."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from distilnb.llms import calling
from tests.llms.conformance.providers import set_environment
from tests.servers import MockLLM, mock_llm


@pytest.fixture(scope="session")
def recording_server() -> Iterator[MockLLM]:
    with mock_llm(record=50) as running:
        yield running


@pytest.fixture
def server(recording_server: MockLLM) -> MockLLM:
    recording_server.reset()
    return recording_server


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test an empty home and no keys; it starts no run, so nothing is looked for afterwards."""
    set_environment(monkeypatch, DISTILNB_HOME=str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "FIRST_WAIT_S", (0.0, 0.01))

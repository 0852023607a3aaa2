"""The server of `writers`, for whoever asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pipeline.writers import TEMPLATES
from tests.servers import MockLLM, mock_llm


@pytest.fixture(scope="module")
def running() -> Iterator[MockLLM]:
    with mock_llm(vary=True, templates=TEMPLATES) as server:
        yield server


@pytest.fixture
def server(running: MockLLM) -> MockLLM:
    running.reset()
    return running

"""Where the suite's subjects are asked: a mock server that speaks all protocols, or a real engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distilnb.llms import calling
from tests.llms.conformance.providers import Server, Subject, set_environment
from tests.llms.engines.real import RealEngine, Served
from tests.servers import MockLLM, mock_llm


@pytest.fixture(scope="session")
def recording_server() -> Iterator[MockLLM]:
    with mock_llm(record=50) as running:
        yield running


def subject_of(request: pytest.FixtureRequest) -> Subject | None:
    callspec = getattr(request.node, "callspec", None)
    found: Subject | None = callspec.params.get("provider") if callspec else None
    return found


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Server:
    subject = subject_of(request)
    if isinstance(subject, RealEngine):
        serve: Callable[[RealEngine], Served] = request.getfixturevalue("serve")
        return serve(subject)
    running: MockLLM = request.getfixturevalue("recording_server")
    running.reset()
    return running


@pytest.fixture(autouse=True)
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test an empty home and no keys; it starts no run, so nothing is looked for afterwards."""
    is_real = isinstance(subject_of(request), RealEngine)  # whose hosts take long to load: all share a home
    folder: Path = request.getfixturevalue("engines_home") if is_real else tmp_path
    set_environment(monkeypatch, DISTILNB_HOME=str(folder))
    return folder


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "FIRST_WAIT_S", (0.0, 0.01))

"""Loopback servers for tests: a mock model API, a Hugging Face Hub, a real Argilla.

Each context manager starts one on 127.0.0.1 at a free port, waits until it answers, and stops it:

    with mock_llm(latency_ms=20, models=("mock-model",)) as server:
        ...  # server.base_url, server.stats(), server.reset()
    with fake_hub() as hub:
        subprocess.run(command, env={**os.environ, **hub.env})
    with argilla_server(".venv-argilla") as server:
        client = argilla.Argilla(api_url=server.url, api_key=server.api_key)
"""

# First the package of the same name: Python binds it here when it is first imported, and would do so over
# the function if that came later.
from . import mock_llm as _mock_llm_package  # noqa: F401
from .hub import FakeHub, fake_hub
from .launch import ArgillaServer, MockLLM, argilla_server, mock_llm

__all__ = ["ArgillaServer", "FakeHub", "MockLLM", "argilla_server", "fake_hub", "mock_llm"]

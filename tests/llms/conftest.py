"""What tests of models share: an environment without keys and proxies, a mock server, and the real engines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest

from distilnb.llms.hosts.place import Place
from tests.conftest import end_processes_of
from tests.llms.engines.real import KEY, RealEngine, Served, real_server
from tests.llms.engines.tiny_model import make_tiny_model, write_gguf
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


# --- real engines: one home for all of their tests, since their hosts take long to load ---


@pytest.fixture(scope="session")
def engines_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("engines")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_HUB_OFFLINE", "1")
        # With more threads than idle cores the tiny model's kernels spend their time waiting for each other.
        environment.setenv("OMP_NUM_THREADS", "1")
        environment.setenv("VLLM_CPU_KVCACHE_SPACE", os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"))
        yield folder
    end_processes_of(folder)
    for path in (folder / "hosts").glob("*/host.json"):
        Place(path.parent).kill()  # vLLM's processes hide their command line, and outlive the host


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_gguf(tiny_model: Path) -> Path:
    return write_gguf(tiny_model, tiny_model.with_suffix(".gguf"))


@pytest.fixture(scope="session")
def serve(
    engines_home: Path, tiny_model: Path, tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[RealEngine], Served]]:
    """Return what has an engine ready to answer: its server runs, or its host has loaded the model."""
    ready: dict[str, Served] = {}
    with ExitStack() as servers:

        def served(engine: RealEngine) -> Served:
            name = engine.server or engine.kind
            if name not in ready:
                if find_spec(engine.package) is None:
                    pytest.skip(f"the package {engine.package!r} is not installed")
                folder = str(tiny_model)
                if engine.server:
                    home = tmp_path_factory.mktemp(engine.server)
                    url = servers.enter_context(real_server(engine.server, tiny_model, tiny_gguf, home))
                    ready[name] = Served({"model": "tiny", "api_key": KEY, "base_url": url}, url, folder)
                else:
                    path = (
                        {"model_path": str(tiny_gguf)} if engine.package == "llama_cpp" else {"model": folder}
                    )
                    found = Served({**path, "keep_alive": 3600}, folder=folder)
                    assert engine.model(found).ask("Wake up.")
                    ready[name] = found
            return ready[name]

        yield served

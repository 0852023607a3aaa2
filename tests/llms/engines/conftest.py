"""The tiny model, and one home for all tests of real engines: their hosts take long to load."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from distilnb.llms.hosts.place import Place
from tests.conftest import end_processes_of
from tests.llms.engines.tiny_model import make_tiny_model, write_gguf


@pytest.fixture(scope="session")
def engines_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("engines")
    yield folder
    end_processes_of(folder)
    for path in (folder / "hosts").glob("*/host.json"):
        Place(path.parent).kill()  # vLLM's processes hide their command line, and outlive the host


@pytest.fixture(autouse=True)
def home(engines_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISTILNB_HOME", str(engines_home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # With more threads than idle cores the tiny model's kernels spend their time waiting for each other.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"))
    return engines_home


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_gguf(tiny_model: Path) -> Path:
    return write_gguf(tiny_model, tiny_model.with_suffix(".gguf"))

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def hosts_find_the_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a host import the fake engine: it is a fresh interpreter."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

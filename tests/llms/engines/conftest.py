"""One home for all tests of real engines: their hosts take long to load."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home(engines_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISTILNB_HOME", str(engines_home))
    return engines_home

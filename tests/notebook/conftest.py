"""A notebook with the magics loaded and a small pipeline; its runs end with the test and leave no process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from distilnb.llms.inventory import forget_names
from distilnb.run import runs
from tests.conftest import wait_until_gone
from tests.notebook.browsing import browser, front_end, lab  # noqa: F401 - fixtures
from tests.notebook.shells import Notebook, interactive_shell

ROWS = [
    {"instruction": f"Count to {number}.", "text": f"word {number}", "topic": "numbers"}
    for number in range(8)
]


@pytest.fixture(autouse=True)
def alone(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test's folder is the current one, no local server is found, and no run outlives the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("distilnb.llms.catalog._list_models", lambda url: ())
    monkeypatch.setattr("distilnb.notebook.quoting.PATIENCE_S", 60.0)  # what is asked hangs on no clock
    forget_names()
    yield
    forget_names()
    for run in runs():
        run.abort()
    assert wait_until_gone(home) == []


@pytest.fixture
def notebook(alone: None) -> Iterator[Notebook]:
    """A notebook with `prefs`: rows, and a prompt `answer` that makes two generations."""
    with interactive_shell() as shell:
        one = Notebook(shell)
        one.names["rows"] = [dict(row) for row in ROWS]
        one.cell("%load_ext distilnb\nimport distilnb as dn")
        one.cell("prefs = dn.Pipeline('prefs', llm='rehearsal').from_dicts(rows)")
        one.cell("prefs = prefs.generate('answer', 'Say {{ text }}', k=2)")
        yield one

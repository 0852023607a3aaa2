"""The quickstart runs top to bottom without a key and without a network, as often as one likes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import wait_until_gone

QUICKSTART = Path(__file__).parents[2] / "notebooks" / "quickstart.ipynb"
MAX_BYTES = 200_000


def text_of(cell: Any) -> str:
    """Return everything that a cell shows, as a reader of the file sees it."""
    told = []
    for output in cell.outputs:
        data = output.get("data", {})
        told.append(output.get("text") or data.get("text/html") or data.get("text/plain") or "")
    return "\n".join(told)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The cells by id, after the notebook ran twice in one kernel."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILNB_HOME", str(home))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("IPYTHONDIR", str(home / "ipython"))
        patch.delenv("OPENAI_API_KEY", raising=False)
        notebook = nbformat.read(QUICKSTART, as_version=4)
        client = NotebookClient(
            notebook, timeout=90, store_widget_state=False, resources={"metadata": {"path": str(home)}}
        )
        with client.setup_kernel():
            for _ in range(2):
                for index, cell in enumerate(notebook.cells):
                    client.execute_cell(cell, index)
        yield {"notebook": notebook, **{cell.id: cell for cell in notebook.cells}}
        assert wait_until_gone(home) == []


def test_the_dataset_reads_back_as_it_was(executed: dict[str, Any]) -> None:
    for part in ("prefs", "rehearsed", "rows"):
        assert part in text_of(executed["distiset"])
        assert part in text_of(executed["save"])


@pytest.mark.parametrize(
    "cell, said",
    [
        ("load", "The distilnb extension is already loaded."),
        ("new", "topic"),
        (
            "prompt",
            "prefs · answer@1 added after load · reads instruction · makes generations, generation_models",
        ),
        ("prompt", "rehearsed"),
        ("render", "You are terse and exact."),
        ("judge", "<svg"),
        ("preview", "ratings"),
        ("mistake", "Did you mean 'chosen_rating'?"),
        ("step", "chosen_length"),
        ("run", "attach from anywhere: %distil attach prefs-"),
        ("rows", "ratings"),
        ("run", "finished"),
        ("attach", "finished"),
    ],
)
def test_each_cell_shows_what_it_is_for(executed: dict[str, Any], cell: str, said: str) -> None:
    assert said in text_of(executed[cell])


def test_the_executed_notebook_stays_small_and_holds_no_widget_state(executed: dict[str, Any]) -> None:
    text = nbformat.writes(executed["notebook"])
    assert len(text) < MAX_BYTES
    assert "widgets" not in executed["notebook"].metadata


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = json.loads(QUICKSTART.read_text("utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["id"] for cell in cells if cell["outputs"] or cell["execution_count"]] == []
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}

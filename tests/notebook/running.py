"""Notebooks that run cell by cell under nbclient, as papermill and a front end would run them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import wait_until_gone

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
MAX_BYTES = 200_000


def text_of(cell: Any) -> str:
    """Return everything that a cell shows, as a reader of the file sees it."""
    told = []
    for output in cell.outputs:
        data = output.get("data", {})
        told.append(output.get("text") or data.get("text/html") or data.get("text/plain") or "")
    return "\n".join(told)


class Opened:
    """A notebook with a kernel; `run` executes one of its cells, and raises where the cell does."""

    def __init__(self, notebook: Any, client: NotebookClient) -> None:
        self.notebook = notebook
        self._client = client
        self._places = {cell.id: place for place, cell in enumerate(notebook.cells)}

    def __getitem__(self, cell_id: str) -> Any:
        return self.notebook.cells[self._places[cell_id]]

    def run(self, cell_id: str) -> str:
        """Execute a cell and return what it shows."""
        self._client.execute_cell(self[cell_id], self._places[cell_id])
        return text_of(self[cell_id])

    def run_all(self) -> dict[str, str]:
        """Execute all cells of code, and return what each shows."""
        return {cell.id: self.run(cell.id) for cell in self.notebook.cells if cell.cell_type == "code"}


@contextmanager
def opened(path: Path, home: Path, variables: Mapping[str, str] | None = None) -> Iterator[Opened]:
    """Open a notebook in a fresh kernel whose home and folder is `home`, with no key but those in `variables`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OPENAI_API_KEY", raising=False)
        for name, value in {
            "DISTILNB_HOME": str(home),
            "HF_HUB_OFFLINE": "1",
            "IPYTHONDIR": str(home / "ipython"),
            **(variables or {}),
        }.items():
            patch.setenv(name, value)
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(
            notebook, timeout=90, store_widget_state=False, resources={"metadata": {"path": str(home)}}
        )
        with client.setup_kernel():
            yield Opened(notebook, client)
        assert wait_until_gone(home) == []

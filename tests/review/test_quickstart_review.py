"""What the quickstart's pipeline makes goes to a real Argilla server, and comes back as it was sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from distilnb.review.pull import pull_review
from distilnb.run import Run
from tests.notebook.shells import Notebook, interactive_shell
from tests.servers import ArgillaServer, argilla_server

ROOT = Path(__file__).parents[2]
VENV = Path(os.environ.get("DISTILNB_ARGILLA_VENV", ROOT / ".venv-argilla"))
N_ROWS = 12

pytestmark = [
    pytest.mark.argilla,
    pytest.mark.skipif(
        not (VENV / "bin" / "python").exists(), reason="no venv of argilla-server: make parts"
    ),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def server() -> Iterator[ArgillaServer]:
    pytest.importorskip("argilla", reason="the SDK of Argilla is not installed: make parts")
    with argilla_server(VENV) as running:
        yield running


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The run of the quickstart, made by its own cells, on a few rows."""
    monkeypatch.setattr("distilnb.llms.catalog._list_models", lambda url: ())
    cells = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4).cells
    with interactive_shell() as shell:
        notebook = Notebook(shell)
        for cell in cells:
            if cell.cell_type == "code":
                notebook.cell(cell.source.replace("%distil run", f"%distil run -n {N_ROWS}"))
        found = notebook.names["run"]
        assert isinstance(found, Run)
        yield found


def test_preferences_of_the_quickstart_are_read_back(run: Run, server: ArgillaServer) -> None:
    address = {"api_url": server.url, "api_key": server.api_key}
    pushed = run.review("argilla", dataset="quickstart", workspace="argilla", step="judge", **address)
    sent = run.rows("judge")
    assert (pushed.n_sent, pushed.n_unfit) == (N_ROWS, 0)
    back = {record.row_id: record for record in pull_review("quickstart", workspace="argilla", **address)}
    assert set(back) == set(sent.index)
    assert {record.status for record in back.values()} == {"pending"}
    check_content(server, sent)


def check_content(server: ArgillaServer, sent: object) -> None:
    """Compare fields and suggestions on the server with the rows."""
    import argilla as rg
    import pandas as pd

    assert isinstance(sent, pd.DataFrame)
    client = rg.Argilla(api_url=server.url, api_key=server.api_key)
    try:
        dataset = client.datasets("quickstart", workspace="argilla")
        assert dataset is not None
        for record in dataset.records(with_suggestions=True):
            row = sent.loc[str(record.id).rpartition("@")[0]]
            assert record.fields["instruction"] == row["instruction"]
            for k, generation in enumerate(row["generations"]):
                assert record.fields[f"generation_{k}"] == generation
                assert record.suggestions[f"rating_{k}"].value == row["ratings"][k]
                assert record.suggestions[f"rationale_{k}"].value == row["rationales"][k]
    finally:
        client.http_client.close()


def test_to_argilla_is_the_same_by_another_name(run: Run, server: ArgillaServer) -> None:
    pushed = run.to_argilla(
        dataset="answers", workspace="argilla", step="answer", api_url=server.url, api_key=server.api_key
    )
    assert pushed.n_sent == N_ROWS

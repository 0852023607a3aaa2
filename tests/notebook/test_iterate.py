"""What the notebook on iterating asks of its models, by the server's own count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebook.running import NOTEBOOKS, Opened, opened
from tests.servers import MockLLM, mock_llm

N_ROWS = 200
PAIRWISE = "Feedback: {words} [RESULT] A"


@pytest.fixture
def server() -> Iterator[MockLLM]:
    with mock_llm(vary=True, models=("writer", "critic"), templates={"critic": PAIRWISE}) as running:
        yield running


class Counted:
    """Cells of a notebook, and the requests that each group of them came to, by model."""

    def __init__(self, notebook: Opened, server: MockLLM) -> None:
        self.shown: dict[str, str] = {}
        self._notebook = notebook
        self._server = server
        self._cells = [cell.id for cell in notebook.notebook.cells if cell.cell_type == "code"]

    def up_to(self, last: str) -> dict[str, int]:
        """Run the cells that come next, `last` among them, and return what they asked."""
        before = self._server.stats()["by_model"]
        while self._cells:
            cell = self._cells.pop(0)
            self.shown[cell] = self._notebook.run(cell)
            if cell == last:
                break
        after = self._server.stats()["by_model"]
        asked = {model: n - before.get(model, 0) for model, n in after.items()}
        return {model: n for model, n in asked.items() if n}


@pytest.mark.timeout(300)
def test_each_turn_asks_what_it_says_and_a_second_time_nothing(server: MockLLM, tmp_path: Path) -> None:
    variables = {
        "WRITER_LLM": "openai:writer",
        "CRITIC_LLM": "openai:critic",
        "OPENAI_BASE_URL": server.base_url,
        "OPENAI_API_KEY": "of-no-worth",
    }
    path = NOTEBOOKS / "02_iterate.ipynb"
    with opened(path, tmp_path, variables) as notebook:
        first = Counted(notebook, server)
        assert first.up_to("count") == {"writer": 2 * N_ROWS}
        # Preview, diff, comparison and run of the edited prompt; the judge sees 20 pairs in both orders.
        assert first.up_to("edited-count") == {"writer": N_ROWS, "critic": 2 * 20}
        assert first.up_to("check") == {"writer": 7}  # a third wording, on the Sample alone
        assert first.up_to("back") == {}
        assert first.up_to("append") == {"writer": 2 * 10}
        assert first.up_to("") == {}
    assert "headline: asked 180, reused 20" in first.shown["edited-count"]
    assert server.stats()["duplicate_prompts_after_ok"] == 0

    with opened(path, tmp_path, variables) as notebook:
        again = Counted(notebook, server)
        assert again.up_to("") == {}
    assert again.shown["end"] == first.shown["end"]  # the version's number, the pipeline's digest
    assert again.shown["versions"].count("headline@") >= first.shown["versions"].count("headline@")

"""Every shipped notebook runs top to bottom without a key, twice in one kernel, and says what it is for."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from tests.notebook.running import MAX_BYTES, NOTEBOOKS, opened

ALL = sorted(NOTEBOOKS.glob("*.ipynb"))

# What a reader of the tour sees under its cells.
SAID = {
    "01_tour": [
        ("load", "already loaded"),
        ("demo", "preference pairs"),
        ("demo", "rehearsed"),
        ("source", "398 rows"),
        ("prompt", "reads instruction · makes generations, generation_models"),
        ("prompt", "answer@1"),
        ("render", "You are terse and exact."),
        ("judge", "<svg"),
        ("judge", "cached"),
        ("preview", "ratings"),
        ("preview", "raw reply"),
        ("mistake", "Did you mean 'chosen_rating'?"),
        ("edit", "answer@2 replaces answer@1"),
        ("diff", "<ins"),
        ("diff", "tokens in"),
        ("compare", "answer@2 × large"),
        ("compare", "win rate"),
        ("sample", "none worse, 7 the same"),
        ("estimate", "requests"),
        ("run", "attach from anywhere: %distil attach tour-"),
        ("rows", "ratings"),
        ("errors", "this reply is unreadable"),
        ("retry", "finished"),
        ("attach", "finished"),
        ("why", "prompt to rehearsal:large"),
        ("distiset", "train"),
        ("script", "to_dpo = FormatTextGenerationDPO"),
    ],
    "02_iterate": [
        ("first", "headline@1"),
        ("count", "headline: asked 0, reused 200"),  # it is the second time
        ("edit", "headline@2 replaces headline@1"),
        ("versions", "headline@2"),
        ("diff", "<del"),
        ("compare", "win rate"),
        ("use", "cached 200/200"),
        ("sample", "the same"),
        ("check", "7 changed"),
        ("append", "headline: asked 0, reused 210"),
        ("end", "version 2"),
        ("result", "rehearsed"),
    ],
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_a_notebook_runs_twice_and_stays_small(path: Path, tmp_path: Path) -> None:
    with opened(path, tmp_path) as notebook:
        notebook.run_all()
        shown = notebook.run_all()
        text = nbformat.writes(notebook.notebook)
    wanted = SAID.get(path.stem, [])
    assert [(cell, said) for cell, said in wanted if said not in shown[cell]] == []
    assert "widgets" not in notebook.notebook.metadata
    assert len(text.encode()) < MAX_BYTES


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text("utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["id"] for cell in cells if cell["outputs"] or cell["execution_count"]] == []
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}


def test_the_readme_leads_to_every_notebook() -> None:
    readme = (NOTEBOOKS.parent / "README.md").read_text("utf-8")
    assert [path.name for path in ALL if f"(notebooks/{path.name})" not in readme] == []

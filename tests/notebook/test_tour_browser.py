"""The tour in a real JupyterLab in Chromium, from its first cell to its last, as somebody new runs it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.notebook.browsing import ALL_RAN, Browser, restart, shown_by, wait_for
from tests.notebook.running import MAX_BYTES, NOTEBOOKS
from tests.notebook.seen import faint_texts

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

TOUR = NOTEBOOKS / "01_tour.ipynb"
SILENT = {"models", "use"}  # they only assign


def test_the_tour_runs_with_its_panel_alive_and_leaves_a_file_that_needs_no_widget(
    browser: Browser, tmp_path: Path
) -> None:
    shutil.copy(TOUR, tmp_path / "work")
    browser.open(TOUR.name)

    def told() -> str:
        return str(shown_by(browser, "run"))

    browser.command("notebook:run-all-cells")
    seen: list[str] = []

    def has_moved() -> bool:
        text = told()
        if "running" in text and (not seen or seen[-1] != text):
            seen.append(text)
        return len(seen) >= 3

    wait_for(has_moved, 120, lambda: f"the panel said:\n{told()}")  # while the next cell waits for the run
    assert browser.cell("run").get_by_role("button", name="Stop").count() == 1, seen
    browser.page.wait_for_function(ALL_RAN, timeout=120_000)
    wait_for(lambda: "✓ finished" in shown_by(browser, "attach"), 20, lambda: shown_by(browser, "attach"))

    assert browser.page.locator(".jp-OutputArea-output[data-mime-type*=error]").count() == 0
    cells = [cell for cell in nbformat.read(TOUR, as_version=4).cells if cell.cell_type == "code"]
    empty = {cell.id for cell in cells if not shown_by(browser, cell.id).strip()}
    assert empty == SILENT
    for name in ("light", "dark"):
        browser.theme(name)
        browser.picture(f"tour-{name}")
        assert faint_texts(browser) == []
    compare = browser.cell("compare")
    compare.get_by_role("button", name="Use answer@1 × small").click()
    wait_for(lambda: "is the step now" in shown_by(browser, "compare"), 20)
    compare.get_by_role("button", name="Done").click()  # what had buttons is static from now on
    wait_for(lambda: compare.get_by_role("button", name="Done").count() == 0, 20)
    assert "win rate" in shown_by(browser, "compare")
    browser.command("docmanager:save")
    saved = tmp_path / "work" / TOUR.name
    wait_for(lambda: "to_dpo = FormatTextGenerationDPO" in saved.read_text("utf-8"), 20)
    check_file(nbformat.read(saved, as_version=4))
    restart(browser)
    browser.open(TOUR.name)
    assert browser.page.get_by_text("model not found").count() == 0
    assert browser.complaints == []
    assert browser.asked_elsewhere == []


def check_file(notebook: Any) -> None:
    """The file is small and reads the same where nobody draws widgets."""
    assert "widgets" not in notebook.metadata
    assert len(nbformat.writes(notebook).encode()) < MAX_BYTES
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert [one for one in outputs if one.output_type == "error"] == []
    shown = [one.data for one in outputs if one.output_type in ("display_data", "execute_result")]
    assert [data for data in shown if "application/vnd.jupyter.widget-view+json" in data] == []
    assert [data for data in shown if not {"text/html", "text/plain"} & set(data)] == []

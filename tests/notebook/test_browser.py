"""The quickstart in a real JupyterLab in Chromium: it runs, its panel ends, it reads well when opened again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.notebook.browsing import ALL_RAN, QUICKSTART, Browser, restart, shown_by, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def test_the_quickstart_in_jupyterlab(browser: Browser, tmp_path: Path) -> None:
    """All cells run, the panel comes to rest, and a reopened notebook with a new kernel shows the same."""
    browser.open()
    browser.command("notebook:run-all-cells")
    browser.page.wait_for_function(ALL_RAN, timeout=120_000)
    wait_for(lambda: "✓ finished" in shown_by(browser, "run"), 20, lambda: shown_by(browser, "run"))
    assert browser.page.locator(".jp-OutputArea-output[data-mime-type*=error]").count() == 0
    browser.picture("light")

    browser.command("docmanager:save")
    saved = tmp_path / "work" / QUICKSTART.name
    wait_for(lambda: "✓ finished" in saved.read_text("utf-8"), 20)
    check_saved(nbformat.read(saved, as_version=4))

    restart(browser)
    browser.open()
    text = shown_by(browser, "run")
    assert "✓ finished" in text
    assert "attach from anywhere: %distil attach prefs-" in text
    assert browser.page.get_by_text("model not found").count() == 0
    assert browser.page.locator(".dnb svg").count() > 0

    browser.command("apputils:change-theme", "{theme: 'JupyterLab Dark'}")
    browser.page.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'", timeout=20_000)
    browser.picture("dark")
    assert browser.complaints == []
    assert browser.asked_elsewhere == []


def check_saved(notebook: Any) -> None:
    """The file holds no widget, no error, and is small."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert [output for output in outputs if output.output_type == "error"] == []
    assert [
        output for output in outputs if "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    ] == []
    assert "widgets" not in notebook.metadata
    assert len(nbformat.writes(notebook)) < 200_000

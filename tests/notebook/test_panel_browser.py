"""The live panel in a real JupyterLab: each button does what it says, read from the journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

from distilnb.run import Run, attach, runs
from tests.notebook.browsing import Browser, shown_by, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

HOSTILE = "<script>document.title='owned'</script></style>\x1b[31m\u202e<img src=x onerror=\"document.title='owned'\">"
CELLS = {
    "load": f"""%load_ext distilnb
import distilnb as dn
slow = dn.llm("rehearsal", latency_s=0.2, max_concurrency=2, failure_rate=0.3, max_retries=0)
hostile = {HOSTILE!r}
rows = [{{"text": f"{{n}} {{hostile}} 数据集"}} for n in range(400)]
p = dn.Pipeline("panel").from_dicts(rows).generate("answer", "Say {{{{ text }}}}", llm=slow)""",
    "run": "%distil run p",
}


@pytest.fixture
def panel(browser: Browser, tmp_path: Path) -> Browser:
    """A page with a panel whose run goes on for a while."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for name, text in CELLS.items():
        notebook.cells.append(nbformat.v4.new_code_cell(text, id=name))
    nbformat.write(notebook, tmp_path / "work" / "panel.ipynb")
    browser.open("panel.ipynb")
    browser.command("notebook:run-all-cells")
    wait_for(lambda: "running" in shown_by(browser, "run"), 60, lambda: shown_by(browser, "run"))
    return browser


def press(panel: Browser, label: str) -> None:
    button = panel.page.get_by_role("button", name=label, exact=True)
    wait_for(button.is_enabled, 20, lambda: f"{label} cannot be pressed: {shown_by(panel, 'run')}")
    button.click()


def happened(run: Run, kind: str) -> int:
    return [event.kind for event in run.events()].count(kind)


def test_each_button_does_what_it_says(panel: Browser) -> None:
    [run] = runs()
    press(panel, "Pause")
    wait_for(lambda: run.status().state == "paused", 20)
    wait_for(lambda: "paused" in shown_by(panel, "run"), 20)
    assert not panel.page.get_by_role("button", name="Pause", exact=True).is_enabled()
    press(panel, "Resume")
    wait_for(lambda: run.status().state == "running", 20)
    wait_for(lambda: len(run.errors()) > 0, 30)
    press(panel, "Retry failed")
    wait_for(lambda: happened(run, "retried") > 0, 20, lambda: str(run.events()[-5:]))

    panel.page.get_by_role("button", name="Newest rows").click()
    wait_for(lambda: "数据集" in shown_by(panel, "run"), 20, lambda: shown_by(panel, "run"))
    assert "<script>" in shown_by(panel, "run")
    panel.picture("panel-rows")
    panel.page.get_by_role("button", name="Errors").click()
    wait_for(lambda: "of answer:" in shown_by(panel, "run"), 20, lambda: shown_by(panel, "run"))
    panel.picture("panel-errors")
    panel.page.get_by_role("button", name="Log").click()
    wait_for(lambda: "== runner ==" in shown_by(panel, "run"), 20, lambda: shown_by(panel, "run"))

    press(panel, "Stop")
    wait_for(lambda: run.status().state == "stopped", 30)
    wait_for(lambda: "stopped" in shown_by(panel, "run"), 20)
    assert panel.page.get_by_role("button", name="Stop", exact=True).count() == 0  # static HTML from now on
    panel.picture("panel-stopped")
    assert panel.page.title() != "owned"
    assert panel.complaints == []
    assert panel.asked_elsewhere == []


def test_the_panel_is_used_by_keyboard_alone(panel: Browser) -> None:
    [run] = runs()
    panel.page.get_by_role("button", name="Pause", exact=True).focus()
    panel.page.keyboard.press("Enter")
    wait_for(lambda: run.status().state == "paused", 20)
    wait_for(panel.page.get_by_role("button", name="Resume", exact=True).is_enabled, 20)
    panel.page.get_by_role("button", name="Resume", exact=True).focus()
    panel.page.keyboard.press("Tab")
    focused: Any = panel.page.evaluate("() => document.activeElement.textContent")
    assert focused == "Stop"
    panel.page.keyboard.press("Space")
    wait_for(lambda: run.status().state == "stopped", 30)
    assert attach(run.id).status().state == "stopped"

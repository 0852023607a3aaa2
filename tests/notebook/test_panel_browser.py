"""The live panel in a real JupyterLab and Notebook 7: each button does what it says, read from the journal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from distilnb.run import Run, attach, runs
from tests.notebook.browsing import Browser, restart, shown_by, wait_for
from tests.notebook.seen import faint_texts
from tests.servers import FakeHub, fake_hub

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.parametrize("front_end", ["lab", "notebook"]),
]

HOSTILE = "<script>document.title='owned'</script></style>\x1b[31m\u202e<img src=x onerror=\"document.title='owned'\">"
CELLS = {
    "load": f"""%load_ext distilnb
import distilnb as dn
slow = dn.llm("rehearsal", latency_s=0.2, max_concurrency=2, failure_rate=0.3, max_retries=0)
hostile = {HOSTILE!r}
rows = [{{"text": f"{{n}} {{hostile}} 数据集"}} for n in range(400)]
p = dn.Pipeline("panel").from_dicts(rows).generate("answer", "Say {{{{ text }}}}", llm=slow)""",
    "run": "%distil run p",
    "again": "%load_ext distilnb\n%distil attach",
}


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub on loopback, which the kernel's environment names."""
    with fake_hub(require_token=True) as running:
        for name, value in running.env.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def panel(browser: Browser, tmp_path: Path) -> Browser:
    """A page with a panel whose run goes on for a while."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for name, text in CELLS.items():
        notebook.cells.append(nbformat.v4.new_code_cell(text, id=name))
    nbformat.write(notebook, tmp_path / "work" / "panel.ipynb")
    browser.open("panel.ipynb")
    browser.run_cell("load")
    browser.run_cell("run")
    wait_for(lambda: "running" in shown_by(browser, "run"), 60, lambda: shown_by(browser, "run"))
    return browser


def press(panel: Browser, label: str) -> None:
    button = panel.page.get_by_role("button", name=label, exact=True)
    wait_for(button.is_enabled, 20, lambda: f"{label} cannot be pressed: {shown_by(panel, 'run')}")
    button.click()


def happened(run: Run, kind: str) -> int:
    return [event.kind for event in run.events()].count(kind)


def sees(panel: Browser, text: str, cell: str = "run") -> None:
    wait_for(lambda: text in shown_by(panel, cell), 20, lambda: f"{text!r}: {shown_by(panel, cell)}")


def test_each_button_does_what_it_says(panel: Browser, hub: FakeHub) -> None:
    [run] = runs()
    press(panel, "Pause")
    wait_for(lambda: run.status().state == "paused", 20)
    sees(panel, "paused")
    assert not panel.page.get_by_role("button", name="Pause", exact=True).is_enabled()
    press(panel, "Resume")
    wait_for(lambda: run.status().state == "running", 20)
    sees(panel, "in flight")
    wait_for(lambda: len(run.errors()) > 0, 30)
    press(panel, "Retry failed")
    wait_for(lambda: happened(run, "retried") > 0, 20, lambda: str(run.events()[-5:]))

    press(panel, "Push")
    panel.page.get_by_placeholder("owner/name on the Hub").fill("tester/panel")
    press(panel, "Push now")
    sees(panel, "datasets/tester/panel")
    assert {"README.md", "pipeline.yaml"} <= hub.files("tester/panel").keys()

    panel.page.get_by_role("button", name="Newest rows").click()
    sees(panel, "数据集")
    assert "<script>" in shown_by(panel, "run")
    panel.picture("panel-rows")
    panel.page.get_by_role("button", name="Errors").click()
    sees(panel, "of answer:")
    before = happened(run, "retried")
    press(panel, "Retry these")
    wait_for(lambda: happened(run, "retried") > before, 20, lambda: shown_by(panel, "run"))
    panel.picture("panel-errors")
    panel.page.get_by_role("button", name="Log").click()
    sees(panel, "== runner ==")

    press(panel, "Stop")
    wait_for(lambda: run.status().state == "stopped", 30)
    sees(panel, "stopped")
    assert panel.page.get_by_role("button", name="Stop", exact=True).count() == 0  # static HTML from now on
    panel.picture("panel-stopped")
    assert panel.page.title() != "owned"
    assert panel.complaints == []
    assert panel.asked_elsewhere == []


def test_the_panel_is_used_by_keyboard_alone(panel: Browser) -> None:
    """Tab goes through the buttons and the panes in the order in which they are seen; Space and Enter press."""
    [run] = runs()
    panel.page.get_by_role("button", name="Pause", exact=True).focus()
    panel.page.keyboard.press("Enter")
    wait_for(lambda: run.status().state == "paused", 20)
    wait_for(panel.page.get_by_role("button", name="Resume", exact=True).is_enabled, 20)
    panel.page.get_by_role("button", name="Resume", exact=True).focus()
    walked = []
    for _ in range(7):
        panel.page.keyboard.press("Tab")
        walked.append(focused(panel))
        if walked[-1] == "Errors":
            break
    assert [name for name in walked if name not in ("Retry failed", "Push")] == [
        *("Stop", "Steps only", "Newest rows", "Errors")
    ]
    panel.page.keyboard.press("Space")
    told = ("of answer:", "No row has failed.")  # what was in flight at the pause may fail yet
    wait_for(lambda: any(text in shown_by(panel, "run") for text in told), 20, lambda: shown_by(panel, "run"))
    panel.page.get_by_role("button", name="Resume", exact=True).focus()
    panel.page.keyboard.press("Tab")
    assert focused(panel) == "Stop"
    panel.page.keyboard.press("Space")
    wait_for(lambda: run.status().state == "stopped", 30)
    assert attach(run.id).status().state == "stopped"


def focused(panel: Browser) -> Any:
    return panel.page.evaluate("() => document.activeElement.textContent")


def test_a_panel_moves_lives_through_a_reload_and_is_attached_to_after_a_restart(
    panel: Browser, tmp_path: Path
) -> None:
    [run] = runs()
    panel.run_cell("again")
    sees(panel, "The panel of this run moved to a later cell.")
    sees(panel, "running", "again")
    assert panel.page.get_by_role("button", name="Pause", exact=True).count() == 1

    panel.command("docmanager:save")
    panel.page.wait_for_timeout(500)
    panel.open("panel.ipynb")  # the kernel lives on, and with it the panel
    sees(panel, "in flight", "again")
    for theme in ("light", "dark"):
        panel.theme(theme)
        assert faint_texts(panel) == []
        panel.picture(f"panel-{panel.front_end}-{theme}")

    assert panel.complaints == []
    done = run.status().step("answer").ended
    restart(panel)
    sees(panel, f"attach from anywhere: %distil attach {run.id}", "again")
    assert run.status().state == "running"
    panel.run_cell("again")
    sees(panel, "in flight", "again")
    assert panel.page.get_by_role("button", name="Pause", exact=True).count() == 1
    wait_for(lambda: run.status().step("answer").ended > done, 20)
    press(panel, "Stop")
    wait_for(lambda: run.status().state == "stopped", 30)
    sees(panel, "stopped", "again")

    panel.command("docmanager:save")
    saved = tmp_path / "work" / "panel.ipynb"
    wait_for(lambda: "■" in saved.read_text("utf-8"), 20)
    assert "application/vnd.jupyter.widget" not in saved.read_text("utf-8")
    restart(panel)
    panel.open("panel.ipynb")
    sees(panel, "stopped", "again")
    assert panel.page.get_by_text("model not found").count() == 0
    assert panel.complaints == []
    assert panel.asked_elsewhere == []

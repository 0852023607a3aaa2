"""The widgets of ipywidgets 7.7, which Colab ships: the panel and the questions work, live and at rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from distilnb.run import runs
from tests.notebook.browsing import Browser, shown_by, wait_for
from tests.notebook.shells import Notebook, visible
from tests.notebook.test_waiting import boxes, button

ipywidgets = pytest.importorskip("ipywidgets", minversion="7.7")

pytestmark = [pytest.mark.widgets7, pytest.mark.timeout(300)]

WIDGET = "application/vnd.jupyter.widget-view+json"
SLOW = """
slow = dn.llm("rehearsal", latency_s=0.2, max_concurrency=2)
p = dn.Pipeline("panel").from_dicts(rows * 20).generate("answer", "Say {{ text }}", llm=slow)
"""


@pytest.fixture(autouse=True)
def of_version_7() -> None:
    if not ipywidgets.__version__.startswith("7."):
        pytest.skip(f"these are widgets of version {ipywidgets.__version__}")


@pytest.fixture
def kernel(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> Notebook:
    """A notebook whose front end draws widgets, as Colab's does."""
    monkeypatch.setattr("distilnb.view.display.is_kernel", lambda: True)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab-20261101")
    return notebook


def widgets_in(box: Any) -> list[Any]:
    return [box, *(one for child in getattr(box, "children", ()) for one in widgets_in(child))]


def test_the_panel_is_made_of_widgets_and_ends_as_html(kernel: Notebook) -> None:
    kernel.cell(SLOW)
    run, shown = kernel.shown("%distil run p")
    [bundle] = boxes(shown)
    live = widgets_in(ipywidgets.Widget.widgets[bundle[WIDGET]["model_id"]])
    buttons = {one.description: one for one in live if isinstance(one, ipywidgets.Button)}
    assert {"Pause", "Resume", "Stop"} <= set(buttons)
    wait_for(lambda: not buttons["Stop"].disabled, 30)
    buttons["Stop"].click()
    assert run.wait(60).state == "stopped"
    kernel.cell("1")  # after a cell the panels of ended runs rest
    assert bundle[WIDGET]["model_id"] not in ipywidgets.Widget.widgets


def test_a_question_has_its_button(kernel: Notebook) -> None:
    kernel.cell("dear = dn.llm('rehearsal', price=(20000, 20000))")
    kernel.cell("p = dn.Pipeline('p', llm=dear).from_dicts(rows).generate('answer', 'Say {{ text }}')")
    _, shown = kernel.shown("run = %distil run p")
    pressed = button(boxes(shown)[0])
    pressed.click()
    pressed.click()
    assert [run.id for run in runs()] == [kernel.names["run"].id]


def test_every_trait_that_is_set_is_one_of_version_7(kernel: Notebook) -> None:
    """A keyword that a widget does not know is only a warning, which is an error here."""
    _, shown = kernel.shown("%distil preview -n 3")
    assert "answer" in visible(shown)


def test_a_notebook_that_nobody_watches_has_html_and_no_widgets(home: Path, tmp_path: Path) -> None:
    first = "%load_ext distilnb\nimport distilnb as dn\nrows = [{'text': 'a'}]"
    cells = [first, SLOW.replace("0.2", "0.0"), "p.preview()", "run = %distil run p --wait", "run"]
    book: Any = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])  # type: ignore[no-untyped-call]
    NotebookClient(book, timeout=100, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert WIDGET not in json.dumps(book)
    assert "widgets" not in book.metadata
    assert "finished" in str(book.cells[4].outputs[0]["data"]["text/html"])
    assert len(json.dumps(book)) < 200_000


# JupyterLab 3 shows its application to nobody, whatever its server is told; this lets the test's page see it.
EXPOSE = """const parse = JSON.parse;
JSON.parse = (text, ...more) => {
    const value = parse(text, ...more);
    if (value?.exposeAppInBrowser === false) value.exposeAppInBrowser = true;
    return value;
};"""


@pytest.mark.browser
def test_in_jupyterlab_3_the_panel_is_live_and_its_button_works(browser: Browser, tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    first = "%load_ext distilnb\nimport distilnb as dn\nrows = [{'text': 'a'}]"
    dear = "%config DistilMagics.confirm_cost_over = 0\np = p.generate('answer', '{{ text }}', llm=dn.llm('rehearsal', "
    dear += "latency_s=0.2, max_concurrency=2, price=(1, 1)))"
    for name, text in {"load": first, "p": SLOW, "dear": dear, "run": "run = %distil run p"}.items():
        notebook.cells.append(nbformat.v4.new_code_cell(text, id=name))  # type: ignore[no-untyped-call]
    nbformat.write(notebook, tmp_path / "work" / "panel.ipynb")  # type: ignore[no-untyped-call]
    browser.page.add_init_script(EXPOSE)
    browser.open("panel.ipynb")
    browser.command("notebook:run-all-cells")
    page = browser.page
    page.get_by_role("button", name="Run", exact=True).last.wait_for(timeout=60_000)
    page.locator(".jp-OutputArea").get_by_role("button", name="Run", exact=True).click()
    wait_for(lambda: "running" in shown_by(browser, "run"), 60, lambda: shown_by(browser, "run"))
    browser.picture("widgets7")
    [run] = runs()
    page.locator(".jp-OutputArea").get_by_role("button", name="Stop", exact=True).click()
    assert run.wait(60).state == "stopped"
    wait_for(lambda: "stopped" in shown_by(browser, "run"), 30, lambda: shown_by(browser, "run"))
    assert page.locator(".jp-OutputArea").get_by_role("button").count() == 0
    assert browser.asked_elsewhere == []

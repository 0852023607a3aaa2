"""Voting in a real JupyterLab, by keyboard: buttons vote, names show when all rows have one, the winner is used."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import nbformat
import pytest

from tests.notebook.browsing import Browser, front_end, shown_by, wait_for  # noqa: F401 - a fixture

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

HOSTILE = "<script>document.title='owned'</script></style>\x1b[31m\u202e<img src=x onerror=\"document.title='owned'\">"
CELLS = {
    "load": f"""%load_ext distilnb
import distilnb as dn
hostile = {HOSTILE!r}
p = dn.Pipeline("voted", llm="rehearsal").from_dicts([{{"text": f"{{n}} {{hostile}} 数据集"}} for n in range(9)])
p = p.generate("answer", "Say {{{{ text }}}}")
p["answer"].version
p = p.generate("answer", "Say <script> twice {{{{ text }}}}")""",
    "diff": "%distil diff answer@1 answer@2",
    "compare": "%distil compare answer@1 answer@2 --blind -n 2",
}


def test_a_comparison_is_voted_on_by_keyboard_and_the_winner_is_used(
    browser: Browser, tmp_path: Path, home: Path
) -> None:
    notebook = nbformat.v4.new_notebook()
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for name, text in CELLS.items():
        notebook.cells.append(nbformat.v4.new_code_cell(text, id=name))
    nbformat.write(notebook, tmp_path / "work" / "voted.ipynb")
    browser.open("voted.ipynb")
    browser.command("notebook:run-all-cells")

    def told() -> str:
        return str(shown_by(browser, "compare"))

    wait_for(lambda: "0 of 2 rows have a vote" in told(), 60, told)
    assert ".ballot()" not in told()  # the buttons show it, and it is not shown again below them
    assert "<script>" in shown_by(browser, "diff")
    browser.picture("diff")
    first = browser.page.get_by_role("button", name="A is best", exact=True)
    first.focus()
    browser.page.keyboard.press("Enter")
    wait_for(lambda: "1 of 2 rows have a vote" in told(), 20, told)
    browser.picture("ballot")
    browser.page.get_by_role("button", name="A is best", exact=True).focus()
    browser.page.keyboard.press("Tab")  # the next button: B
    browser.page.keyboard.press("Space")
    wait_for(lambda: browser.page.get_by_role("button", name="Done", exact=True).count() == 1, 20, told)
    assert "answer@1 × rehearsal" in told()
    with sqlite3.connect(home / "pipelines" / "voted" / "history.sqlite") as db:
        assert db.execute("SELECT count(*) FROM votes").fetchone() == (2,)
    browser.page.get_by_role("button", name="Use answer@1 × rehearsal", exact=True).click()
    wait_for(lambda: "answer@1 × rehearsal is the step now" in told(), 20, told)
    browser.page.get_by_role("button", name="Done", exact=True).click()
    wait_for(lambda: browser.page.get_by_role("button", name="Done", exact=True).count() == 0, 20, told)
    wait_for(lambda: "2 of 2 rows" in told(), 20, told)  # static HTML from now on
    browser.picture("comparison")
    assert browser.page.title() != "owned"
    assert browser.complaints == []


DEAR = {
    "load": """%load_ext distilnb
import distilnb as dn
dear = dn.llm("rehearsal", price=(20000, 20000))
p = dn.Pipeline("dear", llm=dear).from_dicts([{"text": f"{n}"} for n in range(9)])
p = p.generate("answer", "Say {{ text }}")
p["answer"].version
p = p.generate("answer", "Say twice {{ text }}")""",
    "people": "%distil compare answer@1 answer@2 -n 1",
    "judge": "%distil compare answer@1 answer@2 -n 2 --judge dear",
    "version": "p['answer'].version",
}


def test_what_run_shows_below_a_quote_has_its_buttons_too(browser: Browser, tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook()
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for name, text in DEAR.items():
        notebook.cells.append(nbformat.v4.new_code_cell(text, id=name))
    nbformat.write(notebook, tmp_path / "work" / "dear.ipynb")
    browser.open("dear.ipynb")
    browser.run_all()

    def press(cell: str, label: str) -> None:
        button = browser.cell(cell).get_by_role("button", name=label, exact=True)
        wait_for(lambda: button.count() == 1, 20, lambda: f"{label}: {shown_by(browser, cell)}")
        button.click()

    for cell, used in (("people", "answer@1 × rehearsal"), ("judge", "answer@2 × rehearsal")):
        assert "Nothing was done yet" in shown_by(browser, cell)
        press(cell, "Run")
        if cell == "people":
            press(cell, "answer@1 × rehearsal is best")
        press(cell, f"Use {used}")
        said = f"{used} is the step now"
        wait_for(lambda cell=cell, said=said: said in shown_by(browser, cell), 20)  # type: ignore[misc]
        browser.run_cell("version")
        assert shown_by(browser, "version").split()[-1] == used[len("answer@")]
        press(cell, "Done")
    assert browser.complaints == []

"""Hostile texts in everything that shows itself, in a real JupyterLab and Notebook 7: they are read, never obeyed."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from tests.notebook.browsing import Browser, restart, shown_by, wait_for
from tests.notebook.seen import faint_texts

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.parametrize("front_end", ["lab", "notebook"]),
]

# What a page would do if it obeyed: each changes the title, asks another host, or hides what follows.
OBEYED = "document.title='owned'"
TEXTS = [
    f"<script>{OBEYED}</script>",
    f'"><img src=x onerror="{OBEYED}"><svg onload="{OBEYED}">',
    f"</style></pre></details></td></table><iframe srcdoc='<script>parent.{OBEYED}</script>'></iframe>",
    f'<a href="javascript:{OBEYED}" autofocus onfocus={OBEYED}>click</a><style>*{{display:none}}</style>',
    '<link rel=stylesheet href="http://elsewhere.invalid/a.css"><img src="http://elsewhere.invalid/b.png">',
    "\x1b[31mred\x1b[0m\x1b]8;;http://elsewhere.invalid\x07link\x07",
    "abc\u202egnp.exe\u2066x\u2069",
    "from $5 to $10 or $x^2$ \\(y^2\\) $$z$$ [a](javascript:alert(1)) <math><mtext></mtext></math> {{ 7*7 }} {% raw %}",
    "请用中文列出蜂蜡的三种用途",
]
SET_UP = f"""%load_ext distilnb
import distilnb as dn
from distilnb import Pipeline
TEXTS = {TEXTS!r}
bad = TEXTS[1]
rows = [{{"instruction": text, bad: text, "list": [text, {{text: text}}]}} for text in TEXTS]
rows.append({{"instruction": "x" * 1_000_000, bad: "数" * 300_000, "list": ["<&" * 400_000]}})
model = dn.llm("rehearsal", garbage_rate=0.4)

def echo(instruction):
    if "iframe" in instruction:
        raise ValueError(instruction)
    return {{TEXTS[0]: instruction}}

p = Pipeline(TEXTS[0], llm=model, description=bad).from_dicts(rows)
p = p.generate("answer", "Say {{{{ instruction }}}}\\n" + bad, k=2)
p = p.judge("ultrafeedback", name=TEXTS[2], after="answer")
failing = Pipeline(bad).from_dicts(rows).map(echo, name=bad)"""
CELLS = {
    "set-up": SET_UP,
    "graph": "p",
    "preview": "p.preview(10)",
    "prompt": 'p["answer"].prompt(1)',
    "failing": "failing.preview(10)",
    "estimate": "p.estimate(ask=False)",
    "run": "run = failing.start()\nrun.wait(60)\nrun",
    "errors": "run.errors()",
    "why": "run.why(0)",
    "rows": "run.rows(bad)",
    "result": "run.distiset(partial=True)",
}
BUILT = """() => [
    ...['script', 'img', 'iframe', 'link', 'a[href^=javascript]', '[onerror]', '[onload]', '[onfocus]']
        .flatMap(one => [...document.querySelectorAll(`.jp-OutputArea-output ${one}`)]),
    ...document.querySelectorAll('.dnb math, .dnb mjx-container'),
].map(one => one.outerHTML.slice(0, 200))"""


def test_hostile_texts_are_shown_and_not_obeyed(browser: Browser, tmp_path: Path) -> None:
    """Every repr of ours, fresh and in a notebook that is saved, opened again and trusted."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.cells += [nbformat.v4.new_code_cell(text, id=name) for name, text in CELLS.items()]
    nbformat.write(notebook, tmp_path / "work" / "hostile.ipynb")
    browser.open("hostile.ipynb")
    for name in CELLS:
        browser.run_cell(name)
    check(browser)

    browser.command("docmanager:save")
    saved = tmp_path / "work" / "hostile.ipynb"
    wait_for(lambda: "Distiset" in saved.read_text("utf-8"), 20)
    outputs = [output for cell in nbformat.read(saved, 4).cells for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    sizes = {cell.id: len(json.dumps(cell)) for cell in nbformat.read(saved, 4).cells}
    ours = {name: size for name, size in sizes.items() if name not in ("errors", "rows", "prompt")}
    assert {name: size for name, size in ours.items() if size > 60_000} == {}
    restart(browser)
    browser.open("hostile.ipynb")
    check(browser)
    browser.theme("dark")
    assert faint_texts(browser) == []
    browser.picture(f"hostile-{browser.front_end}")


def check(browser: Browser) -> None:
    for name in ("graph", "preview", "failing", "run"):
        assert "<script>" in shown_by(browser, name) or "<img" in shown_by(browser, name), name
    for place in browser.page.locator(".dnb summary").all():
        if place.is_visible():
            place.click()
    assert "from $5 to $10 or $x^2$" in shown_by(browser, "preview")
    assert "蜂蜡" in shown_by(browser, "preview")
    assert browser.page.evaluate(BUILT) == []
    assert browser.page.evaluate("() => getComputedStyle(document.body).display") != "none"
    assert "owned" not in browser.page.title()
    assert browser.complaints == []
    assert browser.asked_elsewhere == []

"""Where something is missing, everything works on, and one sentence says what is not as elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distilnb.pipeline import Preview
from distilnb.run import Run, attach, runs
from distilnb.view import display
from tests.notebook.shells import Notebook, visible

WIDGET = "application/vnd.jupyter.widget-view+json"
REPO = str(Path(__file__).parents[2])

TERMINAL = """
%load_ext distilnb
import distilnb as dn
rows = [{"text": "a"}, {"text": "b"}]
p = dn.Pipeline("p", llm="rehearsal").from_dicts(rows).generate("answer", "Say {{ text }}")
%distil preview -n 2
run = %distil run --wait
%distil rows answer
"""


def test_in_a_terminal_a_run_is_one_line_and_no_html(home: Path, tmp_path: Path) -> None:
    (tmp_path / "session.ipy").write_text(TERMINAL, encoding="utf-8")
    command = [sys.executable, "-m", "IPython", "--no-banner", "--colors=nocolor", "session.ipy"]
    environment = {**os.environ, "PYTHONPATH": REPO, "IPYTHONDIR": str(tmp_path / "ipython")}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    said = done.stdout + done.stderr
    [run] = runs()
    assert run.status().state == "finished", said
    lines = [line for line in said.splitlines() if run.id in line and "finished" in line]
    assert len(lines) == 1, said
    assert "<div" not in said
    assert "HTML object" not in said


def test_without_ipywidgets_a_front_end_gets_html(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "is_kernel", lambda: True)
    monkeypatch.setenv("JPY_SESSION_NAME", "a notebook")
    monkeypatch.setattr(display, "find_spec", lambda name: None)
    for module in [name for name in sys.modules if name.split(".")[0] == "ipywidgets"]:
        monkeypatch.setitem(sys.modules, module, None)  # an import of it fails
    run, shown = notebook.shown("%distil run --wait")
    assert run.status().state == "finished"
    assert not any(WIDGET in output.data for output in shown.outputs)
    assert any("text/html" in output.data for output in shown.outputs)
    notebook.cell("dear = dn.llm('rehearsal', price=(20000, 20000))")
    notebook.cell("p = dn.Pipeline('p', llm=dear).from_dicts(rows).generate('answer', 'Tell {{ text }}')")
    _, shown = notebook.shown("%distil run p")
    assert "run the line again with -y" in visible(shown)


def test_without_dot_graphs_are_drawn_and_the_greeting_says_so(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    _, shown = notebook.shown("%reload_ext distilnb\n%distil show")
    assert "dot absent (graphs are drawn without it)" in shown.stdout
    assert "<svg" in notebook.evaluate("prefs._repr_mimebundle_()['text/html']")


def test_a_running_event_loop_does_not_matter(notebook: Notebook) -> None:
    cell = """
async def work():
    view = get_ipython().run_line_magic("distil", "preview -n 2")
    run = get_ipython().run_line_magic("distil", "run --wait")
    return view, run, await run
await work()
"""
    view, run, result = notebook.cell(cell)
    assert isinstance(view, Preview)
    assert isinstance(run, Run)
    assert len(result["default"]["train"]) == 8


def test_an_interrupt_leaves_the_run_going_and_says_how_to_end_it(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    notebook.cell("slow = dn.llm('rehearsal', latency_s=30)")
    notebook.cell("slowly = dn.Pipeline('slowly', llm=slow).from_dicts(rows).generate(prompt='{{ text }}')")
    with monkeypatch.context() as patched:
        patched.setattr(Run, "wait", interrupted)
        run, shown = notebook.shown("%distil run slowly --wait")
    assert f"{run.id} goes on; end it with %distil stop {run.id}" in visible(shown)
    assert not attach(run.id).status().is_ended

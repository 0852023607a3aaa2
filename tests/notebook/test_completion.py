"""Tab offers sub-commands, options, and the pipelines, steps, columns, runs and models that exist right now."""

from __future__ import annotations

import pytest

from tests.notebook.shells import Notebook


@pytest.mark.parametrize(
    "line, offered",
    [
        ("%distil pre", ["preview"]),
        ("%distil pr", ["preview", "prompt"]),
        ("%%distil st", ["step"]),
        ("%distil preview ans", ["answer"]),
        ("%distil preview pre", ["prefs"]),
        ("%distil preview prefs.a", ["prefs.answer"]),
        ("%distil preview nosuch.a", []),
        ("%distil prompt answer ", []),
        ("%distil run --max", ["--max-cost"]),
        ("%distil run -p pr", ["prefs"]),
        ("%distil use ", ["prefs"]),
        ("%distil add fil", ["filter"]),
        ("%distil add keep te", ["text"]),
        ("%distil add keep text --af", ["--after"]),
        ("%distil add keep text --after l", ["load"]),
        ("%distil new x ro", ["rows", "rows.jsonl"]),
        ("%distil new x rows.j", ["rows.jsonl"]),
        ("%distil new x rows --llm reh", ["rehearsal"]),
        ("%distil new x rows --llm fa", ["fast"]),
        ("%%distil prompt x --li", ["--like"]),
        ("%%distil prompt ans", ["answer"]),
        ("%%distil prompt x --no-preview --after l", ["load"]),
        ("%distil nosuch ", []),
    ],
)
def test_what_may_stand_at_the_cursor(notebook: Notebook, line: str, offered: list[str]) -> None:
    notebook.cell("fast = dn.llm('rehearsal:fast')\nopen('rows.jsonl', 'w').close()")
    assert own_matches(notebook, line) == offered


def own_matches(notebook: Notebook, line: str) -> list[str]:
    """Return what our hook offers, without IPython's own files and names."""
    completer = notebook.shell.Completer
    symbol = line.rpartition(" ")[2]
    completer.line_buffer = completer.text_until_cursor = line
    return completer.dispatch_custom_completer(symbol) or []


def test_the_shell_uses_it(notebook: Notebook) -> None:
    assert "--max-cost" in notebook.completions("%distil run --max")


def test_runs_are_offered(notebook: Notebook) -> None:
    run = notebook.cell("%distil run --wait")
    assert own_matches(notebook, f"%distil attach {run.id[:7]}") == [run.id]

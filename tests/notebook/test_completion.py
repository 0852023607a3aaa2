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
        ("%distil run --max", ["--max-cost", "--max-tokens"]),
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
        ("%distil estimate pre", ["prefs"]),
        ("%distil estimate --no", ["--no-ask"]),
        ("%distil mod", ["models"]),
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


def test_models_of_a_local_server_and_of_a_provider_whose_key_is_set(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(url: str) -> tuple[str, ...]:
        calls.append(url)
        return ("llama3.2", "qwen:0.5b") if ":11434" in url else ()

    calls: list[str] = []
    line = "%distil new x rows --llm "
    monkeypatch.setattr("distilnb.llms.catalog._list_models", listed)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0123456789abcdef")
    notebook.cell("%distil models")  # which looks anew
    calls.clear()
    assert notebook.completions(line + "oll") == ["ollama:", "ollama:llama3.2", "ollama:qwen:0.5b"]
    n_calls = len(calls)
    assert ends(notebook, line + "ollama:lla") == ["ollama:llama3.2"]
    assert ends(notebook, line + "ollama:qwen:0") == ["ollama:qwen:0.5b"]
    assert "openai:gpt-4o-mini" in ends(notebook, line + "openai:gpt-4o")
    assert "openai:whisper-1" not in ends(notebook, line + "openai:")
    assert ends(notebook, line + "rehearsal,ollama:ll") == ["rehearsal,ollama:llama3.2"]
    assert len(calls) == n_calls  # what was found is believed for a minute


def ends(notebook: Notebook, line: str) -> list[str]:
    """Return the last word of the line as each completion would leave it."""
    from IPython.core.completer import provisionalcompleter

    with provisionalcompleter():
        found = list(notebook.shell.Completer.completions(line, len(line)))
    return [(line[: one.start] + one.text).split()[-1] for one in found]

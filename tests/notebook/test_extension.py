"""Loading says in one line what was found."""

from __future__ import annotations

import shutil

import pytest

from distilnb.notebook.extension import greeting
from distilnb.version import __version__
from tests.notebook.shells import Notebook


def test_it_greets_in_one_line(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    _, shown = notebook.shown("%reload_ext distilnb")
    assert shown.stdout == (
        f"distilnb {__version__} · models: rehearsal · dot absent (graphs are drawn without it)\n"
    )


def test_it_names_keys_and_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/dot")
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-that-is-not-shown")
    monkeypatch.setattr(
        "distilnb.llms.catalog._list_models", lambda url: ("a", "b", "c") if "11434" in url else ()
    )
    assert greeting() == (
        f"distilnb {__version__} · models: openai (key found), ollama (3 models) · dot found"
    )


def test_it_names_a_run_that_still_goes(notebook: Notebook) -> None:
    notebook.cell(
        "slow = dn.llm('rehearsal', latency_s=30)\nprefs = prefs.generate('answer', '{{ text }}', llm=slow)"
    )
    run = notebook.cell("%distil run")
    assert greeting().endswith(f" · run {run.id} still going, $0 so far: %distil attach {run.id}")

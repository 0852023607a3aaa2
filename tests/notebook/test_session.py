"""The current pipeline and run are those that a cell touched last, and a run is shown once a cell."""

from __future__ import annotations

import pytest
from IPython.core.interactiveshell import InteractiveShell

from tests.notebook.shells import Notebook, visible


def current(notebook: Notebook) -> str:
    return str(notebook.shell.magics_manager.registry["DistilMagics"].session.variable)


@pytest.mark.parametrize(
    "cell, variable",
    [
        ("first = prefs.keep('text')", "first"),
        ("first = prefs.keep('text')\nsecond = first.take(2)", "second"),
        ("second = prefs.take(2)\nfirst = second.keep('text')", "first"),
        ("other = prefs.keep('text'); prefs = prefs.take(1)", "prefs"),
        ("with dn.Pipeline('block') as block:\n    pass", "block"),
        ("for last in [prefs.take(1), prefs.take(2)]:\n    pass", "last"),
        ("_hidden = prefs.take(1)", "prefs"),
        ("prefs.take(1)", "prefs"),
        ("number = 3", "prefs"),
        ("%distil new fresh rows", "fresh"),
        ("other = prefs.take(1)\n%distil use prefs", "prefs"),
    ],
)
def test_the_current_pipeline_is_the_last_that_a_cell_assigned_or_a_magic_used(
    notebook: Notebook, cell: str, variable: str
) -> None:
    notebook.cell(cell)
    assert current(notebook) == variable


def test_a_pipeline_of_an_earlier_cell_stays_current_until_another_is_touched(notebook: Notebook) -> None:
    notebook.cell("other = prefs.take(1)")
    notebook.cell("%distil show prefs")
    assert current(notebook) == "prefs"
    notebook.cell("%distil show other.take")
    assert current(notebook) == "other"


def test_a_magic_finds_the_pipeline_that_its_own_cell_has_just_assigned(notebook: Notebook) -> None:
    assert notebook.cell("new = prefs.take(1)\n%distil show") is notebook.names["new"]
    assert current(notebook) == "new"
    notebook.cell("del new, prefs")
    assert notebook.cell("p = dn.Pipeline('p').from_dicts(rows)\n%distil show") is notebook.names["p"]


def test_what_a_magic_used_is_newer_than_what_its_cell_assigned_before(notebook: Notebook) -> None:
    shown = notebook.cell("a = prefs.take(1)\nb = prefs.take(2)\n%distil use a\n%distil show")
    assert shown is notebook.names["a"]
    shown = notebook.cell("c = prefs.take(3)\n%distil new fresh rows\n%distil show")
    assert shown is notebook.names["fresh"]
    shown = notebook.cell("%distil use a\nd = prefs.take(4)\n%distil show")
    assert shown is notebook.names["d"]


def test_of_several_new_pipelines_none_is_guessed(notebook: Notebook) -> None:
    said = notebook.error("a = prefs.take(1)\nb = prefs.take(2)\n%distil show")
    assert said == "UsageError: Which pipeline? There are ['a', 'b']. Choose one: %distil use NAME"


def test_when_the_current_pipeline_is_deleted_the_only_other_takes_its_place(notebook: Notebook) -> None:
    notebook.cell("p = prefs.take(1)")
    notebook.cell("del p")
    assert notebook.cell("%distil show") is notebook.names["prefs"]
    notebook.cell("other = prefs.take(2)\nlast = prefs.take(3)")
    notebook.cell("del last")
    said = notebook.error("%distil show")
    assert said == "UsageError: Which pipeline? There are ['prefs', 'other']. Choose one: %distil use NAME"


def test_a_magic_changes_the_variable_and_the_old_pipeline_stays_what_it_was(notebook: Notebook) -> None:
    notebook.cell("before = prefs")
    notebook.cell("%distil add take 2 -p prefs")
    assert notebook.evaluate("list(before.graph.steps), list(prefs.graph.steps)") == (
        ["load", "answer"],
        ["load", "answer", "take"],
    )


def test_a_name_may_be_both_a_step_and_a_pipeline_and_the_pipeline_is_meant(notebook: Notebook) -> None:
    notebook.cell("answer = prefs.take(1)")
    assert notebook.cell("%distil show answer") is notebook.names["answer"]


def test_a_run_that_a_cell_assigns_is_shown_once_and_becomes_current(notebook: Notebook) -> None:
    _, shown = notebook.shown("run = prefs.start()\nrun")
    text = visible(shown)
    assert text.count(f"run {notebook.names['run'].id} started · attach from anywhere: %distil attach") == 1
    notebook.cell("run.wait()")
    assert notebook.cell("%distil attach").id == notebook.names["run"].id


def test_a_second_start_of_an_equal_plan_shows_the_run_that_goes(notebook: Notebook) -> None:
    notebook.cell(
        "slow = dn.llm('rehearsal', latency_s=30)\nprefs = prefs.generate('answer', '{{ text }}', llm=slow)"
    )
    first = notebook.cell("%distil run")
    again, shown = notebook.shown("%distil run")
    assert again.id == first.id
    assert f"{first.id} is running already; --new starts another." in visible(shown)
    assert notebook.cell("%distil run --new").id != first.id
    _, shown = notebook.shown(f"%distil stop {first.id}")
    assert f"{first.id} is told to stop." in visible(shown)


def test_a_run_that_has_ended_shows_its_card(notebook: Notebook) -> None:
    run = notebook.cell("%distil run --wait")
    _, shown = notebook.shown(f"dn.attach({run.id!r})")
    assert f"{run.id} · ✓ finished" in visible(shown)
    assert "attach from anywhere" not in visible(shown)


def test_after_wait_the_panel_shows_the_end(notebook: Notebook) -> None:
    session = notebook.shell.magics_manager.registry["DistilMagics"].session
    notebook.cell("%distil run --wait")
    assert session.panels == {}


def test_unload_leaves_nothing_behind(notebook: Notebook) -> None:
    shell: InteractiveShell = notebook.shell
    notebook.cell("%unload_ext distilnb")
    assert notebook.error("%distil show") == "UsageError: Line magic function `%distil` not found."
    assert "show" not in notebook.completions("%distil sh")
    hooks = [hook.__qualname__ for hook in shell.events.callbacks["post_run_cell"]]
    assert [name for name in hooks if "Session" in name] == []
    run = notebook.evaluate("prefs.start()")
    run.wait()
    assert shell.display_formatter.format(run)[0]["text/plain"].startswith(run.id)


def test_loading_twice_registers_once(notebook: Notebook) -> None:
    notebook.cell("%reload_ext distilnb")
    hooks = [hook.__qualname__ for hook in notebook.shell.events.callbacks["post_run_cell"]]
    assert len([name for name in hooks if "Session" in name]) == 1
    assert current(notebook) in ("", "prefs")


@pytest.mark.parametrize("form", ["text", "html", "widgets"])
def test_a_line_that_waits_shows_its_run_once(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr("distilnb.view.display.is_kernel", lambda: form != "text")
    if form == "widgets":
        monkeypatch.setenv("JPY_SESSION_NAME", "a notebook")
    picky = "picky = dn.llm('rehearsal', failure_rate=0.5, max_retries=0)"
    notebook.cell(
        f"{picky}\npick = dn.Pipeline('pick', llm=picky).from_dicts(rows).generate('a', '{{{{ text }}}}')"
    )
    for line in ("%distil run pick --wait", "run = %distil run pick --new --wait\nrun"):
        _, shown = notebook.shown(line)
        assert shown.stdout.partition("Out[")[2].partition("\n")[2].strip() == ""  # not as a value too
        first = [one.data["text/plain"] for one in shown.outputs if not one.update]
        assert len(first) == (0 if form == "text" else 2)  # how to attach, and the panel


def test_a_run_that_has_ended_is_shown_by_the_cell_that_names_it(notebook: Notebook) -> None:
    notebook.cell("run = %distil run --wait")
    _, shown = notebook.shown("run")
    assert len(shown.outputs) == 1
    assert "finished" in shown.outputs[0].data["text/plain"]

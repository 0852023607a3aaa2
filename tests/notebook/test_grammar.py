"""The grammar: every sub-command, every option, and what each does, compared with the method behind it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from distilnb.notebook.completion import complete
from distilnb.notebook.magics import CELLS, LINES
from distilnb.notebook.options import Command
from distilnb.notebook.words import split_words
from tests.notebook.reference import PAGE, page
from tests.notebook.shells import Notebook, visible
from tests.notebook.test_completion import own_matches
from tests.notebook.test_magics import SETUP, plain

# What the design says there is: the arguments by place, then the options by their short or only name.
GRAMMAR: Mapping[str, tuple[str, str]] = {
    "new": ("NAME SOURCE", "--llm"),
    "use": ("PIPELINE|STEP@N", "-p"),
    "add": ("VERB ARG*", "--name --llm -k --into --after -p"),
    "drop": ("STEP", "-p"),
    "show": ("TARGET?", "-p"),
    "preview": ("TARGET?", "-n --param -y -p"),
    "prompt": ("STEP ROW?", "-p"),
    "rows": ("STEP|ROWS*", "--run"),
    "why": ("ROW", "--run"),
    "models": ("", ""),
    "versions": ("STEP", "-p"),
    "diff": ("STEP@N STEP@M?", "-n --no-judge -y -p"),
    "compare": ("STEP@N+", "--llm -n --judge --blind --seed -y -p"),
    "sample": ("WHAT? ROW*", "-y -p"),
    "estimate": ("PIPELINE?", "-n --param --no-ask -y -p"),
    "run": ("PIPELINE?", "-n --max-cost --max-tokens --param --new --wait -y -p"),
    "ps": ("", ""),
    "attach": ("RUN?", ""),
    "pause": ("RUN?", ""),
    "resume": ("RUN?", "--wait -y"),
    "stop": ("RUN?", "--wait"),
    "errors": ("RUN?", ""),
    "retry": ("RUN?", "--step --using --param --wait -y"),
    "save": ("FILE", "-p"),
    "open": ("FILE NAME?", "--trust-code --allow"),
    "push": ("REPO RUN?", "--private"),
    "%prompt": ("NAME", "-k --into --llm --after --like -n --no-preview -y -p"),
    "%judge": ("NAME", "--kind --mode --over --llm --after --like -n --no-preview -y -p"),
    "%step": ("NAME", "--after -n --no-preview -y -p"),
    "%yaml": ("NAME?", "--trust-code --allow"),
}
EVERY: Mapping[str, Command] = {**LINES, **{f"%{name}": command for name, command in CELLS.items()}}


def signature(command: Command) -> tuple[str, str]:
    marks = {"?": "?", "*": "*", "+": "+", None: ""}
    by_place = [one for one in command.arguments if not one.is_option]
    options = [one.names[0] for one in command.arguments if one.is_option]
    words = [one.how.get("metavar") or "|".join(one.how["choices"]) for one in by_place]
    told = [f"{word}{marks[one.how.get('nargs')]}" for word, one in zip(words, by_place, strict=True)]
    return " ".join(told), " ".join(options)


@pytest.mark.parametrize("name", GRAMMAR)
def test_the_sub_commands_take_what_the_grammar_says(name: str) -> None:
    assert signature(EVERY[name]) == GRAMMAR[name]


def test_every_sub_command_is_in_the_grammar() -> None:
    assert set(EVERY) == set(GRAMMAR)


def test_an_option_means_one_thing_everywhere() -> None:
    meant: dict[str, set[str]] = {}
    for command in EVERY.values():
        for one in command.arguments:
            if one.is_option:
                how = {key: value for key, value in one.how.items() if key != "choices"}
                meant.setdefault(" ".join(one.names), set()).add(f"{how} {one.completes}")
    assert {names for names, meanings in meant.items() if len(meanings) > 1} == set()


# --- each option does what the method's argument does -----------------------------

USE = """
sleepy = dn.llm("rehearsal", latency_s=0.01)
import json
def keep_words(text):
    return {"words": text.split()}
"""
# line → what the method gives; {run} stands for a finished run of prefs
SAME: Mapping[str, str] = {
    "new a rows --llm fast": "dn.Pipeline('a', llm=fast).from_dicts(rows)",
    "use prefs": "prefs",
    "add keep text --name words --after load -p prefs": "prefs.keep('text', name='words', after='load')",
    "add generate -k 3 --into says --llm fast": "prefs.generate(k=3, into='says', llm=fast)",
    "drop answer": "prefs.drop_step('answer')",
    "drop prefs.answer": "prefs.drop_step('answer')",
    "drop answer -p prefs": "prefs.drop_step('answer')",
    "show -p prefs": "prefs",
    "show answer": "prefs['answer']",
    "preview -n 3 -y -p prefs": "prefs.preview(3)",
    "preview answer --param answer.num_generations=1": (
        "prefs['answer'].preview(parameters={'answer.num_generations': 1})"
    ),
    "preview --param answer.num_generations=1": "prefs.preview(parameters={'answer.num_generations': 1})",
    "prompt answer 2 -p prefs": "prefs['answer'].prompt(2)",
    "rows answer 2:4 --run run": "run.rows('answer').iloc[2:4]",
    "why 2 --run run": "run.why(2)",
    "models": "dn.models()",
    "estimate -n 4 --param answer.num_generations=1 --no-ask -p prefs": (
        "prefs.estimate(4, parameters={'answer.num_generations': 1}, ask=False)"
    ),
    "estimate prefs -y": "prefs.estimate()",
    "ps": "dn.runs()",
    "attach run": "run",
    "stop run --wait": "run",
    "pause run": "run",
    "errors run": "run.errors()",
}


@pytest.mark.parametrize("line", SAME)
def test_a_line_gives_what_its_method_gives(notebook: Notebook, line: str) -> None:
    notebook.cell(SETUP + USE)
    if "run" in split_words(line):
        notebook.cell("run = prefs.start()\nrun.wait()")
    wanted = plain(notebook.evaluate(SAME[line]))
    assert plain(notebook.cell(f"%distil {line}")) == wanted


RUBRIC = "How short is the text?\n1: A page.\n5: A word."
CELL_LINES: Mapping[str, tuple[str, str]] = {
    "prompt a -k 3 --into out --llm fast --after load -n 2 -y -p prefs": (
        "Now {{ text }}",
        "prefs.generate('a', 'Now {{ text }}', k=3, into='out', llm=fast, after='load')",
    ),
    "prompt a --like answer --into out --no-preview": (
        "Now {{ text }}",
        "prefs.generate('a', 'Now {{ text }}', k=2, into='out')",
    ),
    "judge short": (RUBRIC, "prefs.judge(rubric=rubric, name='short')"),
    "judge short --llm fast --after answer --over generations -n 2 -y -p prefs": (
        RUBRIC,
        "prefs.judge(rubric=rubric, name='short', llm=fast, after='answer')",
    ),
    "judge best --kind prometheus --mode relative --no-preview": (
        RUBRIC,
        "prefs.judge('prometheus', rubric='best', rubrics={'best': rubric}, mode='relative', name='best')",
    ),
    "judge short --kind ultrafeedback --like honest": (
        RUBRIC,
        "prefs.judge(rubric=rubric, name='short', llm=fast)",
    ),
    "step words --after load -n 2 -y -p prefs": (
        "def keep_words(text):\n    return {'words': text.split()}",
        "prefs.then(keep_words, name='words', after='load')",
    ),
    "step words --no-preview": (
        "def keep_words(text):\n    return {'words': text.split()}",
        "prefs.then(keep_words, name='words')",
    ),
}


@pytest.mark.parametrize("line", CELL_LINES)
def test_a_cell_gives_what_its_method_gives(notebook: Notebook, line: str) -> None:
    notebook.cell(SETUP + USE)
    notebook.names["rubric"] = RUBRIC
    if "honest" in line:
        notebook.cell("prefs = prefs.judge(aspect='honesty', name='honest', llm=fast)")
    body, method = CELL_LINES[line]
    wanted = notebook.evaluate(method)
    name = split_words(line)[1]
    shown = plain(notebook.cell(f"%%distil {line}\n{body}"))
    assert plain(notebook.names["prefs"]) == plain(wanted)
    n = 2 if "-n 2" in line else 5
    view = wanted[name]
    assert shown == plain(view if "--no-preview" in line else view.preview(n))


def test_the_options_of_run(notebook: Notebook) -> None:
    line = "%distil run prefs -n 3 --max-cost 1 --max-tokens 100000 --param answer.num_generations=1 --wait -y -p prefs"
    run = notebook.cell(line)
    assert run.status().state == "finished"
    assert [len(replies) for replies in run.rows("answer")["generations"]] == [1, 1, 1]
    assert notebook.cell("%distil run -n 3 --new --wait").id != run.id


def test_the_options_of_retry_and_resume(notebook: Notebook) -> None:
    notebook.cell("picky = dn.llm('rehearsal', failure_rate=1.0, max_retries=0)")
    notebook.cell("picked = dn.Pipeline('picked', llm=picky).from_dicts(rows).generate('pick', '{{ text }}')")
    run = notebook.cell("%distil run picked --wait")
    assert len(run.errors()) == 8
    notebook.cell("mended = picked.generate('pick', 'Again {{ text }}', llm='rehearsal')")
    again, said = notebook.shown("%distil retry picked --step pick --using mended --wait -y")
    assert "8 rows of pick are done again" in visible(said)
    assert again.id == run.id
    assert len(run.rows("pick")) == 8
    notebook.cell("sleepy = dn.llm('rehearsal', latency_s=0.4, max_concurrency=1)")
    notebook.cell("slow = dn.Pipeline('slow', llm=sleepy).from_dicts(rows).generate(prompt='{{ text }}')")
    run = notebook.cell("%distil run slow")
    assert notebook.cell(f"%distil stop {run.id} --wait").status().state == "stopped"
    assert notebook.cell(f"%distil resume {run.id} --wait").status().state == "finished"


def test_save_and_open_bring_a_pipeline_back(notebook: Notebook) -> None:
    notebook.cell(SETUP)
    for name in ("p.yaml", "p.json"):
        path, shown = notebook.shown(f"%distil save {name} -p prefs")
        assert visible(shown).startswith(f"prefs is written to {name}.")
        assert path == Path(name)
        assert plain(notebook.cell(f"%distil open {name} again")) == plain(notebook.names["prefs"])
        assert notebook.names["again"].digest == notebook.names["prefs"].digest
    notebook.cell("del again, prefs")
    notebook.cell("%distil open p.yaml")
    assert "prefs" in notebook.names


def test_a_saved_script_builds_the_pipeline_of_the_notebook(notebook: Notebook) -> None:
    notebook.cell("LIMIT = 3")
    notebook.cell("%%distil step loud\ndef shout(text):\n    return {'loud': text[:LIMIT].upper()}")
    notebook.cell("prefs = prefs.map(lambda loud: {'n': len(loud)})")
    notebook.cell(
        "from distilnb.steps import Step\nclass Mark(Step):\n    def process(self, rows):\n        yield rows"
    )
    notebook.cell("prefs = prefs.then(Mark(name='marked'))")
    notebook.cell("%distil save prefs.py")
    code = "import prefs; print(prefs.prefs.digest)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == notebook.names["prefs"].digest, done.stderr
    assert notebook.error("%distil open prefs.py") == (
        "UsageError: %distil open: a script is run, not opened: %run prefs.py"
    )


def test_code_of_a_file_runs_on_trust_and_is_shown_first(notebook: Notebook) -> None:
    notebook.cell("%%distil step loud\ndef shout(text):\n    return {'loud': text.upper()}")
    notebook.cell("%distil save p.yaml")
    text = Path("p.yaml").read_text(encoding="utf-8")
    _, shown = notebook.shown("%distil open p.yaml trusted --trust-code")
    assert visible(shown).startswith("def shout(text):")
    assert notebook.evaluate("trusted['loud'].preview().rows[0]['loud']") == "WORD 0"
    notebook.cell(f"%%distil yaml cell\n{text}")
    assert notebook.error("cell.preview()").startswith("SpecError: The function 'shout' came from a file")
    notebook.cell(f"%%distil yaml cell --trust-code\n{text}")
    assert notebook.evaluate("cell['loud'].preview().rows[0]['loud']") == "WORD 0"


YAML = """\
distilnb: {format: 1}
pipeline:
  name: my pipeline
  steps:
    - {kind: LoadDataFromFileSystem, name: load, data_files: /etc/hostname}
  connections: []
"""


def test_yaml_is_a_cell_and_its_places_are_allowed_by_name(notebook: Notebook) -> None:
    assert "UnsafeFileError" in notebook.error(f"%%distil yaml\n{YAML}")
    made = notebook.cell(f"%%distil yaml --allow /etc\n{YAML}")
    assert notebook.names["my_pipeline"] is made
    Path("p.yaml").write_text(YAML, encoding="utf-8")
    assert notebook.cell("%distil open p.yaml other --allow /etc") == made
    assert notebook.error("%distil open p.yaml 1st --allow /etc") == (
        "UsageError: '1st' is no name for a variable."
    )


@pytest.mark.parametrize(
    "name, variable, kind",
    [("dn", "dn", "module"), ("print", "print", "builtin"), ("rows", "rows", "list")],
)
def test_a_file_takes_no_variable_of_something_else(
    notebook: Notebook, name: str, variable: str, kind: str
) -> None:
    before = notebook.names.get(variable)
    Path("p.yaml").write_text(notebook.names["prefs"].to_yaml().replace("name: prefs", f"name: {name}"))
    said = f"UsageError: The pipeline is called '{name}', and {variable} is a {kind} here. Name a variable for it."
    assert notebook.error("%distil open p.yaml") == said
    assert notebook.names.get(variable) is before
    assert notebook.cell("%distil open p.yaml opened").name == name
    assert notebook.names["opened"].name == name


def test_push_takes_the_result_to_the_hub(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: list[Any] = []

    def push(distiset: Any, repo_id: str, private: bool | None = None) -> str:
        pushed.append((len(distiset["default"]["train"]), repo_id, private))
        return f"https://hub/{repo_id}"

    monkeypatch.setattr("distilnb.export.distiset.Distiset.push_to_hub", push)
    notebook.cell("run = %distil run --wait")
    address, shown = notebook.shown("%distil push me/prefs run --private")
    assert address == "https://hub/me/prefs"
    assert f"{notebook.names['run'].id} is at https://hub/me/prefs" in visible(shown)
    notebook.cell("%distil push me/other")
    assert pushed == [(8, "me/prefs", True), (8, "me/other", None)]


# --- completion -----------------------------------------------------------------

COMPLETED: Mapping[str, tuple[str, list[str]]] = {
    "pipeline": ("-p pr", ["prefs"]),
    "step": ("ans", ["answer"]),
    "target": ("ans", ["answer"]),
    "verb": ("to_d", ["to_dpo"]),
    "column": ("top", ["topic"]),
    "model": ("rehearsal:fa", []),
    "path": ("rows.j", ["rows.jsonl"]),
    "param": ("answer.num_gen", ["answer.num_generations"]),
    "judge": ("prom", ["prometheus"]),
    "version": ("answer@", ["answer@1"]),
    "use": ("pr", ["prefs"]),
    "sample": ("ch", ["check"]),
}


@pytest.mark.parametrize("name", EVERY)
def test_every_option_is_completed_and_so_is_what_it_takes(notebook: Notebook, name: str) -> None:
    notebook.cell("run = %distil run --wait")
    Path("rows.jsonl").write_text("", encoding="utf-8")
    command = EVERY[name]
    options = {word for one in command.arguments if one.is_option for word in one.names}
    assert {*own_matches(notebook, f"{command.spoken} -")} == {*options, "-h"}
    run_id = notebook.names["run"].id
    expected = {**COMPLETED, "run": (run_id[:7], [run_id])}
    lead = ""
    for one in command.arguments:
        if one.completes and one.completes != "model":
            begun, found = expected[one.completes]
            line = f"{command.spoken} {lead}{one.names[0] + ' ' if one.is_option else ''}{begun.split()[-1]}"
            assert set(found) <= set(own_matches(notebook, line)), line
        lead += "" if one.is_option else "x "


def test_the_other_commands_complete_their_names(notebook: Notebook) -> None:
    assert own_matches(notebook, "%distil run --param answer.llm.se") == ["answer.llm.seed"]
    assert own_matches(notebook, "%%distil judge x --kind ul") == ["ultrafeedback"]
    assert own_matches(notebook, "%distil sav") == ["save"]
    assert "--trust-code" in own_matches(notebook, "%distil open x --t")


# --- settings -------------------------------------------------------------------


def test_settings_are_set_checked_and_put_back(notebook: Notebook, caplog: pytest.LogCaptureFixture) -> None:
    notebook.cell("%config DistilMagics.rows = 2")
    assert len(notebook.cell("%distil preview").rows) == 2
    assert len(notebook.cell("%distil preview -n 3").rows) == 3
    assert len(notebook.cell("%%distil prompt answer\nNow {{ text }}").rows) == 2
    for wrong in (
        "rows = 0",
        "rows = 'many'",
        "confirm_cost_over = -1",
        "short_errors = 3",
        "live_panel = 'on'",
    ):
        caplog.clear()
        notebook.cell(f"%config DistilMagics.{wrong}")
        assert "trait" in caplog.text, wrong
    assert notebook.cell("%config DistilMagics.rows") == 2
    _, shown = notebook.shown("%config DistilMagics")
    assert set(re.findall(r"^DistilMagics\.(\w+)=", shown.stdout, re.MULTILINE)) == {
        "rows",
        "confirm_cost_over",
        "short_errors",
        "live_panel",
    }
    notebook.cell("%unload_ext distilnb")
    assert not any(type(one).__name__ == "DistilMagics" for one in notebook.shell.configurables)


def test_errors_are_short_until_frames_are_asked_for(notebook: Notebook) -> None:
    assert "Traceback" not in notebook.error("prefs.keep('txet')")
    notebook.cell("%config DistilMagics.short_errors = False")
    said = notebook.error("prefs.keep('txet')")
    assert "MissingColumnError" in said
    assert "columns.py" in said
    notebook.cell("%config DistilMagics.short_errors = True")
    assert "columns.py" not in notebook.error("prefs.keep('txet')")


def test_without_the_live_panel_a_run_is_a_card(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distilnb.view.display.is_kernel", lambda: True)
    monkeypatch.setenv("JPY_SESSION_NAME", "a notebook")
    widget = "application/vnd.jupyter.widget-view+json"
    _, shown = notebook.shown("%distil run --wait")
    assert any(widget in output.data for output in shown.outputs)
    notebook.cell("%config DistilMagics.live_panel = False")
    _, shown = notebook.shown("%distil run --wait --new")
    assert not any(widget in output.data for output in shown.outputs)


def test_completion_says_nothing_where_nothing_fits(notebook: Notebook) -> None:
    class Event:
        line = symbol = "%distil nosuch "
        text_until_cursor = line

    session = notebook.shell.magics_manager.registry["DistilMagics"].session
    assert complete(session, Event()) == []


@pytest.mark.parametrize(
    "line, said",
    [
        (
            "%distil drop anser",
            "There is no step 'anser'; prefs has ['load', 'answer']. Did you mean 'answer'?",
        ),
        ("%distil drop prefs", "%distil drop: name a step; prefs has ['load', 'answer']."),
        (
            "%%distil judge x --mode relative\nr",
            "%%distil judge: --mode goes with --kind prometheus, not with ultrafeedback.",
        ),
        ("%%distil judge x --llm a,b\nr", "%%distil judge: a judge has one model; make a judge for each."),
        ("%%distil judge x --like answer\nr", "%%distil judge: --like answer: that is no judge."),
        (
            "%distil retry --using perfs",
            "There is no pipeline 'perfs'; there are ['prefs']. Did you mean 'prefs'?",
        ),
    ],
    ids=lambda value: value[:34],
)
def test_a_wrong_line_is_told_in_one_line(notebook: Notebook, line: str, said: str) -> None:
    if "retry" in line:
        notebook.cell("%distil run --wait")
    assert notebook.error(line) == f"UsageError: {said}"


def test_the_page_says_what_the_parsers_take() -> None:
    """`make pages` writes it anew."""
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text)

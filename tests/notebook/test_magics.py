"""Every sub-command does what its method does, and says in one line what is wrong with its own line."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from distilnb.errors import MissingColumnError, RunNotFoundError
from distilnb.notebook.magics import CELLS, LINES
from distilnb.pipeline import Pipeline, Preview
from distilnb.pipeline.estimate import Estimate
from distilnb.pipeline.preview import StepView
from distilnb.run import Run
from distilnb.view.models import ModelTable
from distilnb.view.story import RowStory
from tests.notebook.shells import Notebook, visible

SETUP = """
import pandas as pd
from datasets import Dataset
frame = pd.DataFrame(rows)
dataset = Dataset.from_list(rows)
pd.DataFrame(rows).to_json("rows.jsonl", orient="records", lines=True)
fast = dn.llm("rehearsal:fast")
def shout(text):
    return {"loud": text.upper()}
"""


def plain(value: Any) -> Any:
    """Return what two results must share to be called the same."""
    if isinstance(value, Pipeline):
        return value.name, value.digest, value.llm
    if isinstance(value, Preview):
        return value.steps, value.rows
    if isinstance(value, Estimate):
        return value.rows, [vars(quote) | {"seconds": None} for quote in value.steps]
    if isinstance(value, (StepView, RowStory, ModelTable)):
        return repr(value)
    if isinstance(value, pd.DataFrame):
        return list(value.index), value.to_dict("records")
    if isinstance(value, Run):
        return value.id
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize(
    "line, method",
    [
        ("new tiny rows", "dn.Pipeline('tiny').from_dicts(rows)"),
        ("new tiny rows --llm rehearsal", "dn.Pipeline('tiny', llm='rehearsal').from_dicts(rows)"),
        ("new tiny rows --llm fast", "dn.Pipeline('tiny', llm=fast).from_dicts(rows)"),
        ("new tiny frame", "dn.Pipeline('tiny').from_pandas(frame)"),
        ("new tiny dataset", "dn.Pipeline('tiny').from_dataset(dataset)"),
        ("new tiny rows.jsonl", "dn.Pipeline('tiny').from_files('rows.jsonl')"),
        ("new tiny '*.jsonl'", "dn.Pipeline('tiny').from_files('*.jsonl')"),
        ("use prefs", "prefs"),
        ("show", "prefs"),
        ("show prefs.answer", "prefs['answer']"),
        ("show answer", "prefs['answer']"),
        ("add embed text model=rehearsal", "prefs.embed('text', model='rehearsal')"),
        ("add embed text --llm rehearsal", "prefs.embed('text', model='rehearsal')"),
        ("add filter 'len(text) > 3'", "prefs.filter('len(text) > 3')"),
        ("add filter 'len(text) > 3' --name long", "prefs.filter('len(text) > 3', name='long')"),
        ("add keep text topic", "prefs.keep('text', 'topic')"),
        ("add drop topic -p prefs", "prefs.drop('topic')"),
        ("add rename text=words", "prefs.rename(text='words')"),
        ("add take 2 --after load", "prefs.take(2, after='load')"),
        ("add map shout", "prefs.map(shout)"),
        ("add then shout name=shouted", "prefs.then(shout, name='shouted')"),
        ("add expand {'generations':'reply'}", "prefs.expand({'generations': 'reply'})"),
        ("add dedup text  # once", "prefs.dedup('text')"),
        (
            "add judge ultrafeedback aspect=honesty --llm fast",
            "prefs.judge('ultrafeedback', aspect='honesty', llm=fast)",
        ),
        (
            'add generate both "Say {{ text }}" -k 2 --into says --after load --llm rehearsal:a,fast',
            "prefs.generate('both', 'Say {{ text }}', k=2, into='says', after='load', llm=['rehearsal:a', fast])",
        ),
        ("estimate", "prefs.estimate()"),
        ("estimate prefs -n 3 --no-ask", "prefs.estimate(3, ask=False)"),
        (
            "estimate --param answer.num_generations=3",
            "prefs.estimate(parameters={'answer.num_generations': 3})",
        ),
        ("models", "dn.models()"),
        ("preview", "prefs.preview()"),
        ("preview prefs -n 3", "prefs.preview(3)"),
        ("preview answer -n 3", "prefs['answer'].preview(3)"),
        ("prompt answer", "prefs['answer'].prompt()"),
        ("prompt prefs.answer 4", "prefs['answer'].prompt(4)"),
    ],
    ids=lambda value: value if "dn." not in value and "prefs" not in value else "",
)
def test_a_line_does_what_its_method_does(notebook: Notebook, line: str, method: str) -> None:
    notebook.cell(SETUP)
    wanted = plain(notebook.evaluate(method))
    assert plain(notebook.cell(f"%distil {line}")) == wanted


@pytest.mark.parametrize(
    "line, body, method",
    [
        (
            "prompt again --into more",
            "Again: {{ text }}",
            "prefs.generate('again', 'Again: {{ text }}', into='more')",
        ),
        ("prompt answer", "Now: {{ text }}", "prefs.generate('answer', 'Now: {{ text }}')"),
        (
            "prompt a -k 3 --into out --after load --llm fast -p prefs",
            "system:\nBe brief.\nuser:\n{{ text }}",
            "prefs.generate('a', 'system:\\nBe brief.\\nuser:\\n{{ text }}', k=3, into='out', after='load', llm=fast)",
        ),
        (
            "prompt a --into more --llm rehearsal:a,fast",
            "{{ text }}",
            "prefs.generate('a', '{{ text }}', llm=['rehearsal:a', fast], into='more')",
        ),
        (
            "prompt a --like answer --into b",
            "{{ topic }}",
            "prefs.generate('a', '{{ topic }}', k=2, into='b')",
        ),
        (
            "step loud",
            'def shout(text):\n    return {"loud": text.upper()}',
            "prefs.then(shout, name='loud')",
        ),
        (
            "step loud --after load",
            'import re\ndef shout(text):\n    return {"loud": text.upper()}',
            "prefs.then(shout, name='loud', after='load')",
        ),
    ],
)
def test_a_cell_does_what_its_method_does(notebook: Notebook, line: str, body: str, method: str) -> None:
    notebook.cell(SETUP)
    wanted = notebook.evaluate(method)
    name = line.split()[1]
    shown = notebook.cell(f"%%distil {line}\n{body}")
    assert plain(notebook.names["prefs"]) == plain(wanted)
    assert plain(shown) == plain(wanted[name].preview())


def test_a_cell_without_preview_asks_nothing_and_returns_the_step(notebook: Notebook) -> None:
    view, shown = notebook.shown("%%distil prompt answer --no-preview\nNow: {{ text }}")
    assert plain(view) == plain(notebook.evaluate("prefs['answer']"))
    first = shown.stdout.splitlines()[0]
    assert first == "prefs · answer replaced · reads text · makes generations, generation_models"


def test_a_cell_names_the_versions_of_its_prompt(notebook: Notebook) -> None:
    told = [
        notebook.shown(f"%%distil prompt answer{options}\n{body}")[1].stdout.split(" · ")[1]
        for body, options in [
            ("Say {{ text }} twice.", ""),
            ("Say {{ text }} thrice.", ""),
            ("Say {{ text }} thrice.", " -k 3"),
            ("Say {{ text }} twice.", " --no-preview"),
            ("Say {{ text }} not at all.", " --no-preview"),
        ]
    ]
    assert told == [
        "answer@1 replaced",  # what was there nobody had tried
        "answer@2 replaces answer@1",
        "answer@2 again",
        "answer@1 replaces answer@2",
        "answer replaced",  # it gets its number when it is tried
    ]


def test_run_waits_and_its_rows_are_the_previews(notebook: Notebook) -> None:
    """A function of a cell travels to the run's workers, and the preview's replies are the run's."""
    notebook.cell("%%distil step loud\ndef loud(text):\n    return {'loud': text.upper()}")
    previewed = notebook.cell("%distil preview -n 8").to_pandas()
    run = notebook.cell("%distil run --wait --max-cost 1 -n 8")
    assert run.status().state == "finished"
    assert plain(notebook.cell("%distil rows")) == plain(run.rows("loud"))
    made = run.rows("loud").set_index("text")
    assert (made.loc[list(previewed["text"]), "loud"] == [t.upper() for t in previewed["text"]]).all()
    assert list(made.loc[list(previewed["text"]), "generations"]) == list(previewed["generations"])
    assert sum(step.asked for step in run.status().steps) == 0


def test_rows_are_chosen_by_their_number_in_the_source_or_their_id(notebook: Notebook) -> None:
    notebook.cell(
        "odd = prefs.filter('text[-1]|int % 2 == 1').expand('generations')\nrun = %distil run odd --wait"
    )
    whole = notebook.cell("%distil rows")
    assert len(whole) == 8

    def chosen(words: str) -> list[str]:
        return list(notebook.cell(f"%distil rows {words}")["text"])

    assert chosen("5") == ["word 5"] * 2
    assert chosen("expand 3:6") == ["word 3"] * 2 + ["word 5"] * 2
    assert chosen("6:") == ["word 7"] * 2
    assert chosen(":2") == ["word 1"] * 2
    row_id = whole.index[0]
    assert chosen(row_id) == ["word 1"]
    assert chosen(row_id.rpartition(".")[0]) == ["word 1"] * 2
    assert chosen("load 4") == ["word 4"]
    assert "No finished row here is of row 4 of the source." in notebook.error("%distil rows expand 4")
    assert list(notebook.evaluate("run").rows("expand", [1, row_id])["text"]) == ["word 1"] * 2


def test_the_sub_commands_of_runs_do_what_their_methods_do(notebook: Notebook) -> None:
    run = notebook.cell("run = %distil run --wait\nrun")
    pairs = {
        "ps": notebook.evaluate("dn.runs()"),
        "attach": run,
        "attach run": run,
        "attach prefs": run,
        f"attach {run.id}": run,
        "errors": run.errors(),
        "errors prefs": run.errors(),
        "rows answer": run.rows("answer"),
        "rows prefs.answer 3:5": run.rows("answer").iloc[3:5],
        "rows load :2 --run run": run.rows("load").iloc[:2],
        "rows 4": run.rows("answer").iloc[[4]],
        "why 4": run.why(4),
        f"why {run.rows('load').index[4]} --run run": run.why(4),
        "stop": run,
        "pause": run,
    }
    assert {line: plain(notebook.cell(f"%distil {line}")) for line in pairs} == {
        line: plain(value) for line, value in pairs.items()
    }


def test_pause_and_resume_are_those_of_the_run(notebook: Notebook) -> None:
    notebook.cell("sleepy = dn.llm('rehearsal', latency_s=1.0, max_concurrency=2)")
    notebook.cell("slow = dn.Pipeline('slow', llm=sleepy).from_dicts(rows).generate(prompt='{{ text }}')")
    run = notebook.cell("%distil run slow")
    notebook.cell(f"%distil pause {run.id}")
    while "paused" not in {event.kind for event in run.events()}:
        assert not run.status().is_ended
    assert run.status().state == "paused"
    assert notebook.cell(f"%distil resume {run.id}").id == run.id
    assert run.wait(60).state == "finished"


def test_retry_does_failed_rows_again(notebook: Notebook) -> None:
    notebook.cell("picky = dn.llm('rehearsal', failure_rate=1.0, max_retries=0)")
    notebook.cell("picked = dn.Pipeline('picked', llm=picky).from_dicts(rows).generate('pick', '{{ text }}')")
    run = notebook.cell("%distil run picked --wait")
    assert len(run.errors()) == len(notebook.names["rows"])
    again, said = notebook.shown("%distil retry picked --step pick")
    assert again.id == run.id
    assert "8 rows of pick are done again" in visible(said)
    run.wait(60)
    assert {event.kind for event in run.events()} >= {"retried"}


def test_run_takes_parameters(notebook: Notebook) -> None:
    run = notebook.cell("%distil run --wait --param answer.num_generations=3 --param answer.llm.seed=7")
    assert {len(replies) for replies in run.rows("answer")["generations"]} == {3}


@pytest.mark.parametrize(
    "line, said",
    [
        ("%distil filter", "%distil: there is no 'filter'; there are " + ", ".join(LINES) + "."),
        (
            "%distil preveiw",
            "%distil: there is no 'preveiw'; there are " + ", ".join(LINES) + ". Did you mean 'preview'?",
        ),
        ("%distil step x", "'step' is a cell: %%distil step …"),
        ("%%distil run\nx", "'run' is a line: %distil run …"),
        (
            "%%distil promt x\nx",
            "%%distil: there is no 'promt'; there are prompt, judge, step, yaml. Did you mean 'prompt'?",
        ),
        ("%distil new", "%distil new: the following arguments are required: NAME, SOURCE"),
        ("%distil new 1st rows", "'1st' is no name for a variable."),
        (
            "%distil new x rows --llm a:b,c:d",
            "A pipeline has one default model; name several where they are asked.",
        ),
        ("%distil new x 'rows", "%distil: ' has no end"),
        ("%distil use perfs", "There is no pipeline 'perfs'; there are ['prefs']. Did you mean 'prefs'?"),
        ("%distil run --max-cots 3", "%distil run: unrecognised '--max-cots'. Did you mean '--max-cost'?"),
        ("%distil run --max-cost much", "%distil run: argument --max-cost: invalid float value: 'much'"),
        ("%distil run --param 3", "--param: '3' is not name=value; write it like answer.llm.temperature=0.7"),
        (
            "%distil preview anser",
            "There is no step 'anser'; prefs has ['load', 'answer']. Did you mean 'answer'?",
        ),
        (
            "%distil show prefs.laod",
            "There is no step 'laod'; prefs has ['load', 'answer']. Did you mean 'load'?",
        ),
        (
            "%distil show answer@2",
            "Step 'answer' has no version 2; there is answer@1. Did you mean 'answer@1'?",
        ),
        ("%distil prompt prefs", "%distil prompt: name a step; prefs has ['load', 'answer']."),
        ("%distil add filtr x", "%distil add: there is no verb 'filtr'. Did you mean 'filter'?"),
        (
            "%distil add take 3 nmae=x",
            "%distil add take: got an unexpected keyword argument 'nmae'. Did you mean 'name'?",
        ),
        ("%distil attach", "There is no run yet. Start one: %distil run"),
        ("%%distil step x\ny = 1", "%%distil step: the body is one `def` (imports may stand before it)."),
        ("%%distil prompt x --like load\ny", "%%distil prompt: --like load: that is no prompt step."),
        ("%%distil prompt x --kk 2\ny", "%%distil prompt: unrecognised '--kk'. Did you mean '-k'?"),
    ],
    ids=lambda value: value[:30],
)
def test_a_wrong_line_is_told_in_one_line(notebook: Notebook, line: str, said: str) -> None:
    assert notebook.error(line) == f"UsageError: {said}"


def test_an_error_of_the_library_is_told_without_its_frames(notebook: Notebook) -> None:
    said = notebook.error("%distil add filter 'texts == 1'")
    columns = ["generation_models", "generations", "instruction", "text", "topic"]
    told = f"Step 'filter' reads column 'texts'; upstream has {columns}.\nDid you mean 'text'?"
    assert said == f"{MissingColumnError.__name__}: {told}"
    said = notebook.error("%distil attach prefs-0000")
    assert said.startswith(f"{RunNotFoundError.__name__}: There is no run 'prefs-0000' in ")


def test_without_a_pipeline_the_line_says_how_to_make_one(notebook: Notebook) -> None:
    notebook.cell("del prefs")
    assert (
        notebook.error("%distil show")
        == "UsageError: There is no pipeline yet. Make one: %distil new NAME SOURCE"
    )


@pytest.mark.parametrize("command", [*LINES.values(), *CELLS.values()], ids=lambda one: one.spoken)
def test_help_is_there_for_each_and_calls_nothing(notebook: Notebook, command: Any) -> None:
    _, shown = notebook.shown(f"{command.spoken} -h" + ("\nbody" if command.is_cell else ""))
    assert shown.stdout.startswith(f"usage: {command.spoken} ")
    assert (command.call.__doc__ or "?").splitlines()[0] in shown.stdout


def test_alone_it_lists_all_sub_commands(notebook: Notebook) -> None:
    _, shown = notebook.shown("%distil")
    lines = shown.stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith(("%distil ", "%%distil "))][:-1] == [
        *LINES,
        *CELLS,
    ]


def test_braces_and_dollars_reach_the_prompt_untouched(notebook: Notebook) -> None:
    notebook.names["text"] = "a variable of the user"
    notebook.cell("%%distil prompt answer --no-preview\nUser said {{ text }} for $text {text}")
    assert notebook.evaluate("prefs['answer'].prompt(0)")[0]["content"] == "User said word 0 for $text {text}"


def test_a_semicolon_silences_the_value(notebook: Notebook) -> None:
    assert notebook.cell("%distil show;") is None


def test_a_result_is_shown_once(notebook: Notebook) -> None:
    value, shown = notebook.shown("%distil show")
    assert isinstance(value, Pipeline)
    assert visible(shown).count("load → answer") == 1


# --- versions of prompts ----------------------------------------------------------------------------------------


def test_versions_are_made_by_cells_and_named_by_lines(notebook: Notebook) -> None:
    notebook.cell("%%distil prompt answer -k 2\nSay {{ text }}")
    _, shown = notebook.shown("%%distil prompt answer -k 2\nSay {{ text }} twice.")
    assert "answer@2 after load" in visible(shown)
    versions = notebook.cell("%distil versions answer")
    assert [one.name for one in versions] == ["answer@1", "answer@2"]
    assert plain(notebook.cell("%distil versions prefs.answer")[1].prompt) == "user:\nSay {{ text }} twice."
    found = notebook.cell("%distil diff answer@1 answer@2")
    assert (found.left, found.right, found.asked) == ("answer@1", "answer@2", 0)
    assert repr(notebook.cell("%distil diff prefs.answer@1 -n 3")).startswith(
        "prefs · answer@1 → answer@2 · 3 rows"
    )
    assert notebook.cell("%distil preview answer@1").asked == 0
    assert "twice" not in repr(notebook.cell("%distil prompt answer@1"))
    before = notebook.evaluate("prefs").digest
    back = notebook.cell("%distil use answer@1")
    assert notebook.evaluate("prefs") is back
    assert back.digest != before
    assert back["answer"].version == 1


def test_versions_are_completed(notebook: Notebook) -> None:
    notebook.cell("%%distil prompt answer -k 2 --no-preview\nSay {{ text }} twice.")
    notebook.cell("prefs['answer'].version")
    assert "answer@1" in notebook.completions("%distil diff ")
    assert "answer@1" in notebook.completions("%distil prompt ")
    for line in ("%distil use answer@", "%distil use prefs.answer@", "%distil show answer@1"):
        completer = notebook.shell.Completer
        completer.line_buffer = completer.text_until_cursor = line
        # What stands behind the @ is the word, for IPython.
        assert completer.dispatch_custom_completer(line.rpartition("@")[2]) == ["1"]


@pytest.mark.parametrize(
    "line, told",
    [
        ("%distil diff answer@1 answer@9", "there is answer@1"),
        ("%distil prompt answer@9", "Did you mean 'answer@1'?"),
        ("%distil versions prefs", "name a step"),
        ("%distil versions anwser", "Did you mean 'answer'?"),
        ("%distil versions load", "asks no model"),
    ],
)
def test_wrong_versions_are_told(notebook: Notebook, line: str, told: str) -> None:
    notebook.cell("prefs['answer'].version")
    assert told in notebook.error(line)


def test_a_dear_difference_shows_its_quote_first(notebook: Notebook) -> None:
    notebook.cell("dear = dn.llm('rehearsal:dear', price=(10_000, 1_000_000))")
    notebook.cell("prefs = prefs.generate('answer', 'One {{ text }}', llm=dear)\nprefs['answer'].version")
    notebook.cell("prefs = prefs.generate('answer', 'Two {{ text }}', llm=dear)")
    waiting, shown = notebook.shown("%distil diff answer@1")
    assert "10 requests, about $" in visible(shown)
    assert "-y" in visible(shown)
    assert waiting.go().asked == 10
    assert notebook.cell("%distil diff answer@1").asked == 0
    notebook.cell("prefs = prefs.generate('answer', 'Three {{ text }}', llm=dear)")
    assert notebook.cell("%distil diff answer@1 -y").asked == 5


def test_versions_are_compared_and_the_winner_becomes_the_step(notebook: Notebook) -> None:
    notebook.cell("prefs['answer'].version\nfast = dn.llm('rehearsal:fast')")
    notebook.cell("%%distil prompt answer -k 2 --no-preview\nSay {{ text }} twice.")
    line = "%distil compare answer@1 prefs.answer@2 --llm fast,rehearsal:slow -n 4"
    found, shown = notebook.shown(line)
    assert found.candidates == [f"answer@{n} × {who}" for n in (1, 2) for who in ("fast", "slow")]
    assert found.asked == 16
    assert "0 of 4 rows have a vote" in visible(shown)
    notebook.names["found"] = found
    notebook.cell("for row in found.rows: found.vote(row, 'answer@1 × slow')\nprefs = found.use()")
    assert notebook.evaluate("prefs['answer'].version, prefs['answer'].step.llm.model") == (1, "slow")
    judged = notebook.cell("%distil compare answer@1 answer@2 --judge fast --llm rehearsal -n 3")
    assert judged.pairs[0].rate is not None
    blind = notebook.cell("%distil compare answer@1 answer@2 --blind --seed 5 -n 3")
    assert blind.is_hidden
    assert "answer@1" in notebook.completions("%distil compare answer@1 ")


def test_a_dear_comparison_shows_its_quote_first(notebook: Notebook) -> None:
    notebook.cell("dear = dn.llm('rehearsal:dear', price=(10_000, 1_000_000))\nprefs['answer'].version")
    notebook.cell("prefs = prefs.generate('answer', 'Two {{ text }}', k=2, llm=dear)")
    waiting, shown = notebook.shown("%distil compare answer@1 answer@2 -n 4")
    assert "8 requests, about $" in visible(shown)
    assert waiting.go().asked == 8
    notebook.cell("prefs = prefs.generate('answer', 'Three {{ text }}', k=2, llm=dear)")
    assert notebook.cell("%distil compare answer@1 answer@3 -n 4 -y").asked == 4
    assert "waits" in repr(notebook.cell("%distil sample check"))
    assert notebook.cell("%distil sample check -y").asked == 1


def test_the_sample_grows_and_is_checked(notebook: Notebook) -> None:
    usual = set(notebook.cell("%distil sample").to_pandas()["row"])
    more = next(number for number in range(8) if number not in usual)
    assert len(notebook.cell(f"%distil sample add {more}")) == 6
    assert len(notebook.cell("%distil preview").rows) == 6
    assert notebook.cell("%distil sample accept").worse == []
    assert notebook.cell("%distil sample check").asked == 0
    assert len(notebook.cell(f"%distil sample drop {more} -p prefs")) == 5
    assert notebook.completions("%distil sample ch") == ["check"]
    assert "name rows" in notebook.error("%distil sample add")
    assert "takes no rows" in notebook.error("%distil sample check 3")
    assert "has no row 99" in notebook.error("%distil sample add 99")

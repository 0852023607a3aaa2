"""What may cost more than `confirm_cost_over` shows its quote, and is done when its user says so, and once only."""

from __future__ import annotations

import gc
import importlib
import threading
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.utils.capture import capture_output
from ipywidgets import Button, Widget
from nbclient import NotebookClient

from distilnb.notebook.bounds import most_of_preview
from distilnb.notebook.waiting import Waiting
from distilnb.pipeline import Preview
from distilnb.pipeline.estimate import Estimate
from distilnb.run import Run, runs
from tests.notebook.shells import Notebook, visible
from tests.runs import wait_for

DEAR = """
dear = dn.llm("rehearsal", price=(20000, 20000))
prefs = dn.Pipeline("prefs", llm=dear).from_dicts(rows).generate("answer", "Say {{ text }}")
"""
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def dear(notebook: Notebook) -> Notebook:
    """A notebook with a pipeline whose model costs two cents a token."""
    notebook.cell(DEAR)
    return notebook


@pytest.fixture
def lab(dear: Notebook, monkeypatch: pytest.MonkeyPatch) -> Notebook:
    """The same in a kernel whose front end draws widgets."""
    monkeypatch.setattr("distilnb.view.display.is_kernel", lambda: True)
    monkeypatch.setenv("JPY_SESSION_NAME", "a notebook")
    return dear


def test_a_dear_run_waits_and_says_how_it_is_started(dear: Notebook) -> None:
    waiting, shown = dear.shown("run = %distil run\nrun")
    assert isinstance(waiting, Waiting)
    assert runs() == []
    text = visible(shown)
    assert (
        text.count("A run of prefs waits: it may come to a cost that is not known. Nothing was done yet; ")
        == 1
    )
    assert "run the line again with -y." in text
    assert "no reply of answer is known" in text


def test_a_quote_above_the_limit_is_told_and_one_below_starts(dear: Notebook) -> None:
    dear.cell("%distil preview -y")
    waiting, shown = dear.shown("%distil run")
    assert isinstance(waiting.quote, Estimate)
    cost = waiting.quote.cost_usd
    assert cost is not None
    assert f"it may come to up to ${cost.high:.2f}, more than $1.00" in visible(shown)
    dear.cell(f"%config DistilMagics.confirm_cost_over = {cost.high + 0.01}")
    assert isinstance(dear.cell("%distil run --wait"), Run)


@pytest.mark.parametrize("line", ["%distil run -y", "%distil run --max-cost 0.5", "%distil run -n 2 --yes"])
def test_a_word_or_a_budget_starts_it_at_once(dear: Notebook, line: str) -> None:
    assert isinstance(dear.cell(line), Run)


def test_a_limit_of_infinity_never_waits(dear: Notebook) -> None:
    dear.cell("%config DistilMagics.confirm_cost_over = float('inf')")
    dear.cell("%distil preview")
    assert isinstance(dear.cell("%distil run --wait"), Run)


def test_free_models_are_not_quoted(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    def must_not(*_: object, **__: object) -> None:
        raise AssertionError("a quote was made")

    monkeypatch.setattr("distilnb.pipeline.quick.quick_quote", must_not)
    monkeypatch.setattr("distilnb.notebook.bounds.preview_graph", must_not)
    assert isinstance(notebook.cell("%distil preview -n 8"), Preview)
    assert isinstance(notebook.cell("%distil run"), Run)


def test_the_api_never_asks(dear: Notebook) -> None:
    assert isinstance(dear.cell("prefs.preview()"), Preview)
    assert isinstance(dear.cell("prefs.start()"), Run)


def test_the_same_line_again_is_the_same_question_and_one_run(dear: Notebook) -> None:
    first = dear.cell("run = %distil run\nrun")
    assert dear.cell("run = %distil run\nrun") is first
    assert dear.cell("other = %distil run -n 3\nother") is not first
    run = first.go()
    assert first.go() is run
    assert dear.names["run"] is run
    assert isinstance(dear.names["other"], Waiting)
    assert [one.id for one in runs()] == [run.id]


def test_a_start_cell_executed_twice_is_one_run(dear: Notebook) -> None:
    dear.cell(DEAR.replace("price=", "latency_s=30, price="))
    run = dear.cell("run = %distil run -y\nrun")
    again, shown = dear.shown("run = %distil run -y\nrun")
    assert again.id == run.id
    assert f"{run.id} is running already" in visible(shown)
    assert dear.cell("%distil run").id == run.id  # without -y: what is going costs nothing more
    assert len(runs()) == 1


def boxes(shown: Any) -> list[Any]:
    return [output.data for output in shown.outputs if WIDGET in output.data]


def button(bundle: dict[str, Any]) -> Any:
    """Return the button in the widgets that a bundle shows."""
    box = _widgets()[bundle[WIDGET]["model_id"]]
    found = [one for part in box.children for one in getattr(part, "children", ()) if isinstance(one, Button)]
    assert len(found) == 1
    return found[0]


def _widgets() -> dict[str, Any]:
    """Return the live widgets by id, from where ipywidgets 7 or 8 keeps them."""
    from ipywidgets.widgets import widget as module

    kept: Any = getattr(module, "_instances", None)
    return dict(Widget.widgets if kept is None else kept)


def test_the_button_starts_one_run_however_often_it_is_pressed(lab: Notebook) -> None:
    _, shown = lab.shown("run = %distil run")
    pressed = button(boxes(shown)[0])
    assert pressed.description == "Run"
    pressed.click()
    pressed.click()
    assert len(runs()) == 1
    assert isinstance(lab.names["run"], Run)
    assert lab.names["run"].wait(60).state == "finished"


def test_a_question_that_moves_leaves_no_second_button(lab: Notebook) -> None:
    _, first = lab.shown("run = %distil run")
    old = button(boxes(first)[0])
    _, second = lab.shown("run = %distil run")
    assert button(boxes(second)[0]) is not old
    gc.collect()
    assert boxes(first)[0][WIDGET]["model_id"] not in _widgets()  # closed
    button(boxes(second)[0]).click()
    assert len(runs()) == 1


def test_what_fails_is_said_beside_the_button_which_can_be_pressed_again(
    lab: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, shown = lab.shown("%distil run")
    monkeypatch.setattr(waiting, "_do", lambda: 1 / 0)
    pressed = button(boxes(shown)[0])
    pressed.click()
    assert not pressed.disabled
    assert not waiting.is_done


def test_a_dear_preview_waits_and_what_is_in_the_cache_does_not(dear: Notebook) -> None:
    waiting, shown = dear.shown("%distil preview")
    assert isinstance(waiting, Waiting)
    assert "prefs · a preview of 5 rows · 5 requests at most" in visible(shown)
    assert isinstance(dear.cell("%distil preview -y"), Preview)
    assert isinstance(dear.cell("%distil preview"), Preview)
    assert isinstance(dear.cell("%distil preview -n 6"), Waiting)
    assert dear.cell("%distil estimate -n 2").rows == 2


def test_a_dear_prompt_cell_changes_the_pipeline_and_waits_with_its_preview(lab: Notebook) -> None:
    waiting, shown = lab.shown("%%distil prompt answer\nNow {{ text }}")
    assert isinstance(waiting, Waiting)
    assert lab.evaluate("prefs['answer'].prompt({'text': 'x'})")[0]["content"] == "Now x"
    button(boxes(shown)[0]).click()
    assert waiting.is_done
    assert isinstance(waiting.go(), Preview)
    assert isinstance(lab.cell("%%distil prompt answer\nNow {{ text }}"), Preview)


def test_a_retry_waits_too(dear: Notebook) -> None:
    dear.cell("picky = dn.llm('rehearsal', failure_rate=1.0, max_retries=0, price=(20000, 20000))")
    dear.cell("picked = dn.Pipeline('picked', llm=picky).from_dicts(rows).generate('pick', '{{ text }}')")
    run = dear.cell("%distil run picked --wait -y")
    waiting, shown = dear.shown("%distil retry")
    assert isinstance(waiting, Waiting)
    assert f"{run.id} · 8 rows to be done again · 8 requests at most" in visible(shown)
    assert dear.cell("%distil retry --wait -y").id == run.id


def a_dear_failure(lab: Notebook) -> tuple[Any, list[Any]]:
    """Start a run whose failed rows are dear to do again; return it with all widgets of its panel."""
    lab.cell("picky = dn.llm('rehearsal', failure_rate=1.0, max_retries=0, price=(20000, 20000))")
    lab.cell("slow = dn.llm('rehearsal', latency_s=30)")
    lab.cell("p = dn.Pipeline('p').from_dicts(rows).generate('pick', '{{ text }}', llm=picky)")
    run, shown = lab.shown(
        "p = p.generate('wait', '{{ topic }}', into='w', llm=slow, after='load')\n%distil run p -y"
    )
    every = _inside(_widgets()[boxes(shown)[0][WIDGET]["model_id"]])
    return run, every


def test_the_button_of_the_panel_asks_before_a_dear_retry(lab: Notebook) -> None:
    run, every = a_dear_failure(lab)
    retry = next(one for one in every if getattr(one, "description", "") == "Retry failed")
    wait_for(run, lambda run: not retry.disabled and len(run.errors()) == 8)
    retry.click()
    assert "retried" not in {event.kind for event in run.events()}
    told = [one.value for one in every if isinstance(getattr(one, "value", None), str)]
    assert any("This may come to $640.00. Press again to do it." in text for text in told), told
    retry.click()
    wait_for(run, lambda run: "retried" in {event.kind for event in run.events()})


def test_the_button_beside_the_errors_asks_before_a_dear_retry_too(lab: Notebook) -> None:
    run, every = a_dear_failure(lab)
    next(one for one in every if "Errors" in getattr(one, "options", ())).value = "Errors"
    next(one for one in every if "pick" in getattr(one, "options", ())).value = "pick"
    retry = next(one for one in every if getattr(one, "description", "") == "Retry these")
    wait_for(run, lambda run: len(run.errors()) == 8)
    retry.click()
    assert "retried" not in {event.kind for event in run.events()}
    told = [one.value for one in every if isinstance(getattr(one, "value", None), str)]
    assert any("This may come to $640.00. Press again to do it." in text for text in told), told
    retry.click()
    wait_for(run, lambda run: "retried" in {event.kind for event in run.events()})


HALF = """
slow = dn.llm('rehearsal', latency_s=0.3, max_concurrency=1, price=(20000, 20000), {more})
half = dn.Pipeline('half', llm=slow).from_dicts(rows).generate('answer', 'Say {{{{ text }}}}')
"""


def stopped_half_way(notebook: Notebook, more: str = "") -> Run:
    """Return a run that was stopped when one or two of its rows had ended."""
    notebook.cell(HALF.format(more=more))
    run = notebook.cell("%distil run half -y")
    assert isinstance(run, Run)
    wait_for(run, lambda run: run.status().step("answer").ended > 0)
    run.stop()
    assert run.wait(60).state == "stopped"
    return run


def test_the_rest_of_a_run_that_was_stopped_asks(dear: Notebook) -> None:
    run = stopped_half_way(dear)
    left = 8 - run.status().step("answer").ended
    waiting, shown = dear.shown("%distil resume")
    assert isinstance(waiting, Waiting)
    text = visible(shown)
    assert f"{left} rows left · about {left} requests, less what is cached" in text
    assert f"The rest of {run.id} waits: it may come to about ${left * 80}.00, more than $1.00" in text
    assert run.status().state == "stopped"
    assert dear.cell("%distil resume") is waiting
    assert dear.cell("%distil resume --wait -y").status().state == "finished"


def test_what_is_left_of_a_budget_bounds_the_rest(dear: Notebook) -> None:
    run = stopped_half_way(dear)
    spent = run.status().cost_usd
    assert spent is not None
    run.adjust(max_cost=spent + 0.5)
    assert isinstance(dear.cell("%distil resume --wait"), Run)
    assert run.wait(60).state == "stopped"
    run.adjust(max_cost=spent + 3)
    assert isinstance(dear.cell("%distil resume"), Waiting)


def test_the_button_of_the_panel_asks_before_a_dear_rest(lab: Notebook) -> None:
    lab.cell(HALF.format(more=""))
    run, shown = lab.shown("%distil run half -y")
    every = _inside(_widgets()[boxes(shown)[0][WIDGET]["model_id"]])
    wait_for(run, lambda run: run.status().state == "running")
    run.pause()
    resume = next(one for one in every if getattr(one, "description", "") == "Resume")
    wait_for(run, lambda _: not resume.disabled)
    resume.click()
    told = [one.value for one in every if isinstance(getattr(one, "value", None), str)]
    assert any("Press again to do it." in text for text in told), told
    assert run.status().state == "paused"
    resume.click()
    wait_for(run, lambda run: run.status().state == "running")


def test_a_retry_of_a_run_that_was_stopped_is_quoted_with_the_rest_of_it(dear: Notebook) -> None:
    run = stopped_half_way(dear, "failure_rate=1.0, max_retries=0")
    n_failed = run.status().step("answer").failed
    assert n_failed
    waiting, shown = dear.shown("%distil retry")
    assert isinstance(waiting, Waiting)
    text = visible(shown)
    assert "8 rows to be done again · 8 requests at most · then the run goes on to its end" in text
    assert "it may come to up to $640.00" in text


UNLUCKY = """
slow = dn.llm('rehearsal', latency_s={latency}, max_concurrency=1, price=(20000, 20000))
half = dn.Pipeline('half', llm=slow).from_dicts(rows).generate('answer', 'Say {{{{ text }}}}')
half = half.map(lambda text: {{'z': 1 // (text != 'word 0')}}, makes=['z'])
"""


def test_a_retry_that_asks_nothing_itself_is_quoted_with_the_rest_of_a_stopped_run(dear: Notebook) -> None:
    dear.cell(UNLUCKY.format(latency=0.3))
    run = dear.cell("%distil run half -y")
    wait_for(run, lambda run: len(run.errors()) == 1)
    run.stop()
    assert run.wait(60).state == "stopped"
    ended = run.status().step("answer").ended
    waiting, shown = dear.shown("%distil retry")
    assert isinstance(waiting, Waiting)
    text = visible(shown)
    assert f"{8 - ended} requests at most · then the run goes on to its end" in text
    assert f"it may come to up to ${(8 - ended) * 80}.00" in text
    assert run.status().step("answer").ended == ended


@pytest.mark.parametrize("verb", ["resume", "retry"])
def test_what_lets_a_run_go_on_that_is_still_stopping_asks_too(dear: Notebook, verb: str) -> None:
    dear.cell(UNLUCKY.format(latency=3))
    run = dear.cell("%distil run half -y")
    wait_for(run, lambda run: len(run.errors()) == 1 and run.status().step("answer").in_flight == 1)
    run.stop()
    wait_for(run, lambda run: run.status().state == "stopping")
    waiting, shown = dear.shown(f"%distil {verb}")
    assert isinstance(waiting, Waiting)
    assert ("then the run goes on to its end" in visible(shown)) is (verb == "retry")
    assert run.wait(60).state == "stopped"
    assert run.status().step("answer").ended < 8


@pytest.mark.parametrize("verb", ["resume", "retry"])
def test_what_may_not_go_on_is_refused_before_anybody_is_asked(dear: Notebook, verb: str) -> None:
    dear.cell("p = dn.Pipeline('p', llm=dear).from_dicts(rows)")
    dear.cell("p = p.map(lambda text: {'z': 1 // (text != 'word 0')}, makes=['z'])")
    run = dear.cell("p = p.generate('answer', 'Say {{ z }} {{ text }}')\n%distil run -y --max-cost 6 --wait")
    assert (run.status().state, len(run.errors())) == ("stopped", 1)
    told = dear.error(f"%distil {verb}")
    assert f"Run '{run.id}' was stopped by max_cost 6" in told
    run.adjust(max_cost=1000)
    assert isinstance(dear.cell(f"%distil {verb}"), Waiting)


def test_a_run_of_free_models_goes_on_without_a_word(notebook: Notebook) -> None:
    notebook.cell("free = dn.llm('rehearsal', latency_s=0.3, max_concurrency=1)")
    notebook.cell("p = dn.Pipeline('p', llm=free).from_dicts(rows).generate('answer', 'Say {{ text }}')")
    run = notebook.cell("%distil run p")
    wait_for(run, lambda run: run.status().step("answer").ended > 0)
    run.stop()
    run.wait(60)
    assert isinstance(notebook.cell("%distil resume --wait"), Run)


def _inside(widget: Any) -> list[Any]:
    return [widget, *(one for child in getattr(widget, "children", ()) for one in _inside(child))]


def test_the_bound_of_a_preview_counts_what_is_behind_an_open_row(dear: Notebook) -> None:
    dear.cell("both = prefs.judge(llm=dear)")
    pipeline = dear.names["both"]
    price = 20000 * 4000 / 1_000_000  # of a request of two thousand tokens each way
    assert most_of_preview("both", pipeline.graph, 5, enough=0) == (10 * price, 10, 5)
    dear.cell("both['answer'].preview()")
    assert most_of_preview("both", pipeline.graph, 5, enough=0) == (5 * price, 5, 5)
    dear.cell("both.preview()")
    assert most_of_preview("both", pipeline.graph, 5, enough=0) == (0, 0, 5)


def test_a_model_without_a_price_is_previewed_on_few_rows_only(notebook: Notebook) -> None:
    notebook.cell("odd = dn.llm('openai:nobody-knows', api_key='k', base_url='https://models.invalid/v1')")
    graph = notebook.evaluate(
        "dn.Pipeline('o', llm=odd).from_dicts(rows).generate(prompt='{{ text }}').graph"
    )
    assert most_of_preview("o", graph, 5, enough=1) == (None, 5, 5)
    notebook.cell("big = dn.Pipeline('o', llm=odd).from_dicts(rows)")
    notebook.cell("big.sample.add(0, 1, 2, 3, 4, 5, 6, 7)")
    assert most_of_preview("o", graph, None, enough=1) == (None, 8, 8)
    notebook.cell("big = big.generate('a', '{{ text }}')\nbig['a'].version")
    notebook.cell("big = big.generate('a', 'Now {{ text }}')\nbig['a'].version")
    for line in ("%distil preview", "%distil diff a@1 a@2", "%distil sample check"):
        assert isinstance(notebook.cell(line), Waiting), line
    notebook.cell("o = dn.Pipeline('o', llm=odd).from_dicts(rows).generate(prompt='{{ text }}')")
    assert isinstance(notebook.cell("%distil preview -n 6"), Waiting)
    assert isinstance(notebook.cell("%distil run"), Waiting)


def test_a_notebook_that_nobody_watches_goes_on(home: Path, tmp_path: Path) -> None:
    cells = [
        "%load_ext distilnb\nimport distilnb as dn\nrows = [{'text': 'a'}] * 9",
        DEAR,
        "run = %distil run --wait",
    ]
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in [*cells, "print('after')"]]
    )  # type: ignore[no-untyped-call]
    NotebookClient(book, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = str(book.cells[2].outputs)
    assert "run the line again with -y" in outputs
    assert WIDGET not in outputs
    assert book.cells[3].outputs[0]["text"] == "after\n"
    assert runs() == []


def test_lines_that_do_not_do_the_same_ask_questions_of_their_own(dear: Notebook) -> None:
    dear.cell("dear_two = dn.llm('rehearsal', model='two', price=(20000, 20000))")
    dear.cell("prefs['answer'].version\nprefs = prefs.generate('answer', 'Now {{ text }}')")
    lines = [
        "%distil preview",
        "%distil estimate",
        "%distil estimate -n 3",
        "%distil preview prefs.answer",
        "%distil diff answer@1 answer@2",
        "%distil diff answer@1 answer@2 --no-judge",
        "%distil compare answer@1 answer@2",
        "%distil compare answer@1 answer@2 --blind",
        "%distil compare answer@1 answer@2 --seed 1",
        "%distil compare answer@1 answer@2 --llm dear",
        "%distil run",
        "%distil run --new",
    ]
    asked = [dear.cell(line) for line in lines]
    assert all(isinstance(one, Waiting) for one in asked)
    assert len({id(one) for one in asked}) == len(lines)
    assert [id(dear.cell(line)) for line in lines] == [id(one) for one in asked]
    dear.cell("dear = dear_two")
    assert dear.cell("%distil compare answer@1 answer@2 --llm dear") is not asked[lines.index(lines[9])]


def test_a_retry_by_an_edited_pipeline_is_bounded_by_the_model_that_does_it(dear: Notebook) -> None:
    dear.cell("picky = dn.llm('rehearsal', failure_rate=1.0, max_retries=0)")
    dear.cell("picked = dn.Pipeline('picked', llm=picky).from_dicts(rows).generate('pick', '{{ text }}')")
    run = dear.cell("%distil run picked --wait")
    assert len(run.errors()) == 8
    dear.cell("edited = picked.generate('pick', '{{ text }}', llm=dear)")
    waiting, shown = dear.shown("%distil retry --using edited")
    assert isinstance(waiting, Waiting)
    assert "8 rows to be done again · 8 requests at most" in visible(shown)
    assert "it may come to up to $640.00" in visible(shown)
    assert isinstance(dear.cell("%distil retry --wait"), Run)  # by the run's own model, which is free


def test_what_waits_says_so_to_a_cell_that_wants_its_result(dear: Notebook) -> None:
    dear.cell("run = %distil run")
    said = dear.error("run.rows('answer')")
    assert "AttributeError: there is no 'rows' yet. A run of prefs waits: it may come to a cost" in said
    assert "run the line again with -y" in said
    assert not hasattr(dear.names["run"], "_repr_html_")


def test_what_is_expected_is_not_called_the_most(dear: Notebook) -> None:
    dear.cell("prefs['answer'].version\nprefs = prefs.generate('answer', 'Now {{ text }}')")
    _, shown = dear.shown("%distil diff answer@1 answer@2")
    assert "A diff of answer@1 and answer@2 waits: it may come to about $" in visible(shown)
    _, shown = dear.shown("%distil preview")
    assert "A preview of prefs waits: it may come to up to $" in visible(shown)


def test_long_rows_are_not_taken_for_usual_ones(notebook: Notebook) -> None:
    notebook.cell("usual = dn.llm('rehearsal', price=(10, 10))\nbooks = [{'text': 'word ' * 200_000}]")
    notebook.cell("short = dn.Pipeline('short', llm=usual).from_dicts(rows).generate(prompt='{{ text }}')")
    assert isinstance(notebook.cell("%distil preview -p short"), Preview)
    notebook.cell("long = dn.Pipeline('long', llm=usual).from_dicts(books).generate(prompt='{{ text }}')")
    waiting, shown = notebook.shown("%distil preview -p long")
    assert isinstance(waiting, Waiting)
    assert "1 request at most" in visible(shown)


@pytest.mark.parametrize("judge", ["", " --judge dear"])
def test_what_the_button_of_a_dear_comparison_shows_has_buttons_too(lab: Notebook, judge: str) -> None:
    lab.cell("prefs['answer'].version\nprefs = prefs.generate('answer', 'Now {{ text }}')")
    waiting, shown = lab.shown(f"found = %distil compare answer@1 answer@2 -n 2{judge}")
    assert isinstance(waiting or lab.names["found"], Waiting)
    with capture_output() as after:
        button(boxes(shown)[0]).click()
    names = lab.names["found"].candidates
    [box] = [_widgets()[bundle[WIDGET]["model_id"]] for bundle in boxes(after)]
    found = {one.description: one for one in _inside(box) if isinstance(one, Button)}
    if judge:
        assert list(found) == [*(f"Use {name}" for name in names), "Done"]
    else:
        assert list(found) == [*(f"{name} is best" for name in names), "Tie", "Skip", "End"]
        found[f"{names[0]} is best"].click()
        _voted(box)["Tie"].click()
    _voted(box)[f"Use {names[0]}"].click()
    assert lab.evaluate("prefs['answer'].version") == 1
    assert "2 candidates" in visible(lab.shown("found")[1])  # it was shown by the button, not by this cell
    with capture_output():
        _voted(box)["Done"].click()


def _voted(box: Any) -> dict[str, Any]:
    return {one.description: one for one in _inside(box) if isinstance(one, Button)}


def test_a_comparison_that_is_on_a_ballot_is_shown_by_a_later_cell(lab: Notebook) -> None:
    lab.cell("prefs['answer'].version\nprefs = prefs.generate('answer', 'Now {{ text }}')")
    _, shown = lab.shown("found = %distil compare answer@1 answer@2 -n 2 -y")
    assert len(shown.outputs) == 1  # the ballot
    _, later = lab.shown("found")
    assert "2 candidates" in visible(later)
    with capture_output():
        _voted(_widgets()[boxes(shown)[0][WIDGET]["model_id"]])["End"].click()


def test_a_comparison_in_text_shows_each_row_once(dear: Notebook) -> None:
    dear.cell("prefs['answer'].version\nprefs = prefs.generate('answer', 'Now {{ text }}')")
    found, shown = dear.shown("%distil compare answer@1 answer@2 -n 2 -y")
    text = visible(shown)
    assert "vote with .vote(" in text
    for row in found.rows:
        assert text.count(f"row {row} · ") == 1


MANY = "many = dn.Pipeline('many', llm=usual).from_dicts([{'text': f'word {i}'} for i in range(3000)])"


def until_sharp(waiting: Any) -> None:
    """Wait for the thread that looks at more rows."""
    for thread in threading.enumerate():
        if thread.name == "distilnb-quote":
            thread.join(60)
    assert not waiting.is_looked_into


def test_a_question_about_many_rows_is_there_at_once_and_its_quote_gets_sharper(lab: Notebook) -> None:
    lab.cell(f"usual = dear\n{MANY}.generate('answer', 'Say {{{{ text }}}}')\nmany.preview()")
    waiting, shown = lab.shown("%distil run many")
    assert isinstance(waiting, Waiting)
    assert "a quick quote: 1,000 rows stand for 3,000" in visible(shown)
    until_sharp(waiting)
    assert "a quick quote" not in repr(waiting.quote)
    assert waiting.quote["answer"].cached == 5
    box = _widgets()[boxes(shown)[0][WIDGET]["model_id"]]
    assert "2,995" in box.children[0].value
    assert "a quick quote" not in box.children[0].value
    button(boxes(shown)[0]).click()
    assert [one.status().pipeline for one in runs()] == ["many"]


def test_many_rows_that_cost_little_start_at_once(notebook: Notebook) -> None:
    notebook.cell("usual = dn.llm('rehearsal', price=(0.01, 0.01))")
    notebook.cell(f"{MANY}.generate('answer', 'Say {{{{ text }}}}')\nmany.preview()")
    assert isinstance(notebook.cell("%distil run many"), Run)


def test_a_quote_that_takes_long_is_asked_without(lab: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    quick = importlib.import_module("distilnb.pipeline.quick")
    monkeypatch.setattr(quick, "quick_quote", lambda *_: free.wait(60))
    monkeypatch.setattr("distilnb.notebook.quoting.PATIENCE_S", 0.01)
    lab.cell("prefs.preview()")
    waiting, shown = lab.shown("%distil run")
    free.set()
    assert "its quote takes longer than a cell should" in visible(shown)
    assert "it may come to a cost that is not known" in visible(shown)
    until_sharp(waiting)
    assert isinstance(waiting.quote, Estimate)
    assert "it may come to up to $" in repr(waiting)


@pytest.mark.parametrize("setting", ["", "%config DistilMagics.live_panel = False"])
def test_where_there_is_no_button_the_clock_does_not_decide_what_is_run(
    setting: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook: Notebook = request.getfixturevalue("lab" if setting else "dear")
    quick = importlib.import_module("distilnb.pipeline.quick")
    make = quick.quick_quote

    def slow(*given: Any) -> Any:
        assert not threading.Event().wait(0.3)
        return make(*given)

    monkeypatch.setattr(quick, "quick_quote", slow)
    monkeypatch.setattr("distilnb.notebook.quoting.PATIENCE_S", 0.01)
    notebook.cell(f"{setting}\nusual = dn.llm('rehearsal', price=(0.01, 0.01))")
    notebook.cell(f"{MANY}.generate('answer', 'Say {{{{ text }}}}')\nmany.preview()")
    assert isinstance(notebook.cell("%distil run many"), Run)


def test_a_slow_step_of_the_users_runs_once_at_a_time_however_often_the_cell_is_run(
    lab: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, n_now, most = threading.Event(), [0], [0]

    def held(text: str) -> dict[str, str]:
        n_now[0] += 1
        most[0] = max(most[0], n_now[0])
        free.wait(60)
        n_now[0] -= 1
        return {"z": text}

    lab.names["held"] = held
    monkeypatch.setattr("distilnb.notebook.quoting.PATIENCE_S", 0.3)
    monkeypatch.setattr("distilnb.notebook.quoting.SETTLE_S", 0.0)
    lab.cell("p = dn.Pipeline('p', llm=dear).from_dicts(rows).map(held, makes=['z'])")
    lab.cell("p = p.generate('answer', 'Say {{ z }}')")
    asked = [lab.cell("%distil run p") for _ in range(4)]
    assert len({id(one) for one in asked}) == 1
    assert isinstance(asked[0], Waiting)
    threads = [thread for thread in threading.enumerate() if thread.name == "distilnb-quote"]
    assert len(threads) == 2  # the look that took too long, and the one that waits for it
    free.set()
    until_sharp(asked[0])
    assert isinstance(asked[0].quote, Estimate)
    assert most == [1]


def test_the_question_about_many_rows_is_the_same_once_they_are_digested(lab: Notebook) -> None:
    lab.cell(f"usual = dear\n{MANY.replace('3000', '6000')}.generate('answer', 'Say {{{{ text }}}}')")
    source = lab.names["many"].graph.steps["load"].data
    source.give_way()
    waiting, first = lab.shown("%distil run many --new")
    assert isinstance(waiting, Waiting)
    old = button(boxes(first)[0])
    until_sharp(waiting)
    assert source.digest
    assert not source.is_pending
    again, second = lab.shown("%distil run many --new")
    assert again is waiting
    until_sharp(waiting)
    new = button(boxes(second)[0])
    for pressed in (old, new):
        pressed.click()
    assert len(runs()) == 1


def test_a_source_that_cannot_be_counted_asks_and_says_why(dear: Notebook) -> None:
    dear.cell(
        "@dn.step(outputs=['text'], step_type='generator')\n"
        "def source(offset: int = 0):\n"
        "    yield [{'text': 'a'}], True\n"
        "some = (dn.Pipeline('some', llm=dear) >> source()).generate('answer', 'Say {{ text }}')"
    )
    _, shown = dear.shown("%distil run some")
    assert "the rows of source cannot be counted without reading them all: %distil estimate does" in visible(
        shown
    )


def test_the_same_question_asked_again_has_the_newest_quote(dear: Notebook) -> None:
    waiting, shown = dear.shown("%distil run")
    assert "a cost that is not known" in visible(shown)
    dear.cell("%distil preview -y")
    again, shown = dear.shown("%distil run")
    assert again is waiting
    assert "it may come to up to $" in visible(shown)

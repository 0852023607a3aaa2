from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("IPython")

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from distilnb.engine.status import RunStatus
from distilnb.engine.traffic import Refusal
from distilnb.view import display, panel
from distilnb.view import live as live_module
from distilnb.view.actions import run_actions
from distilnb.view.card import status_text
from distilnb.view.glance import Pane
from distilnb.view.live import LiveWidgets
from distilnb.view.panel import MOVED, RunPanel, follow
from distilnb.view.preview import PreviewData, preview_live
from tests.view.samples import check_html, status
from tests.view.test_preview import ANSWER

WIDGET = "application/vnd.jupyter.widget-view+json"
ATTACH = "run prefs-8c1d started · attach from anywhere: %distil attach prefs-8c1d"


@pytest.fixture(autouse=True)
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[InteractiveShell]:
    """A shell in this process, as a kernel has one; static HTML is renewed faster than for people."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setattr(panel, "HTML_HZ", 200.0)
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    InteractiveShell.clear_instance()
    yield InteractiveShell.instance(config=config)
    InteractiveShell.clear_instance()


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    yield
    looking = [one for one in threading.enumerate() if one.name.startswith("distilnb panel")]
    for thread in looking:  # one that was told to end a moment ago may be at its last look
        thread.join(10)
    assert [thread.name for thread in looking if thread.is_alive()] == []


class FakeRun:
    """A run that goes on by one row each time it is looked at, to `last` and then ends."""

    def __init__(self, last: int = 5) -> None:
        self.looks, self.last, self.state = 0, last, "finished"
        self.stops = self.retries = 0
        self.pushed: list[tuple[str, bool, bool]] = []
        self.error: Exception | None = None

    def status(self) -> RunStatus:
        if self.error:
            raise self.error
        self.looks += 1
        run = status(started_at=0.0)
        answer = replace(run.steps[1], done=self.looks)
        run = replace(run, steps=(run.steps[0], answer, run.steps[2]))
        if self.looks > self.last:
            return replace(run, state=self.state, started_at=1.0, ended_at=94.0)
        return run

    def stop(self) -> None:
        self.stops += 1
        self.last, self.state = 0, "stopped"

    def pause(self) -> None:
        raise OSError("no <space>")

    def resume(self) -> None:
        raise AssertionError("it was never paused")

    def retry(self) -> None:
        self.retries += 1

    def push_to_hub(self, repo_id: str, *, private: bool, partial: bool) -> str:
        if repo_id.startswith("nobody"):
            raise OSError("there is no <nobody>")
        self.pushed.append((repo_id, private, partial))
        return f"pushed to {repo_id}"

    def panel(self, form: Any = "widgets", **options: Any) -> RunPanel:
        draw: Callable[[RunStatus], str] = lambda run: f"<svg><title>{run.state}</title></svg>"  # noqa: E731
        options = {"refresh_hz": 200.0, "attach_line": ATTACH, "actions": run_actions(self), **options}
        return RunPanel(self.status, draw, form=form, **options)


def shown(captured: Any) -> list[list[dict[str, Any]]]:
    """Return what each output showed, one after the other."""
    outputs: dict[str, list[dict[str, Any]]] = {}
    for output in captured.outputs_raw:
        outputs.setdefault(output["transient"]["display_id"], []).append(output["data"])
    return list(outputs.values())


@pytest.fixture
def captured() -> Iterator[Any]:
    with capture_output() as io_:

        class Captured:
            @property
            def outputs_raw(self) -> list[dict[str, Any]]:
                return list(io_._outputs)

        yield Captured()


def test_a_panel_ends_as_static_html_and_its_thread_with_it(captured: Any) -> None:
    run = FakeRun()
    live = run.panel()
    live.show()
    assert live.wait(10)
    attach, views = shown(captured)
    assert [view["text/plain"] for view in attach] == [ATTACH]
    assert WIDGET in views[0]
    assert "text/html" in views[0]
    assert set(views[-1]) == {"text/plain", "text/html"}
    assert len(views) == 2
    told = check_html(views[-1]["text/html"])
    assert "✓ finished" in told
    assert "1:33" in told
    assert not live.is_live
    assert run.looks == run.last + 1


def test_without_widgets_a_card_of_html_is_renewed(captured: Any) -> None:
    live = FakeRun(3).panel("html")
    live.show()
    assert live.wait(10)
    _, views = shown(captured)
    assert len(views) >= 3
    assert all(set(view) == {"text/plain", "text/html"} for view in views)
    assert "✓ finished" in views[-1]["text/html"].replace(
        '<span class="dnb-ok" aria-hidden="true">✓</span>', "✓"
    )


def test_in_text_it_says_how_the_run_stands_and_starts_no_thread(capsys: pytest.CaptureFixture[str]) -> None:
    live = FakeRun().panel("text")
    live.show()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == ATTACH
    assert said[1].startswith("prefs-8c1d · ► running")
    assert not live.is_live


def test_a_run_that_has_ended_is_shown_at_rest_at_once(captured: Any) -> None:
    live = FakeRun(0).panel()
    live.show()
    assert not live.is_live
    assert len(shown(captured)[1]) == 1


def test_closing_leaves_a_card_that_says_how_to_come_back(captured: Any) -> None:
    live = FakeRun(10**9).panel()
    live.show()
    live.close()
    live.close()
    assert live.wait(10)
    last = shown(captured)[1][-1]
    assert WIDGET not in last
    assert "No longer followed. " + ATTACH in last["text/html"]


def test_showing_a_run_again_moves_its_panel(captured: Any) -> None:
    registry: dict[str, RunPanel] = {}
    run = FakeRun(10**9)
    first, second = run.panel(registry=registry), run.panel(registry=registry)
    first.show()
    second.show()
    assert first.wait(10)
    assert registry == {"prefs-8c1d": second}
    second.show()
    second.close()
    assert second.wait(10)
    assert registry == {}
    views = [output for output in shown(captured) if len(output) > 1]
    assert [view[-1]["text/plain"] == MOVED for view in views] == [True, True, False]


def test_a_status_that_cannot_be_read_ends_the_panel_with_the_last_known(captured: Any) -> None:
    run = FakeRun(10**9)
    live = run.panel()
    live.show()
    run.error = OSError("the folder is <gone>")
    assert live.wait(10)
    last = shown(captured)[1][-1]["text/html"]
    assert "The panel cannot go on: the folder is <gone>." in check_html(last) or "&lt;gone&gt;" in last
    check_html(last)


def test_a_reading_that_fails_once_does_no_harm(captured: Any) -> None:
    run = FakeRun(10**9)
    live = run.panel()
    live.show()
    run.error = OSError("locked")
    run.error = None
    run.last = 0
    assert live.wait(10)
    assert "finished" in shown(captured)[1][-1]["text/plain"]


def button(live: RunPanel, label: str) -> Any:
    assert live._widgets is not None
    return live._widgets._buttons[label].widget


def said(live: RunPanel) -> str:
    assert live._widgets is not None
    return str(live._widgets._said.value)


def test_stop_is_pressed_once(captured: Any) -> None:
    run = FakeRun(10**9)
    live = run.panel(refresh_hz=0.001)
    live.show()
    button(live, "Stop").click()
    button(live, "Stop").click()
    assert button(live, "Stop").disabled
    assert "Stopping" in said(live)
    assert run.stops == 1
    live.close()
    assert live.wait(10)


def test_a_stopped_run_ends_its_panel(captured: Any) -> None:
    live = FakeRun(10**9).panel()
    live.show()
    button(live, "Stop").click()
    assert live.wait(10)
    assert "stopped" in shown(captured)[1][-1]["text/plain"]


def test_what_an_action_raises_is_shown_and_it_can_be_pressed_again(captured: Any) -> None:
    live = FakeRun(10**9).panel(refresh_hz=0.001)
    live.show()
    button(live, "Pause").click()
    assert not button(live, "Pause").disabled
    assert "Pause: no &lt;space&gt;" in said(live)
    live.close()
    assert live.wait(10)


def test_what_a_pane_offers_is_done_for_the_choice() -> None:
    done: list[str] = []

    def retry(step: str) -> str:
        if step == "load":
            raise OSError("<none>")
        done.append(step)
        return f"3 rows of {step} are done again"

    widgets = LiveWidgets(
        (), (Pane("Errors", lambda step: step, ("load", "all"), "Retry these", retry), Pane("Log", str))
    )
    chooser = widgets._pane
    assert chooser is not None
    assert chooser._act.layout.display == "none"
    chooser._which.value = "Errors"
    assert (chooser._act.description, chooser._act.layout.display) == ("Retry these", "")
    chooser._act.click()
    assert "3 rows of all are done again" in widgets._said.value
    chooser._choice.value = "load"
    chooser._act.click()
    assert "Retry these: &lt;none&gt;" in widgets._said.value
    chooser._which.value = "Log"
    assert chooser._act.layout.display == "none"
    chooser._act.click()
    assert done == ["all"]
    widgets.close()


def test_a_warning_holds_for_the_choice_it_was_said_of_and_as_long_as_it_is_so() -> None:
    done: list[str] = []
    cost = {"load": 2, "all": 3}
    pane = Pane("Errors", str, ("load", "all"), "Retry these", done.append, lambda step: f"${cost[step]}.")
    widgets = LiveWidgets((), (pane, Pane("Log", str)))
    chooser = widgets._pane
    assert chooser is not None
    chooser._which.value = "Errors"
    chooser._act.click()
    assert "$3. Press again to do it." in widgets._said.value
    chooser._choice.value = "load"
    chooser._choice.value = "all"
    chooser._act.click()
    chooser._which.value = "Log"
    chooser._which.value = "Errors"
    chooser._act.click()
    cost["all"] = 4000
    chooser._act.click()
    assert "$4000. Press again to do it." in widgets._said.value
    assert done == []
    chooser._act.click()
    assert done == ["all"]
    chooser._act.click()
    assert done == ["all"]
    widgets.close()


def test_a_button_warns_again_when_it_costs_more_than_was_said() -> None:
    run, cost = FakeRun(), ["$2."]
    widgets = LiveWidgets(run_actions(run, lambda: cost[0]))
    now = status(started_at=0.0, state="running")
    widgets.update(replace(now, steps=tuple(replace(one, failed=1) for one in now.steps)), "")
    retry = widgets._buttons["Retry failed"].widget
    retry.click()
    cost[0] = "$4000."
    retry.click()
    assert "$4000. Press again to do it." in widgets._said.value
    assert run.retries == 0
    retry.click()
    assert run.retries == 1
    widgets.close()


def test_only_what_fits_the_status_can_be_pressed() -> None:
    run = FakeRun()
    widgets = LiveWidgets(run_actions(run))

    def pressable(state: Any, n_failed: int = 0) -> list[str]:
        now = status(started_at=0.0, state=state)
        widgets.update(replace(now, steps=tuple(replace(one, failed=n_failed) for one in now.steps)), "")
        return [label for label, one in widgets._buttons.items() if not one.widget.disabled]

    assert pressable("running") == ["Pause", "Stop", "Push"]
    assert pressable("running", n_failed=1) == ["Pause", "Stop", "Retry failed", "Push"]
    assert pressable("paused") == ["Resume", "Stop", "Push"]
    assert pressable("stopping", n_failed=1) == ["Push"]
    assert "Stopping" in widgets._said.value
    pressable("running", n_failed=1)
    widgets._buttons["Retry failed"].widget.click()
    assert run.retries == 1
    widgets.close()


def test_the_open_pane_alone_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def pane(label: str, *choices: str) -> Pane:
        def html(choice: str) -> str:
            made.append(f"{label} {choice}".strip())
            if label == "Log":
                raise OSError("<gone>")
            return f"<p>{label} of {choice}</p>"

        return Pane(label, html, choices)

    monkeypatch.setattr(live_module, "PANE_S", 0.0)
    widgets = LiveWidgets((), (pane("Rows", "load", "answer"), pane("Errors"), pane("Log")))
    chooser = widgets._pane
    assert chooser is not None
    widgets.update(status(started_at=0.0), "")
    assert made == []
    chooser._which.value = "Rows"
    widgets.update(status(started_at=0.0), "")
    assert "<p>Rows of answer</p>" in chooser._shown.value  # the last step is the one that is looked for
    chooser._choice.value = "load"
    widgets.update(status(started_at=0.0), "")
    chooser._which.value = "Errors"
    assert chooser._choice.layout.display == "none"
    widgets.update(status(started_at=0.0), "")
    assert made == ["Rows answer", "Rows load", "Errors"]
    chooser._which.value = "Log"
    widgets.update(status(started_at=0.0), "")
    assert "Cannot be shown now: &lt;gone&gt;" in chooser._shown.value
    widgets.close()


def test_a_look_at_the_run_sends_one_trait_and_only_when_it_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "SPOKEN_S", 0.0)
    widgets = LiveWidgets(run_actions(FakeRun()))
    run = status(started_at=0.0)
    widgets.update(run, "<svg></svg>")
    changed: list[str] = []
    for number, widget in enumerate(live_module._with_children(widgets._box)):
        if widget not in (widgets._figures, widgets._spoken):
            widget.observe(lambda change, number=number: changed.append(f"{number} {change['name']}"))
    widgets._figures.observe(lambda _: changed.append("figures"), names="value")
    widgets._spoken.observe(lambda _: changed.append("spoken"), names="value")
    widgets.update(run, "<svg></svg>")
    assert changed == []
    steps = (run.steps[0], replace(run.steps[1], done=307), run.steps[2])
    widgets.update(replace(run, steps=steps), "<svg></svg>")
    assert changed == ["figures"]
    assert "310/412" in check_html(widgets._figures.value)
    steps = (*run.steps[:2], replace(run.steps[2], done=318))
    widgets.update(replace(run, steps=steps), "<svg></svg>")
    assert changed == ["figures", "figures", "spoken"]  # a screen reader hears of the step that ends last
    assert "judge 321/1000" in check_html(widgets._spoken.value)
    widgets.close()


def test_requests_in_flight_and_refusals_are_told() -> None:
    run = status(started_at=0.0, refusals=(Refusal("openai:<b>", 12, 6),))
    run = replace(run, steps=(run.steps[0], replace(run.steps[1], in_flight=64), run.steps[2]))
    widgets = LiveWidgets(())
    widgets.update(run, "")
    told = check_html(widgets._figures.value)
    assert "64 in flight" in told
    assert "openai:<b> asked for fewer requests 12 times (HTTP 429); at most 6 at once now" in told
    assert "HTTP 429); at most 6 at once now" in status_text(run)
    assert "at once now" not in status_text(replace(run, state="finished", ended_at=9.0))
    widgets.close()


def test_push_asks_where_to_and_says_what_came_of_it() -> None:
    run = FakeRun()
    widgets = LiveWidgets(run_actions(run))
    push = widgets._buttons["Push"]
    now = status(started_at=0.0)
    widgets.update(replace(now, steps=(*now.steps[:2], replace(now.steps[2], made=0))), "")
    assert push.widget.disabled
    widgets.update(now, "")
    assert push.question.layout.display == "none"
    push.widget.click()
    assert push.question.layout.display == ""
    push._go.click()
    assert run.pushed == []
    for answer in ("nobody/prefs", "me/prefs"):
        push._answer.value = answer
        push._go.click()
        push._thread.join(10)
        assert not push._go.disabled
        if answer == "nobody/prefs":
            assert "Push: there is no &lt;nobody&gt;" in widgets._said.value
            assert push.question.layout.display == ""
    assert run.pushed == [("me/prefs", True, True)]
    assert "Push: pushed to me/prefs" in widgets._said.value
    assert push.question.layout.display == "none"
    widgets.close()


def test_the_form_is_that_of_the_front_end(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*display.WIDGET_FRONT_ENDS, "DISTILNB_TEXT"):
        monkeypatch.delenv(name, raising=False)
    assert display.best_form() == "html"
    monkeypatch.setenv("JPY_SESSION_NAME", "/nb.ipynb")
    assert display.best_form() == "widgets"
    monkeypatch.setenv("DISTILNB_TEXT", "1")
    assert display.best_form() == "text"
    monkeypatch.delenv("DISTILNB_TEXT")
    InteractiveShell.clear_instance()
    assert display.best_form() == "text"


def test_a_terminal_has_one_line_that_renews_itself() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    run = FakeRun(2)
    assert follow(run.status, stream, refresh_hz=1000).state == "finished"
    lines = stream.getvalue().split("\r\x1b[K")
    assert lines[0] == ""
    assert lines[1].startswith("judge 320/1000 [32%]")
    assert lines[-1] == "prefs-8c1d finished after 1:33 $0.41 err 4\n"


def test_a_log_file_has_a_line_now_and_then() -> None:
    stream = io.StringIO()
    follow(FakeRun(50).status, stream, refresh_hz=1000)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[-1].startswith("prefs-8c1d finished")


@pytest.mark.parametrize("keeps, last", [(True, "prefs · preview of 2 rows"), (False, "")])
def test_a_preview_fills_one_output_and_is_kept_or_emptied(captured: Any, keeps: bool, last: str) -> None:
    with preview_live(refresh_hz=0.001, keeps=keeps) as update:
        for waiting in (2, 1, 0):
            words = "loading transformers:tiny" if waiting else ""
            update(PreviewData("prefs", (replace(ANSWER, waiting=waiting, words=words),), 2))
    (views,) = shown(captured)
    assert len(views) == 2
    assert "2 rows on the way · loading transformers:tiny" in views[0]["text/plain"]
    assert views[-1]["text/plain"].startswith(last)
    assert "on the way" not in views[-1]["text/plain"]


def test_a_preview_that_never_came_shows_nothing(captured: Any) -> None:
    with preview_live():
        pass
    assert shown(captured) == []

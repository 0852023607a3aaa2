"""The panel of a run while it goes, in core widgets: those that ipywidgets 7.7 and 8 both have."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from distilnb.engine.status import RunStatus
from distilnb.optional import optional
from distilnb.view.actions import Action
from distilnb.view.card import figures_html, status_line
from distilnb.view.glance import Pane
from distilnb.view.html import NO_MATH, STYLE, escape, muted, ours

PANE_S = 1.0  # between two makings of the open pane: it reads files
SPOKEN_S = 5.0  # between two sentences for a screen reader
NO_PANE = "Steps only"
_AS_WIDE_AS_ITS_WORDS = {"width": "auto", "flex": "0 0 auto"}


class LiveWidgets:
    """Buttons, all figures, and one pane that can be chosen.

    Every figure, the graph among them, is in one trait of one widget: a look at the run sends one message at most, and
    nothing when nothing has changed. What a person works with, buttons and pane, are widgets of their own.
    """

    def __init__(self, actions: Sequence[Action], panes: Sequence[Pane] = ()) -> None:
        with optional("lab", what="The live panel"):
            import ipywidgets

        self._kit: Any = ipywidgets
        self._style = self._html()
        self._style.value = STYLE
        self._figures = self._html()
        self._spoken = self._html()
        self._spoken_at = float("-inf")
        self._said = self._html()
        self._said.layout.width, self._said.layout.flex = "auto", "1 1 auto"
        self._buttons = {action.label: _Button(self, action) for action in actions}
        of_actions = [button.widget for button in self._buttons.values()]
        questions = [button.question for button in self._buttons.values() if button.question]
        buttons = ipywidgets.HBox([*of_actions, self._said], layout={"flex_flow": "row wrap"})
        self._pane = _PaneChooser(self, panes) if panes else None
        below = [self._pane.box] if self._pane else []
        self._box = ipywidgets.VBox([self._style, buttons, *questions, self._figures, *below, self._spoken])

    def view(self) -> dict[str, Any]:
        """Return what makes a front end draw the widgets."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
        return {"application/vnd.jupyter.widget-view+json": view}

    def update(self, status: RunStatus, graph: str) -> None:
        """Show a newer status, and the open pane anew."""
        _set(self._figures, ours(figures_html(status, graph)))
        if time.monotonic() - self._spoken_at >= SPOKEN_S:
            self._spoken_at = time.monotonic()
            _set(self._spoken, _for_ears(status_line(status)))
        for button in self._buttons.values():
            button.update(status)
        if status.state == "stopping":  # whoever said so: this panel, a cell, a shell
            self.say("Stopping: what is in flight is finished first.")
        if self._pane:
            self._pane.update()

    def say(self, text: str) -> None:
        """Show a remark beside the buttons."""
        _set(self._said, ours(muted(text), role="status"))

    def close(self) -> None:
        """Take the widgets away; they are no longer shown."""
        for widget in _with_children(self._box):
            widget.close()

    def _html(self) -> Any:
        return self._kit.HTML(layout=self._kit.Layout(width="100%", margin="0"))


def _for_ears(line: str) -> str:
    """Return a line that a screen reader says when it changes, and that nobody sees."""
    hidden = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap"
    return f'<div role="status" aria-live="polite" style="{hidden}" class="{NO_MATH}">{escape(line)}</div>'


class _Button:
    """One button, and whether it was pressed since the last status; perhaps with a question before it acts."""

    def __init__(self, panel: LiveWidgets, action: Action) -> None:
        self._panel = panel
        self._action = action
        self._is_pressed = False
        self._warned = ""  # what was said of what it costs: a second press acts while that is still so
        self.widget = panel._kit.Button(
            description=action.label, tooltip=action.tooltip, disabled=True, layout=_AS_WIDE_AS_ITS_WORDS
        )
        self.widget.on_click(self._press)
        self.question: Any = None
        if action.asks:
            kit = panel._kit
            self._answer = kit.Text(placeholder=action.asks, layout={"width": "280px"})
            self._go = kit.Button(description=f"{action.label} now", layout=_AS_WIDE_AS_ITS_WORDS)
            self._go.on_click(self._take_answer)
            self._thread: threading.Thread | None = None
            self.question = kit.HBox([self._answer, self._go], layout={"display": "none"})

    def update(self, status: RunStatus) -> None:
        """Let it be pressed as far as the status allows."""
        self._is_pressed = False
        is_off = not self._action.fits(status)
        if self.widget.disabled != is_off:
            self.widget.disabled = is_off

    def _press(self, _: Any) -> None:
        if self._is_pressed or self.widget.disabled:  # again, before the front end had drawn it disabled
            return
        if self.question is not None:
            is_hidden = self.question.layout.display == "none"
            self.question.layout.display = "" if is_hidden else "none"
            return
        warning = self._action.warns()
        if warning and warning != self._warned:
            self._warned = warning
            self._panel.say(f"{warning} Press again to do it.")
            return
        self._warned = ""
        self._is_pressed = self.widget.disabled = True
        try:
            self._action.do()
        except Exception as error:  # noqa: BLE001 - nobody is there to raise to; it is shown beside the button
            self._is_pressed = self.widget.disabled = False
            self._panel.say(f"{self._action.label}: {str(error) or type(error).__name__}")
            return
        self._panel.say(self._action.told)

    def _take_answer(self, _: Any) -> None:
        answer = self._answer.value.strip()
        if not answer or self._go.disabled:
            return
        self._go.disabled = True
        self._panel.say(self._action.told)
        self._thread = threading.Thread(target=self._do, args=(answer,), name="distilnb button", daemon=True)
        self._thread.start()

    def _do(self, answer: str) -> None:
        """Do what may take long beside the kernel's own work."""
        try:
            told = str(self._action.do(answer) or "")
            self.question.layout.display = "none"
        except Exception as error:  # noqa: BLE001 - as above
            told = str(error) or type(error).__name__
        self._go.disabled = False
        self._panel.say(f"{self._action.label}: {told}")


class _PaneChooser:
    """Buttons to choose a pane, a list of what it can show, and the pane; made anew in the panel's thread."""

    def __init__(self, panel: LiveWidgets, panes: Sequence[Pane]) -> None:
        kit = panel._kit
        self._panes = {pane.label: pane for pane in panes}
        self._which = kit.ToggleButtons(options=[NO_PANE, *self._panes], style={"button_width": "auto"})
        self._choice = kit.Dropdown(options=[], layout={**_AS_WIDE_AS_ITS_WORDS, "display": "none"})
        self._panel = panel
        self._act = kit.Button(layout={**_AS_WIDE_AS_ITS_WORDS, "display": "none"})
        self._act.on_click(self._acted)
        self._shown = panel._html()
        self._made_at = 0.0
        self._warned = (
            ""  # what was said of the choice that is shown: a second press acts while that is still so
        )
        self._which.observe(self._changed, names="value")
        self._choice.observe(self._chosen, names="value")
        choosing = kit.HBox([self._which, self._choice, self._act], layout={"flex_flow": "row wrap"})
        self.box = kit.VBox([choosing, self._shown])

    def update(self) -> None:
        """Make the open pane anew, if it is time."""
        pane = self._panes.get(self._which.value)
        if pane is None or time.monotonic() - self._made_at < PANE_S:
            return
        self._made_at = time.monotonic()
        _set(self._shown, ours(_told(pane, self._choice.value or "")))

    def _changed(self, change: Any) -> None:
        pane = self._panes.get(change["new"])
        choices = pane.choices if pane else ()
        self._warned = ""
        self._choice.options = choices
        self._choice.value = choices[-1] if choices else None
        self._choice.layout.display = "" if len(choices) > 1 else "none"
        self._act.description = pane.verb if pane else ""
        self._act.layout.display = "" if pane and pane.verb else "none"
        _set(self._shown, "")
        self._made_at = 0.0

    def _chosen(self, _: Any) -> None:
        self._made_at = 0.0
        self._warned = ""

    def _acted(self, _: Any) -> None:
        pane = self._panes.get(self._which.value)
        if pane is None or pane.act is None:
            return
        choice = self._choice.value or ""
        try:
            warning = pane.warns(choice)
            if warning and warning != self._warned:
                self._warned = warning
                self._panel.say(f"{warning} Press again to do it.")
                return
            self._warned = ""
            self._panel.say(str(pane.act(choice) or ""))
        except Exception as error:  # noqa: BLE001 - nobody is there to raise to; it is shown beside the buttons
            self._panel.say(f"{pane.verb}: {str(error) or type(error).__name__}")


def _told(pane: Pane, choice: str) -> str:
    try:
        return pane.html(choice)
    except Exception as error:  # noqa: BLE001 - it is only a look: the panel goes on without it
        return muted(f"Cannot be shown now: {str(error) or type(error).__name__}")


def _with_children(widget: Any) -> list[Any]:
    return [*(one for child in getattr(widget, "children", ()) for one in _with_children(child)), widget]


def _set(widget: Any, value: str) -> None:
    if widget.value != value:
        widget.value = value

"""The panel of a run while it goes, in core widgets: those that ipywidgets 7.7 and 8 both have."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from distilnb.engine.status import RunStatus
from distilnb.optional import optional
from distilnb.view.actions import Action
from distilnb.view.card import head_row, header_html, notes_html, step_row, steps_table
from distilnb.view.glance import Pane
from distilnb.view.html import muted, page

PANE_S = 1.0  # between two makings of the open pane: it reads files
NO_PANE = "Steps only"
_AS_WIDE_AS_ITS_WORDS = {"width": "auto", "flex": "0 0 auto"}


class LiveWidgets:
    """Header, buttons, graph, a line for each step, and one pane that can be chosen.

    Each part is a widget of its own, and only a value that changed is sent.
    """

    def __init__(self, actions: Sequence[Action], panes: Sequence[Pane] = ()) -> None:
        with optional("lab", what="The live panel"):
            import ipywidgets

        self._kit: Any = ipywidgets
        self._header = self._html()
        self._graph = self._html()
        self._heads = self._html()
        self._notes = self._html()
        self._said = self._html()
        self._said.layout.width, self._said.layout.flex = "auto", "1 1 auto"
        self._steps: dict[str, Any] = {}
        self._rows = ipywidgets.VBox([])
        self._buttons = {action.label: _Button(self, action) for action in actions}
        buttons = ipywidgets.HBox([*(button.widget for button in self._buttons.values()), self._said])
        self._pane = _PaneChooser(self, panes) if panes else None
        parts = [self._header, buttons, self._graph, self._rows, self._notes]
        self._box = ipywidgets.VBox([*parts, *([self._pane.box] if self._pane else [])])

    def view(self) -> dict[str, Any]:
        """Return what makes a front end draw the widgets."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
        return {"application/vnd.jupyter.widget-view+json": view}

    def update(self, status: RunStatus, graph: str) -> None:
        """Show a newer status, and the open pane anew."""
        _set(self._header, page(header_html(status)))
        drawn = f'<div class="dnb"><div class="dnb-graph">{graph}</div></div>' if graph else ""
        _set(self._graph, drawn)
        _set(self._heads, f'<div class="dnb">{steps_table(head_row(status))}</div>')
        for step in status.steps:
            if step.name not in self._steps:
                self._steps[step.name] = self._html()
                self._rows.children = (self._heads, *self._steps.values())
            _set(self._steps[step.name], f'<div class="dnb">{steps_table(step_row(step, status))}</div>')
        _set(self._notes, f'<div class="dnb">{notes_html(status)}</div>')
        for button in self._buttons.values():
            button.update(status)
        if status.state == "stopping":  # whoever said so: this panel, a cell, a shell
            self.say("Stopping: what is in flight is finished first.")
        if self._pane:
            self._pane.update()

    def say(self, text: str) -> None:
        """Show a remark beside the buttons."""
        _set(self._said, f'<div class="dnb">{muted(text)}</div>')

    def close(self) -> None:
        """Take the widgets away; they are no longer shown."""
        for widget in _with_children(self._box):
            widget.close()

    def _html(self) -> Any:
        return self._kit.HTML(layout=self._kit.Layout(width="100%", margin="0"))


class _Button:
    """One button, and whether it was pressed since the last status."""

    def __init__(self, panel: LiveWidgets, action: Action) -> None:
        self._panel = panel
        self._action = action
        self._is_pressed = False
        self.widget = panel._kit.Button(
            description=action.label, tooltip=action.tooltip, disabled=True, layout=_AS_WIDE_AS_ITS_WORDS
        )
        self.widget.on_click(self._press)

    def update(self, status: RunStatus) -> None:
        """Let it be pressed as far as the status allows."""
        self._is_pressed = False
        is_off = not self._action.fits(status)
        if self.widget.disabled != is_off:
            self.widget.disabled = is_off

    def _press(self, _: Any) -> None:
        if self._is_pressed or self.widget.disabled:  # again, before the front end had drawn it disabled
            return
        self._is_pressed = self.widget.disabled = True
        try:
            self._action.do()
        except Exception as error:  # noqa: BLE001 - nobody is there to raise to; it is shown beside the button
            self._is_pressed = self.widget.disabled = False
            self._panel.say(f"{self._action.label}: {str(error) or type(error).__name__}")
            return
        self._panel.say(self._action.told)


class _PaneChooser:
    """Buttons to choose a pane, a list of what it can show, and the pane; made anew in the panel's thread."""

    def __init__(self, panel: LiveWidgets, panes: Sequence[Pane]) -> None:
        kit = panel._kit
        self._panes = {pane.label: pane for pane in panes}
        self._which = kit.ToggleButtons(options=[NO_PANE, *self._panes], style={"button_width": "auto"})
        self._choice = kit.Dropdown(options=[], layout={**_AS_WIDE_AS_ITS_WORDS, "display": "none"})
        self._shown = panel._html()
        self._made_at = 0.0
        self._which.observe(self._changed, names="value")
        self._choice.observe(self._chosen, names="value")
        self.box = kit.VBox([kit.HBox([self._which, self._choice]), self._shown])

    def update(self) -> None:
        """Make the open pane anew, if it is time."""
        pane = self._panes.get(self._which.value)
        if pane is None or time.monotonic() - self._made_at < PANE_S:
            return
        self._made_at = time.monotonic()
        _set(self._shown, f'<div class="dnb">{_told(pane, self._choice.value or "")}</div>')

    def _changed(self, change: Any) -> None:
        pane = self._panes.get(change["new"])
        choices = pane.choices if pane else ()
        self._choice.options = choices
        self._choice.value = choices[-1] if choices else None
        self._choice.layout.display = "" if len(choices) > 1 else "none"
        _set(self._shown, "")
        self._made_at = 0.0

    def _chosen(self, _: Any) -> None:
        self._made_at = 0.0


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

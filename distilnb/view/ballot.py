"""Voting by buttons: one row after the other with its answers side by side; static HTML when it is over."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable, Sequence
from typing import Any

from distilnb.optional import optional
from distilnb.view.comparison import GridRow, row_html, row_text
from distilnb.view.display import Form, Output, best_form
from distilnb.view.html import Bundle, muted, page
from distilnb.view.text import one_line

NextRow = Callable[[Sequence[str]], "tuple[GridRow | None, int, int]"]
_AS_WIDE_AS_ITS_WORDS = {"width": "auto", "flex": "0 0 auto"}


class Ballot:
    """Buttons for the answers to one row at a time, in core widgets. Each press calls back and shows the next row.

    `next_row` gets the ids of rows that were skipped, in that order, and returns the next one (None: none is left), how
    many have a vote, and of how many; `result` is what is shown at the end, `names` are the candidates that can be
    used then.
    """

    def __init__(
        self,
        *,
        next_row: NextRow,
        vote: Callable[[str, str], object],
        result: Callable[[], Bundle],
        names: Callable[[], Sequence[str]],
        on_use: Callable[[str], object] | None = None,
        form: Form | None = None,
    ) -> None:
        self._next_row, self._vote, self._result, self._names, self._on_use = (
            next_row,
            vote,
            result,
            names,
            on_use,
        )
        self._form = form
        self._is_apart = False
        self._skipped: list[str] = []
        self._row: GridRow | None = None
        self._output: Output | None = None
        self._kit: Any = None
        self._box: Any = None
        self.buttons: dict[str, Any] = {}  # by what stands on them

    def show(self, at: Output | None = None, *, with_row: bool = True) -> bool:
        """Show the first row to vote on under the current cell, or in an output that is there (`at`).

        Returns whether it has buttons. Where it has none it says how to vote on the row, and shows it too if told so.
        """
        if (self._form or best_form()) != "widgets":
            row, n_voted, n_rows = self._next_row(())
            if row is not None:
                shown = f"\n{row_text(row)}" if with_row else ""
                sys.stdout.write(f"{_told(n_voted, n_rows)} · {_how(row)}{shown}\n")
            return False
        with optional("lab", what="Voting by buttons"):
            import ipywidgets

        self._kit = ipywidgets
        self._text = ipywidgets.HTML(layout=ipywidgets.Layout(width="100%", margin="0"))
        self._keys = ipywidgets.HBox([])
        self._said = ipywidgets.HTML()
        self._turn()
        # A result that is there from the beginning is no part of the widgets, so that it outlives the kernel.
        self._is_apart = self._row is None and at is None
        if self._is_apart:
            Output().show(self._result())
        self._box = ipywidgets.VBox([*([] if self._is_apart else [self._text]), self._keys, self._said])
        view = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
        self._output = at or Output()
        atexit.register(self.close)
        self._output.show({**self._lasting(), "application/vnd.jupyter.widget-view+json": view})
        return True

    @staticmethod
    def drawn(row: GridRow, told: str) -> str:
        """Return a row as it is voted on, as HTML without its style."""
        return row_html(row, told or f"row {row.ordinal}")

    def close(self) -> None:
        """Leave the result as static HTML; the votes are kept."""
        atexit.unregister(self.close)
        output, box, self._output, self._box = self._output, self._box, None, None
        if output is not None:
            output.show(self._lasting())
        for widget in (*self.buttons.values(), box):
            if widget is not None:
                widget.close()
        self.buttons = {}

    def _lasting(self) -> Bundle:
        return {"text/plain": "", "text/html": ""} if self._is_apart else self._result()

    def _turn(self) -> None:
        """Show the next row, or the result with what can be done with it."""
        row, n_voted, n_rows = self._next_row(self._skipped)
        self._row = row
        if row is None:
            self._text.value = self._result()["text/html"]
            uses = {f"Use {name}": lambda name=name: self._use(name) for name in self._names()}
            self._set_buttons({**(uses if self._on_use else {}), "Done": self.close})
            return
        self._text.value = page(self.drawn(row, f"row {row.ordinal} · {_told(n_voted, n_rows)}"))
        choices = {f"{one_line(name, 60)} is best": lambda name=name: self._say(name) for name in row.names}
        self._set_buttons({**choices, "Tie": lambda: self._say("tie"), "Skip": self._skip, "End": self.close})

    def _set_buttons(self, presses: dict[str, Callable[[], object]]) -> None:
        old = list(self.buttons.values())
        self.buttons = {label: self._button(label, press) for label, press in presses.items()}
        self._keys.children = tuple(self.buttons.values())
        for button in old:
            button.close()

    def _button(self, label: str, press: Callable[[], object]) -> Any:
        button = self._kit.Button(description=label, tooltip=label, layout=_AS_WIDE_AS_ITS_WORDS)

        def pressed(_: Any) -> None:
            if button.disabled:  # again, before the front end had drawn it disabled
                return
            button.disabled = True
            try:
                press()
            except Exception as error:  # noqa: BLE001 - nobody is there to raise to; it is shown beside the buttons
                button.disabled = False
                self._tell(f"{label}: {str(error) or type(error).__name__}")

        button.on_click(pressed)
        return button

    def _say(self, name: str) -> None:
        assert self._row is not None
        self._vote(self._row.row_id, name)
        self._turn()

    def _skip(self) -> None:
        assert self._row is not None
        self._skipped.append(self._row.row_id)
        self._turn()

    def _use(self, name: str) -> None:
        assert self._on_use is not None
        self._on_use(name)
        self._tell(f"{name} is the step now.")

    def _tell(self, text: str) -> None:
        self._said.value = page(muted(one_line(text, 300)))


def _how(row: GridRow) -> str:
    """Return how a row is voted on without buttons, by a name that it has now: a letter only while names are hidden."""
    named = f"vote with .vote({row.called!r}, {one_line(row.names[0], 60)!r})"
    return f'{named}, .vote({row.called!r}, "tie"); .show() has the next row'


def _told(n_voted: int, n_rows: int) -> str:
    return f"{n_voted} of {n_rows} rows have a vote"

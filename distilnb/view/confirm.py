"""A question with one button: what was quoted is done when it is pressed, and once only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distilnb.optional import optional
from distilnb.view.html import muted


class ConfirmBox:
    """HTML and a button below it, in core widgets; `do` is called at the first press, in the kernel's main thread."""

    def __init__(self, html: str, label: str, do: Callable[[], object]) -> None:
        with optional("lab", what="The button"):
            import ipywidgets

        self._do = do
        self._said: Any = ipywidgets.HTML()
        self.button: Any = ipywidgets.Button(
            description=label, button_style="primary", layout={"width": "auto", "flex": "0 0 auto"}
        )
        self.button.on_click(self._press)
        row = ipywidgets.HBox([self.button, self._said])
        self._html: Any = ipywidgets.HTML(html)
        self._parts: list[Any] = [self._html, row]
        self._box: Any = ipywidgets.VBox(self._parts)

    def view(self) -> dict[str, Any]:
        """Return what makes a front end draw the widgets."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
        return {"application/vnd.jupyter.widget-view+json": view}

    def tell(self, html: str) -> None:
        """Show other words above the button."""
        self._html.value = html

    def close(self) -> None:
        """Take the widgets away; they are no longer shown."""
        for widget in (self.button, self._said, *self._parts, self._box):
            widget.close()

    def _press(self, _: Any) -> None:
        if self.button.disabled:  # pressed again before the front end had drawn it so
            return
        self.button.disabled = True
        try:
            self._do()
        except Exception as error:  # noqa: BLE001 - nobody is there to raise to; it is shown beside the button
            self.button.disabled = False
            self._said.value = f'<div class="dnb">{muted(str(error) or type(error).__name__)}</div>'

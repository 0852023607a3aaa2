"""Where things are shown: an output of a notebook that can be changed later, and what can be shown here."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any, Literal

from distilnb.view.html import Bundle

Form = Literal["widgets", "html", "text"]

# Set in the kernel by front ends that draw widgets: Jupyter Server (Lab, Notebook), Colab, VS Code, Kaggle.
WIDGET_FRONT_ENDS = (
    "JPY_SESSION_NAME",
    "COLAB_RELEASE_TAG",
    "VSCODE_PID",
    "VSCODE_CWD",
    "KAGGLE_KERNEL_RUN_TYPE",
)


def best_form() -> Form:
    """Return the richest form that can be shown here.

    A kernel cannot ask whether anybody draws its widgets (under nbclient or papermill nobody does), so a
    front end must have left its sign in the environment; else static HTML, replaced now and then, will do.
    `DISTILNB_TEXT=1` asks for text.
    """
    if os.environ.get("DISTILNB_TEXT", "") not in {"", "0"} or not is_kernel():
        return "text"
    if find_spec("ipywidgets") and any(name in os.environ for name in WIDGET_FRONT_ENDS):
        return "widgets"
    return "html"


def import_widgets() -> None:
    """Import ahead, where widgets will be drawn, what draws the first of them: it takes as long as they do."""
    if best_form() == "widgets":
        import ipywidgets  # noqa: F401 - for its side effect: it is loaded


def is_kernel() -> bool:
    """Whether this is a notebook's kernel, not a script nor IPython in a terminal."""
    shell = shell_here()
    return shell is not None and type(shell).__name__ != "TerminalInteractiveShell"


def shell_here() -> Any | None:
    """Return the running IPython shell, None outside IPython; IPython is not imported for it."""
    import sys

    if "IPython" not in sys.modules:
        return None
    from IPython.core.getipython import get_ipython

    return get_ipython()


def cell_number() -> int | None:
    """Return the number of the cell that runs, None outside IPython."""
    shell = shell_here()
    return None if shell is None else int(shell.execution_count)


class Output:
    """One output under a cell. The first `show` makes it, each later one replaces what it shows."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, bundle: Bundle | dict[str, Any]) -> None:
        """Show data by MIME type; may be called from any thread, also after the cell has ended."""
        from IPython.display import DisplayHandle

        if self._handle is None:
            self._handle = DisplayHandle()  # type: ignore[no-untyped-call]  # IPython gives it no types
            self._handle.display(bundle, raw=True)
        else:
            self._handle.update(bundle, raw=True)

    def clear(self) -> None:
        """Leave nothing of the output; an output that was never made stays so."""
        if self._handle is not None:
            self._handle.update({"text/plain": "", "text/html": ""}, raw=True)

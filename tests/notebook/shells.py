"""A real IPython shell inside the test's process, and what its cells say."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import CapturedIO, capture_output
from traitlets.config import Config


@contextmanager
def interactive_shell() -> Iterator[InteractiveShell]:
    """Yield a fresh shell that stands in for the kernel's; what it changed in the process is put back."""
    main, hooks = sys.modules["__main__"], (sys.displayhook, sys.excepthook)
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=config)
    try:
        yield shell
    finally:
        shell.run_line_magic(
            "unload_ext", "distilnb"
        ) if "distilnb" in shell.extension_manager.loaded else None
        InteractiveShell.clear_instance()
        sys.modules["__main__"] = main
        sys.displayhook, sys.excepthook = hooks


class Notebook:
    """Cells run one after the other in a shell; each tells what it printed, displayed and returned."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell
        self.names: dict[str, Any] = shell.user_ns

    def cell(self, text: str) -> Any:
        """Run a cell that must succeed and return its last value."""
        return self.shown(text)[0]

    def shown(self, text: str) -> tuple[Any, CapturedIO]:
        """Run a cell that must succeed; return its value and what it showed."""
        with capture_output() as captured:
            result = self.shell.run_cell(text, store_history=True)
        assert result.success, captured.stdout + captured.stderr
        return result.result, captured

    def error(self, text: str) -> str:
        """Run a cell that must fail and return the error as the user reads it."""
        with capture_output() as captured:
            result = self.shell.run_cell(text, store_history=True)
        assert not result.success
        return (captured.stderr + captured.stdout).strip()

    def completions(self, line: str) -> list[str]:
        """Return what Tab offers at the end of a line, as the kernel asks for it."""
        with provisionalcompleter():
            return [found.text for found in self.shell.Completer.completions(line, len(line))]

    def evaluate(self, expression: str) -> Any:
        """Return what a Python expression means in the notebook."""
        return eval(expression, self.names)


def visible(captured: CapturedIO) -> str:
    """Return all text that a cell showed, streams first."""
    outputs = [output.data.get("text/plain", "") for output in captured.outputs]
    return "\n".join([captured.stdout, *outputs])

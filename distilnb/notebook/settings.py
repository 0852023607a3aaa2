"""What a user sets for the magics: `%config DistilMagics.rows = 3`, or `c.DistilMagics.rows` in IPython's own files."""

from __future__ import annotations

from typing import Any

from traitlets import Bool, CFloat, HasTraits, Int, observe

from distilnb.errors import DistilnbError
from distilnb.view.display import Form, best_form


class Settings(HasTraits):
    """The settings, checked when they are set; those of a session without magics are the defaults."""

    rows = Int(
        None, min=1, allow_none=True, help="Rows of a preview when -n is not said; None: all that are pinned."
    ).tag(config=True)
    confirm_cost_over = CFloat(
        1.0,
        min=0.0,
        help="USD. What may cost more shows its quote first and waits for [Run] or -y; inf never waits.",
    ).tag(config=True)
    short_errors = Bool(
        True, help="Show errors of distilnb in a line or two; False shows the frames of the traceback too."
    ).tag(config=True)
    live_panel = Bool(
        True, help="Follow a run with buttons where the front end can; False shows a card that renews itself."
    ).tag(config=True)

    def form(self) -> Form | None:
        """Return how panels are shown: None is the best way that there is."""
        best = best_form()
        return "html" if not self.live_panel and best == "widgets" else None

    @observe("short_errors")
    def _show_frames(self, change: Any) -> None:
        """Let IPython show errors of ours as any others, or again as they show themselves."""
        shell = getattr(self, "shell", None)
        if shell is None:
            return
        if change["new"]:
            shell.set_custom_exc((), None)
        else:
            shell.set_custom_exc((DistilnbError,), _with_frames)


def _with_frames(
    shell: Any, kind: type[BaseException], error: BaseException, tb: Any, tb_offset: Any
) -> None:
    lines = shell.InteractiveTB.structured_traceback(kind, error, tb, tb_offset=tb_offset)
    shell._showtraceback(kind, error, lines)

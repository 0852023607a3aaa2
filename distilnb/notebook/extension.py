"""What `%load_ext distilnb` does: magics, completion, hooks, and one line that says what was found."""

from __future__ import annotations

import shutil
import sys
import threading
from typing import Any

from distilnb.errors import StoreError
from distilnb.notebook.completion import complete
from distilnb.notebook.magics import DistilMagics
from distilnb.notebook.session import Session
from distilnb.version import __version__
from distilnb.view.display import import_widgets
from distilnb.view.figures import money, plural

MARKS = ("%distil", "%%distil")
RUN_CLASS = ("distilnb.run.handle", "Run")  # by name: the class need not be imported for it


def load(shell: Any) -> None:
    """Register everything with a shell; a second time it renews it."""
    unload(shell)
    session = Session(shell)
    shell.register_magics(DistilMagics(shell, session))
    shell.events.register("pre_run_cell", session.before_cell)
    shell.events.register("post_run_cell", session.after_cell)
    shell.display_formatter.ipython_display_formatter.for_type_by_name(*RUN_CLASS, session.show_run)
    for mark in MARKS:
        shell.set_hook("complete_command", lambda _, event: complete(session, event), str_key=mark)
    threading.Thread(target=_import_ahead, name="distilnb-import", daemon=True).start()
    sys.stdout.write(greeting() + "\n")


def unload(shell: Any) -> None:
    """Take everything back; panels that are live become static."""
    magics = shell.magics_manager.registry.pop(DistilMagics.__name__, None)
    if magics is None:
        return
    magics.session.close()
    magics.forget()
    shell.events.unregister("pre_run_cell", magics.session.before_cell)
    shell.events.unregister("post_run_cell", magics.session.after_cell)
    shell.display_formatter.ipython_display_formatter.pop(".".join(RUN_CLASS), None)
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("distil", None)
    for mark in MARKS:
        shell.strdispatchers["complete_command"].strs.pop(mark, None)


def _import_ahead() -> None:
    """Import what the first cells need, while the user still types."""
    import distilnb.pipeline
    from distilnb.engine.preview import warm_up

    warm_up()
    import_widgets()
    import distilnb.pipeline.quick  # noqa: F401 - as above; numpy is the most of it


def greeting() -> str:
    """Return one line: version, models that can be used, whether dot is there, a run that still goes."""
    dot = "dot found" if shutil.which("dot") else "dot absent (graphs are drawn without it)"
    return " · ".join([f"distilnb {__version__}", f"models: {_models()}", dot, *_going()])


def _models() -> str:
    from distilnb.llms.catalog import found_models

    found = [
        f"{one.provider} ({plural(len(one.models), 'model') if one.models else 'key found'})"
        for one in found_models()
    ]
    return ", ".join(found or ["rehearsal"])


def _going() -> list[str]:
    """Return a remark on the newest run that still goes."""
    from distilnb.run import runs

    for run in runs()[:20]:
        try:
            status = run.status()
        except StoreError:  # its journal is damaged, so it does not go
            continue
        if not status.is_ended:
            return [f"run {run.id} still going, {money(status.cost_usd)} so far: %distil attach {run.id}"]
    return []

"""The live panel of a run: widgets while it goes, static HTML from its end on.

A panel is only a view: it reads the status a few times a second and calls back when a button is pressed.
Closing it, or losing the kernel, changes nothing for the run.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, NamedTuple, TextIO

from distilnb.engine.status import RunStatus
from distilnb.view.actions import Action
from distilnb.view.card import run_card, status_line, status_text
from distilnb.view.display import Form, Output, best_form
from distilnb.view.glance import Pane
from distilnb.view.html import Bundle, escape, ours
from distilnb.view.live import LiveWidgets
from distilnb.view.text import visible

__all__ = ["RunPanel", "follow", "run_card", "status_line", "status_text"]

HTML_HZ = 1.0  # static HTML is sent whole each time
MAX_MISSES = 8  # readings of the status that may fail in a row
MOVED = "The panel of this run moved to a later cell."


class Seen(NamedTuple):
    """The newest look at a run: its status, and the HTML that was made of it."""

    status: RunStatus
    graph: str
    below: str


class RunPanel:
    """The panel of one run.

    `read_status`, `graph_svg`, `below` (more safe HTML, at rest) and the panes are called from the panel's own thread,
    an action when its button is pressed. `attach_line` tells how to come back to the run: it is shown first, as static
    text, so that a notebook opened again after its kernel was lost says it still. `registry` holds the live
    panel of each run by the run's id: showing a run again closes the panel that showed it. The caller's
    session owns it, so that no module keeps state, and two sessions in a process do not meet.
    """

    def __init__(
        self,
        read_status: Callable[[], RunStatus],
        graph_svg: Callable[[RunStatus], str],
        *,
        attach_line: str,
        actions: Sequence[Action] = (),
        panes: Sequence[Pane] = (),
        refresh_hz: float = 4.0,
        form: Form | None = None,
        registry: MutableMapping[str, RunPanel] | None = None,
        below: Callable[[RunStatus], str] | None = None,
    ) -> None:
        self._read_status = read_status
        self._graph_svg = graph_svg
        self._actions = tuple(actions)
        self._panes = tuple(panes)
        self._attach_line = attach_line
        self._period_s = 1 / refresh_hz
        self._form = form
        self._registry = {} if registry is None else registry
        self._below = below
        self._lock = threading.Lock()  # held to show, never to read or to draw
        self._closing = threading.Event()
        self._ended = threading.Event()
        self._ended.set()
        self._output: Output | None = None
        self._widgets: LiveWidgets | None = None
        self._seen: Seen | None = None

    @property
    def is_live(self) -> bool:
        """Whether the panel is shown and follows its run."""
        return not self._ended.is_set()

    def show(self, at: Output | None = None) -> None:
        """Show the panel under the current cell; where it, or another of its run, is shown, it moves.

        `at` is an output that is there already, in which it is shown alone: the handler of a button has no cell.
        """
        self._leave(MOVED)
        seen = self._look()
        other = self._registry.get(seen.status.id)
        if other is not None:
            other._leave(MOVED)
        form = self._form or best_form()
        if form == "text":
            sys.stdout.write(f"{self._attach_line}\n{status_text(seen.status)}\n")
            return
        if at is None:
            Output().show(line_bundle(self._attach_line))
        self._output = at or Output()
        if seen.status.is_ended:
            self._output.show(_card(seen))
            return
        self._registry[seen.status.id] = self
        bundle: dict[str, Any] = dict(_card(seen))
        if form == "widgets":
            self._widgets = LiveWidgets(self._actions, self._panes)
            self._widgets.update(seen.status, seen.graph)
            bundle.update(self._widgets.view())
        self._output.show(bundle)
        self._start(seen.status.id, self._period_s if form == "widgets" else max(self._period_s, 1 / HTML_HZ))

    def close(self) -> None:
        """Stop following the run and leave static HTML of how it stands; the run goes on."""
        self._closing.set()
        with self._lock:
            self._rest(
                ""
                if self._seen and self._seen.status.is_ended
                else f"No longer followed. {self._attach_line}"
            )

    def _leave_static(self) -> None:
        """Leave the static form behind when the kernel ends, if it still can; its widgets end with it."""
        self._widgets = None  # told of their end, a front end would look in vain for what it has forgotten
        self.close()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the panel follows its run no longer, and return whether that is so."""
        return self._ended.wait(timeout_s)

    # --- the panel's thread ---

    def _start(self, run_id: str, period_s: float) -> None:
        self._closing, self._ended = threading.Event(), threading.Event()
        events = (self._closing, self._ended)
        thread = threading.Thread(
            target=self._follow, args=(*events, period_s), name=f"distilnb panel {run_id}", daemon=True
        )
        thread.start()
        atexit.register(self._leave_static)

    def _follow(self, closing: threading.Event, ended: threading.Event, period_s: float) -> None:
        """Look and show until the run ends or the panel is closed; print nothing, it would land anywhere."""
        misses = 0
        try:
            while not closing.wait(period_s):
                try:
                    seen = self._look()
                    misses = 0
                except Exception as error:  # noqa: BLE001 - nobody is there to raise to; the card says it
                    misses += 1
                    if misses >= MAX_MISSES:
                        self._give_up(closing, error)
                    continue
                with self._lock:
                    if not closing.is_set():
                        self._update(seen)
        finally:
            ended.set()

    def _look(self) -> Seen:
        """Read the status and draw it."""
        status = self._read_status()
        below = self._below(status) if self._below and status.is_ended else ""
        self._seen = Seen(status, self._graph_svg(status), below)
        return self._seen

    def _update(self, seen: Seen) -> None:
        if seen.status.is_ended:
            self._rest("")
        elif self._widgets is not None:
            self._widgets.update(seen.status, seen.graph)
        elif self._output is not None:
            self._output.show(_card(seen))

    def _give_up(self, closing: threading.Event, error: Exception) -> None:
        with self._lock:
            if not closing.is_set():
                self._rest(f"The panel cannot go on: {error}. {self._attach_line}")

    def _rest(self, remark: str, *, is_moved: bool = False) -> None:
        """Replace what is shown by static HTML, and end the thread. The lock is held."""
        self._closing.set()
        output, widgets, self._output, self._widgets = self._output, self._widgets, None, None
        if output is None or self._seen is None:
            return
        atexit.unregister(self._leave_static)
        output.show(line_bundle(remark) if is_moved else _card(self._seen, remark))
        if widgets is not None:
            widgets.close()
        if self._registry.get(self._seen.status.id) is self:
            del self._registry[self._seen.status.id]

    def _leave(self, remark: str) -> None:
        self._closing.set()
        with self._lock:
            self._rest(remark, is_moved=True)


def _card(seen: Seen, remark: str = "") -> Bundle:
    return run_card(seen.status, seen.graph, remark=remark, below=seen.below)


def follow(
    read_status: Callable[[], RunStatus],
    stream: TextIO,
    *,
    refresh_hz: float = 2.0,
    line_every_s: float = 10.0,
) -> RunStatus:
    """Write one line that renews itself until the run ends, for a terminal; return the last status.

    Where the stream is no terminal (a log file) a line is written now and then. It runs in the caller's
    thread, so that an interrupt ends it.
    """
    is_terminal = stream.isatty()
    written_at, last = float("-inf"), ""
    pause = threading.Event()
    while True:
        status = read_status()
        line = status_line(status)
        if is_terminal and line != last:
            stream.write(f"\r\x1b[K{line}")
            stream.flush()
        elif (
            not is_terminal
            and line != last
            and (status.is_ended or time.monotonic() - written_at >= line_every_s)
        ):
            stream.write(line + "\n")
            stream.flush()
            written_at = time.monotonic()
        last = line
        if status.is_ended:
            stream.write("\n" * is_terminal)
            return status
        pause.wait(1 / refresh_hz)


def line_bundle(line: str) -> Bundle:
    """Return a line as text and HTML."""
    return {"text/plain": visible(line), "text/html": ours(escape(line))}

"""What waits for a row worker: held back by a pause, and given up when the run is to stop."""

from __future__ import annotations

import queue
import threading

from distilnb.engine.wire import Message

_WORK = frozenset({"batch", "pull", "global", "end"})


class Inbox:
    """Messages of the runner in their order: one thread puts them in, another takes them out."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._may_work = threading.Event()
        self._may_work.set()
        self._is_draining = False

    def put(self, message: Message) -> None:
        """Take a message in; a pause, its end and a stop hold at once, also for what waits already."""
        kind = message["do"]
        if kind == "pause":
            self._may_work.clear()
        if kind == "drain":
            self._is_draining = True
        if kind in ("resume", "drain", "exit"):
            self._may_work.set()
        self._messages.put(message)

    def next(self) -> Message:
        """Return the next message, waiting for it; work is not returned during a pause, nor after a stop."""
        while True:
            message = self._messages.get()
            if message["do"] in _WORK:
                self._may_work.wait()
                if self._is_draining:  # it was not begun, so a resume gives it again
                    continue
            return message

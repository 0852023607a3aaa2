"""What waits for a row worker: held back by a pause, given up by a stop; both call it off what it has begun."""

from __future__ import annotations

import queue
import threading

from distilnb.engine.wire import Message

WORK = frozenset({"batch", "pull", "part", "rename", "global", "end"})


class Inbox:
    """Messages of the runner in their order: one thread puts them in, another takes them out."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._may_work = threading.Event()
        self._may_work.set()
        self._is_draining = False
        self._rest: Message | None = None  # of work that was begun

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

    @property
    def is_calling(self) -> bool:
        """Whether work that was begun is to be left off as soon as that can be: there is a pause, or a stop."""
        return self._is_draining or not self._may_work.is_set()

    def put_back(self, rest: Message) -> None:
        """Take the rest of some work back: it is the next to be done, unless the run is to stop."""
        self._rest = rest

    def next(self) -> Message:
        """Return the next message, waiting for it; work is not returned during a pause, nor after a stop."""
        while True:
            message, self._rest = self._rest or self._messages.get(), None
            if message["do"] in WORK:
                self._may_work.wait()
                if self._is_draining:  # it was not begun, so a resume gives it again
                    continue
            return message

"""A real Jupyter kernel that a driver runs cells in. What it sends to a front end is sent; only the driver reads it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

_PATIENCE_S = 120.0


class Shown(NamedTuple):
    """What a cell showed, and when it came."""

    at: float
    text: str
    is_printed: bool


class Kernel:
    """A kernel whose cells are run one after the other."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def run(self, code: str) -> list[Shown]:
        """Run a cell and return what it showed. Exits when the cell fails."""
        shown: list[Shown] = []

        def hear(message: dict[str, Any]) -> None:
            content = message["content"]
            texts = [content.get("text"), *content.get("data", {}).values()]
            shown.append(
                Shown(time.perf_counter(), "\n".join(map(str, filter(None, texts))), "text" in content)
            )

        reply = self._client.execute_interactive(code, timeout=_PATIENCE_S, output_hook=hear)
        if reply["content"]["status"] != "ok":
            raise SystemExit("\n".join(reply["content"].get("traceback", ())))
        return shown

    def said(self, code: str, mark: str) -> str:
        """Run a cell and return the rest of the line that it printed behind a mark."""
        lines = "".join(one.text for one in self.run(code) if one.is_printed).splitlines()
        found = [line.removeprefix(mark) for line in lines if line.startswith(mark)]
        if not found:
            raise SystemExit("\n".join(lines))
        return found[0]

    def seconds_of(self, code: str) -> float:
        """Run a cell and return how long it kept the kernel."""
        began = time.perf_counter()
        self.run(code)
        return time.perf_counter() - began

    def seconds_until(self, code: str, mark: str) -> float:
        """Run a cell and return how long it was until it showed something with these words in it."""
        began = time.perf_counter()
        shown = self.run(code)
        found = [one.at - began for one in shown if mark in one.text]
        if not found:
            raise SystemExit("\n".join(one.text for one in shown))
        return found[0]


@contextlib.contextmanager
def a_kernel() -> Iterator[Kernel]:
    """Start a kernel of this interpreter for the length of a with block; it believes that it has a front end."""
    from jupyter_client.manager import start_new_kernel

    os.environ["JPY_SESSION_NAME"] = "benchmark.ipynb"  # as a server sets it
    manager, client = start_new_kernel(kernel_name="python3", extra_arguments=["--log-level=ERROR"])
    try:
        yield Kernel(client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=False)

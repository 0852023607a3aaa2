"""What a live panel costs the kernel that shows it, measured in a real kernel beside a run of 10,000 rows a second."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from benchmarks.drivers import Result

_PATIENCE_S = 120.0

# The front end is the one thing that lacks: what the kernel sends to it is sent, and nobody reads it.
_START = """
import json, time
from benchmarks.drivers.distilnb import paced
%load_ext distilnb
pipeline = paced({rows})
run = pipeline.start()
run.panel().show()
widgets = run._panel()._widgets
looks = []
widgets._figures.observe(lambda _: looks.append(time.monotonic()), names="value")
began, cpu = time.monotonic(), time.process_time()
print("started " + run.id)
"""
_END = """
spent = dict(cpu_s=time.process_time() - cpu, seconds=time.monotonic() - began, n_looks=len(looks))
print("spent " + json.dumps(spent))
"""


def panel(arguments: Any) -> Result:
    """Start a paced run in a kernel, show its panel, and return what following it cost the kernel."""
    from jupyter_client.manager import start_new_kernel

    from distilnb.run import attach

    os.environ["JPY_SESSION_NAME"] = "benchmark.ipynb"  # as a server sets it: the kernel has a front end
    manager, client = start_new_kernel(kernel_name="python3", extra_arguments=["--log-level=ERROR"])
    try:
        run = attach(_said(client, _START.format(rows=arguments.rows), "started "))
        began = time.perf_counter()
        status = run.wait(_PATIENCE_S)
        wall_s = time.perf_counter() - began
        if status.state != "finished":
            raise SystemExit(f"{status!r} {status.error}")
        spent = json.loads(_said(client, _END, "spent "))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=False)
    return {
        "wall_s": wall_s,
        "rows": status.steps[-1].made,
        "rows_in_per_s": status.steps[0].made / wall_s,
        "panel_cpu_share": spent["cpu_s"] / spent["seconds"],
        "panel_hz": spent["n_looks"] / spent["seconds"],
    }


def _said(client: Any, code: str, mark: str) -> str:
    """Run a cell and return the rest of the line that it printed behind a mark."""
    told: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        content = message["content"]
        told.append(content.get("text") or "\n".join(content.get("traceback", ())))

    client.execute_interactive(code, timeout=_PATIENCE_S, output_hook=hear)
    lines = "".join(told).splitlines()
    found = [line.removeprefix(mark) for line in lines if line.startswith(mark)]
    if not found:
        raise SystemExit("".join(told))
    return found[0]

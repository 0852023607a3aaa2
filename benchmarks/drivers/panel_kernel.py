"""What a live panel costs the kernel that shows it, measured in a real kernel beside a run of 10,000 rows a second."""

from __future__ import annotations

import json
import time
from typing import Any

from benchmarks.drivers import Result
from benchmarks.drivers.kernels import a_kernel

_PATIENCE_S = 120.0

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
    from distilnb.run import attach

    with a_kernel() as kernel:
        run = attach(kernel.said(_START.format(rows=arguments.rows), "started "))
        began = time.perf_counter()
        status = run.wait(_PATIENCE_S)
        wall_s = time.perf_counter() - began
        if status.state != "finished":
            raise SystemExit(f"{status!r} {status.error}")
        spent = json.loads(kernel.said(_END, "spent "))
    return {
        "wall_s": wall_s,
        "rows": status.steps[-1].made,
        "rows_in_per_s": status.steps[0].made / wall_s,
        "panel_cpu_share": spent["cpu_s"] / spent["seconds"],
        "panel_hz": spent["n_looks"] / spent["seconds"],
    }

"""How long a user waits for a cell, timed from outside a real kernel: `%distil run` returns, a first row is shown."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.drivers import Result
from benchmarks.drivers.kernels import a_kernel

SMALL = 1000  # rows, beside the workload's own number
MARK = "the mock server's answer"  # what the model replies
_PAUSE_S = 1.0  # what lies between two cells of a fast typist
_N_WARM = 5

_MODELS = """
import distilnb as dn
from benchmarks.data import prompts
here = dict(base_url={url!r}, max_concurrency={concurrency})
free = dn.llm("openai:mock-model", **here)
priced = dn.llm("openai:mock-model", price=(1000, 1000), **here)
"""
_PIPELINE = """
{name} = dn.Pipeline({name!r}, llm={model}).from_dicts(prompts({rows}))
{name} = {name}.generate("answer", "{{{{ instruction }}}}")
"""
_PREVIEW = "%distil preview -p {name} -n 5 -y"
_EDIT = "%%distil prompt answer -p {name} -n 5 -y\nOnce more, {number}: {{{{ instruction }}}}"
_END = "for run in dn.runs(): run.abort()"


def cell(arguments: Any) -> Result:
    """Return the seconds of the cells of a session, as their user sees them.

    `first_row_s` is of a kernel's first preview, `warm_row_s` of a cell that changes the prompt, from the cell's start
    to the first row that is shown. `run_…_s` is how long `%distil run` keeps its cell, for a free and a priced model.
    """
    found: Result = {}
    with a_kernel() as kernel:
        kernel.run("%load_ext distilnb")
        kernel.run(_MODELS.format(url=arguments.url, concurrency=arguments.concurrency))
        kernel.run(_PIPELINE.format(name="first", model="free", rows=SMALL))
        time.sleep(_PAUSE_S)
        found["first_row_s"] = kernel.seconds_until(_PREVIEW.format(name="first"), MARK)
        warm = [
            kernel.seconds_until(_EDIT.format(name="first", number=number), MARK) for number in range(_N_WARM)
        ]
        found["warm_row_s"] = sorted(warm)[_N_WARM // 2]
        for rows, size in ((SMALL, "small"), (arguments.rows, "large")):
            for model in ("free", "priced"):
                name = f"{model}_{size}"
                kernel.run(_PIPELINE.format(name=name, model=model, rows=rows))
                kernel.run(_PREVIEW.format(name=name))
                time.sleep(_PAUSE_S)
                found[f"run_{name}_s"] = kernel.seconds_of(f"%distil run {name}")
                kernel.run(_END)
                time.sleep(_PAUSE_S)  # a sharper quote is made meanwhile
    return {**found, "wall_s": found["run_priced_large_s"]}

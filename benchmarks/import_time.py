"""How long `import distilnb` takes beside `import pydantic`, measured in turn in fresh interpreters.

    python benchmarks/import_time.py [--runs 15]        or: python -m benchmarks import

The public names are loaded when first used, so `from distilnb import Pipeline` is measured too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from typing import Any

STATEMENTS = {
    "nothing": "pass",
    "pydantic": "import pydantic; pydantic.BaseModel",
    "distilnb": "import distilnb",
    "distilnb.Pipeline": "from distilnb import Pipeline",
}
BAR_S = 0.2  # DESIGN: at most `import pydantic` plus this
HEAVY = ("pandas", "datasets", "pyarrow", "torch", "openai", "argilla", "ipywidgets", "IPython")


def measure(statement: str) -> float:
    """Return the seconds a fresh interpreter takes for a statement."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - began


def medians(n_runs: int) -> dict[str, float]:
    """Return the median seconds of each statement."""
    for statement in STATEMENTS.values():
        measure(statement)  # bytecode is compiled at the first run
    taken: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(n_runs):
        for name, statement in STATEMENTS.items():
            taken[name].append(measure(statement))
    return {name: statistics.median(times) for name, times in taken.items()}


def heavy_imports() -> list[str]:
    """Return the packages that `import distilnb` must not load and does."""
    program = f"import sys, distilnb; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return done.stdout.split()


def record(n_runs: int) -> dict[str, Any]:
    """Return a measurement as the other workloads make them."""
    return {
        "workload": "import",
        "peer": "distilnb",
        "n": n_runs,
        "run": 0,
        "load": round(os.getloadavg()[0], 1),
        "seconds": {name: round(seconds, 4) for name, seconds in medians(n_runs).items()},
        "heavy": heavy_imports(),
    }


def main() -> int:
    """Print the table; the exit code says whether the bar is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    n_runs = parser.parse_args().runs
    found = medians(n_runs)
    print(f"| import | median of {n_runs}, ms | over pydantic, ms |\n|---|---|---|")
    for name, median in found.items():
        print(f"| {name} | {1000 * median:.0f} | {1000 * (median - found['pydantic']):+.0f} |")
    over = found["distilnb"] - found["pydantic"]
    met = over <= BAR_S and not heavy_imports()
    print(f"\nbar: import distilnb ≤ import pydantic + {1000 * BAR_S:.0f} ms: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

"""How long `import distilnb` takes beside `import pydantic`, measured in turn in fresh interpreters.

    python benchmarks/import_time.py [--runs 15]

The public names are loaded when first used, so `from distilnb import Pipeline` is measured too.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

STATEMENTS = {
    "nothing": "pass",
    "pydantic": "import pydantic; pydantic.BaseModel",
    "distilnb": "import distilnb",
    "distilnb.Pipeline": "from distilnb import Pipeline",
}
BAR_S = 0.2  # DESIGN: at most `import pydantic` plus this


def measure(statement: str) -> float:
    """Return the seconds a fresh interpreter takes for a statement."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - began


def main() -> int:
    """Print the table; the exit code says whether the bar is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    n_runs = parser.parse_args().runs
    for statement in STATEMENTS.values():
        measure(statement)  # bytecode is compiled at the first run
    taken: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(n_runs):
        for name, statement in STATEMENTS.items():
            taken[name].append(measure(statement))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    print(f"| import | median of {n_runs}, ms | over pydantic, ms |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {1000 * median:.0f} | {1000 * (median - medians['pydantic']):+.0f} |")
    over = medians["distilnb"] - medians["pydantic"]
    print(
        f"\nbar: import distilnb ≤ import pydantic + {1000 * BAR_S:.0f} ms: {'met' if over <= BAR_S else 'MISSED'}"
    )
    return 0 if over <= BAR_S else 1


if __name__ == "__main__":
    sys.exit(main())

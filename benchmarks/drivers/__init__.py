"""Programs that are measured: each does a workload the way its library wants it, in an interpreter of its own.

A driver is started as `python -m benchmarks.drivers.NAME FUNCTION …` by the interpreter of its venv. It holds a
function per workload that it can do; what the function returns is printed as one line that the harness reads.
`wall_s` is from the call to the result in hand; imports and the making of input are not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from typing import Any

RESULT_MARK = "benchmark result: "
Result = dict[str, Any]
Function = Callable[[argparse.Namespace], Result]

_BEGAN = time.perf_counter()


def parse_arguments() -> argparse.Namespace:
    """Return what the harness asks for; also before the heavy imports, which some variants choose."""
    parser = argparse.ArgumentParser()
    parser.add_argument("function")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--url", default="", help="the server's address, with /v1")
    parser.add_argument("--data", default="", help="a file of input rows")
    parser.add_argument("--work", required=True, help="a folder that is empty before the first call")
    parser.add_argument("--variant", default="")
    parser.add_argument("--edit", default="A", help="which text the last prompt of w6edit has")
    return parser.parse_args()


def drive(functions: Mapping[str, Function]) -> None:
    """Do the workload that the command line names and print its result."""
    import_s = time.perf_counter() - _BEGAN
    arguments = parse_arguments()
    function = functions.get(arguments.function)
    began = time.perf_counter()
    result: Result = {"is_not_offered": True} if function is None else function(arguments)
    result.setdefault("wall_s", time.perf_counter() - began)
    print(RESULT_MARK + json.dumps({"import_s": import_s, **result}), flush=True)


def count_complete(values: Iterable[object], n_rows: int) -> Result:
    """Return how many rows have a text, and how many of all are missing."""
    complete = sum(isinstance(value, str) and bool(value) for value in values)
    return {"complete": complete, "lost": n_rows - complete}


def server_stats(url: str) -> dict[str, Any]:
    """Return the server's counters."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url.removesuffix("/v1") + "/stats", timeout=30) as response:
        stats: dict[str, Any] = json.load(response)
    return stats


def without_downloads() -> None:
    """Keep a peer from the network: no telemetry, no Hub, and token counts by length.

    Two peers count tokens by an encoding that `tiktoken` downloads at first use. A quarter of the characters takes
    its place, which costs less: it flatters them a little.
    """
    os.environ.update(
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        DO_NOT_TRACK="1",
        TELEMETRY_ENABLED="false",
        NEMO_TELEMETRY_ENABLED="false",
        LITELLM_LOCAL_MODEL_COST_MAP="True",
        OPENAI_API_KEY="none-needed",
    )
    import tiktoken  # type: ignore[import-not-found]  # of the peers' venvs only

    class LengthEncoding:
        def encode(self, text: str, **_: object) -> range:
            return range(len(text) // 4 + 1)

    tiktoken.get_encoding = lambda name: LengthEncoding()


def option(name: str, default: str = "") -> str:
    """Return an option of the command line before it is parsed, for what must be set before an import."""
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default

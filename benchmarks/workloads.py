"""What is measured: each workload with its size, its server and who takes part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Protocol = Literal["once", "kill", "edit"]

# The judge rates every text that its prompt numbers, in the form that distilnb's and distilabel's parsers read.
JUDGE = r"{each}#### Output for Text {i}\nRating: {score}\nRationale: {digest} says so.\n\n{/each}"
MODELS: Mapping[str, Any] = {
    "models": ("mock-model", "gen-a", "gen-b", "judge"),
    "templates": {"judge": JUDGE},
}
FAULTS: Mapping[str, Any] = {
    "latency_ms": 50,
    "max_concurrency": 64,
    "retry_after": 1,
    "error_500_rate": 0.05,
    "error_reset_rate": 0.02,
    "error_malformed_rate": 0.02,
}
LOGNORMAL_MEAN = 1.1331  # over the median, at a sigma of 0.5


@dataclass(frozen=True)
class Workload:
    """One workload. `own` are measured by default; `rivals` are the other libraries, which take long."""

    name: str
    title: str
    function: str  # of the drivers
    rows: int
    own: tuple[str, ...]
    rivals: tuple[str, ...] = ()
    concurrency: int = 1
    server: Mapping[str, Any] | None = None  # None: no server
    floor_s: Callable[[int], float] | None = None  # of the wall, by the number of rows
    runs: int = 3  # in `all`, as far as the time allows
    rival_rows: int | None = None  # where the workload's own number would take them over five minutes
    protocol: Protocol = "once"
    kills: tuple[str, ...] = ()  # whom the protocol "kill" kills, one measurement each
    is_long: bool = False  # in `all` it comes last
    smoke_rows: int = 20  # enough to prove that it works
    options: Mapping[str, Any] = field(default_factory=dict)


_RIVALS = ("distilabel", "curator", "datadesigner")
_BARE = ("aiohttp", "openai", "distilnb")

_ALL = (
    Workload(
        "w1",
        "four cheap steps, no model: add a column, keep even ids, rename, expand a list of two",
        "w1",
        100_000,
        ("list", "list-file", "arrow", "distilnb", "distilnb-columns", "distilnb-list"),
        ("datasets", "distilabel-b1000", "distilabel", "datadesigner"),
        rival_rows=20_000,
        runs=2,
        smoke_rows=2000,
    ),
    Workload(
        "w1m",
        "the same, a million rows",
        "w1",
        1_000_000,
        ("list", "list-file", "arrow", "distilnb", "distilnb-columns", "distilnb-list"),
        ("datasets",),
        runs=1,
        is_long=True,
        smoke_rows=5000,
    ),
    Workload(
        "w1x",
        "the same, ten million rows; only on request",
        "w1",
        10_000_000,
        ("distilnb", "distilnb-columns"),
        runs=0,
        smoke_rows=5000,
        options={"timeout_s": 1800.0},
    ),
    Workload(
        "result",
        "from the end of W1 to its rows in the kernel",
        "result",
        100_000,
        ("distilnb",),
        runs=1,
        smoke_rows=2000,
    ),
    Workload(
        "w2a",
        "one step, 2,000 prompts, 200 ms each, 100 in flight",
        "w2",
        2000,
        _BARE,
        ("openai-aiohttp", *_RIVALS),
        concurrency=100,
        server={"latency_ms": 200},
        floor_s=lambda rows: rows / 100 * 0.2,
    ),
    Workload(
        "w2b",
        "one step, 10,000 prompts, lognormal latency of 50 ms (sigma 0.5), 256 in flight",
        "w2",
        10_000,
        _BARE,
        ("openai-aiohttp", *_RIVALS),
        concurrency=256,
        server={"latency_ms": 50, "latency_dist": "lognormal", "latency_sigma": 0.5},
        floor_s=lambda rows: rows / 256 * 0.05 * LOGNORMAL_MEAN,
        runs=2,
        smoke_rows=300,
    ),
    Workload(
        "w3",
        "preference pipeline: 500 prompts, two generators with two replies each, a judge; 200 ms, 50 a model",
        "w3",
        500,
        _BARE,
        _RIVALS,
        concurrency=50,
        server={"latency_ms": 200},
        floor_s=lambda rows: (rows / 50 + 1) * 0.2,
    ),
    Workload(
        "w4",
        "faults: 2,000 prompts, 50 ms, 100 in flight against a limit of 64; 5 % status 500, 2 % resets, 2 % cut bodies",
        "w2",
        2000,
        _BARE,
        _RIVALS,
        concurrency=100,
        server=FAULTS,
        floor_s=lambda rows: rows / 64 * 0.05,
        smoke_rows=100,
    ),
    Workload(
        "w4h",
        "the same, with 2 % requests that hang (client's patience 2 s) and a server that closes idle connections",
        "w4h",
        2000,
        _BARE,
        _RIVALS,
        concurrency=100,
        server={**FAULTS, "error_timeout_rate": 0.02, "timeout_s": 30, "keep_alive_s": 0.1},
        floor_s=lambda rows: rows / 64 * 0.05,
        runs=1,
        smoke_rows=100,
    ),
    Workload(
        "w5",
        "kill -9 when half of W2a is answered, then the same call again",
        "w5",
        2000,
        ("distilnb",),
        ("curator", "datadesigner", "datadesigner-b100", "distilabel"),
        concurrency=100,
        server={"latency_ms": 200},
        runs=1,
        protocol="kill",
        kills=("kernel", "runner", "rows", "ask", "all"),
        options={"timeout_s": 60.0},  # one of the rivals never comes back
        smoke_rows=200,
    ),
    Workload(
        "w6preview",
        "preview of 5 rows of 1,000, 200 ms",
        "w6preview",
        1000,
        ("aiohttp", "openai", "distilnb", "distilnb-hasty"),
        _RIVALS,
        concurrency=5,
        server={"latency_ms": 200},
        floor_s=lambda rows: 0.2,
    ),
    Workload(
        "w6edit",
        "two steps over 100 prompts, 50 ms; the last prompt is changed and the program runs again",
        "w6edit",
        100,
        ("distilnb",),
        _RIVALS,
        concurrency=50,
        server={"latency_ms": 50},
        protocol="edit",
        floor_s=lambda rows: rows / 50 * 0.05,
        runs=2,
    ),
    Workload(
        "w6series",
        "the same two steps in one kernel, each time through a full background run",
        "w6series",
        100,
        ("distilnb",),
        concurrency=50,
        server={"latency_ms": 50},
    ),
    Workload(
        "start",
        "start-up of a run: 100 prompts, 200 ms",
        "start",
        100,
        ("distilnb",),
        concurrency=100,
        server={"latency_ms": 200},
    ),
    Workload(
        "flat",
        "200,000 requests without latency, 256 in flight: memory, open files and threads must not grow",
        "w2",
        200_000,
        ("distilnb",),
        concurrency=256,
        server={"latency_ms": 0},
        runs=1,
        is_long=True,
        smoke_rows=2000,
        options={"timeout_s": 600.0},
    ),
    Workload(
        "cache",
        "a reply cache of a million entries; two runs and a preview share it at once",
        "cache",
        1_000_000,
        ("distilnb",),
        concurrency=64,
        server={"latency_ms": 20},
        runs=1,
        is_long=True,
        smoke_rows=5000,
    ),
    Workload(
        "events",
        "10,000 rows a second for 10 s: what the runner costs",
        "events",
        100_000,
        ("distilnb",),
        runs=1,
        smoke_rows=5000,
    ),
    Workload(
        "panel",
        "10,000 rows a second for 10 s: what the live panel costs its kernel",
        "panel",
        100_000,
        ("distilnb",),
        runs=1,
        smoke_rows=5000,
    ),
    Workload(
        "cell",
        "cells in a kernel: `%distil run` of 1,000 and 100,000 rows returns, a preview shows its first row; 200 ms",
        "cell",
        100_000,
        ("distilnb",),
        concurrency=5,
        server={"latency_ms": 200, "templates": {"mock-model": "the mock server's answer"}},
        runs=1,
        smoke_rows=5000,
    ),
)
WORKLOADS: Mapping[str, Workload] = {workload.name: workload for workload in _ALL}

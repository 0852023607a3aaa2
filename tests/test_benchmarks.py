"""The benchmarks still run: a few prompts through the whole harness, and tables of made-up measurements."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bars import all_bars
from benchmarks.peers import PEERS
from benchmarks.results import Found
from benchmarks.table import render
from benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).parents[1]


def run_benchmarks(out: Path, *arguments: str) -> tuple[str, list[dict[str, Any]]]:
    """Run the command; return what it printed, and what it noted."""
    # A process of its own, since the harness adopts every orphan below it.
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments, "--runs", "1", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, "TMPDIR": str(out.parent)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.slow
def test_a_bare_loop_and_distilnb_are_measured_side_by_side(tmp_path: Path) -> None:
    printed, (loop, own) = run_benchmarks(
        tmp_path / "out.jsonl", "w2a", "--rows", "20", "--peers", "aiohttp,distilnb"
    )
    for record in (loop, own):
        assert (record["complete"], record["lost"], record["server"]["requests"]) == (20, 0, 20)
        assert record["left_behind"] == 0
        assert record["wall_s"] > 0.2  # the server's latency
    assert loop["n_processes"] == 1
    assert {"kernel", "runner", "ask"} <= own["cpu_s_by_role"].keys()
    assert own["rss_mb"] > own["tree_rss_mb"] > 0
    assert own["cpu_s"] >= max(own["cpu_s_by_role"].values())
    assert "wall after 1.10 × the bare aiohttp loop" in printed
    assert list(tmp_path.glob("distilnb-bench-*")) == []


@pytest.mark.slow
def test_a_panel_is_measured_in_a_kernel_of_its_own(tmp_path: Path) -> None:
    printed, (record,) = run_benchmarks(tmp_path / "out.jsonl", "panel", "--rows", "20000")
    assert record["rows"] == 20_000  # half of them kept, each made two
    assert record["left_behind"] == 0
    assert 0 < record["panel_cpu_share"] < 1
    assert 0.5 < record["panel_hz"] <= 10
    assert "CPU of the kernel that shows the panel" in printed


@pytest.mark.slow
def test_a_killed_process_is_found_and_its_run_goes_on(tmp_path: Path) -> None:
    arguments = ["w5", "--rows", "150", "--peers", "distilnb", "--kills", "rows,all"]
    _, records = run_benchmarks(tmp_path / "out.jsonl", *arguments)
    assert [record["kill"] for record in records] == ["rows", "all"]
    for record in records:
        assert "error" not in record
        assert record["n_killed"] >= (3 if record["kill"] == "all" else 1)
        assert (record["complete"], record["lost"], record["orphans"]) == (150, 0, 0)


def test_what_a_detached_process_used_is_counted_when_its_parent_has_ended() -> None:
    program = """
import os, subprocess, sys
from benchmarks.processes import adopt_orphans, reap_adopted

adopt_orphans()
work = "import time\\nwhile time.process_time() < 0.3: pass"
let_go = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {work!r}], start_new_session=True)"
parent = subprocess.Popen([sys.executable, "-c", let_go])
os.wait4(parent.pid, 0)
parent.returncode = 0
cpu_s, n_killed = reap_adopted(lambda pid: False, patience_s=60.0)
print(cpu_s >= 0.3, n_killed)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.stdout, done.stderr) == ("True 0\n", "")


def made_up(peer: str, wall_s: float, *, run: int = 0, session: str = "1", **more: Any) -> dict[str, Any]:
    return {
        "workload": "w1m",
        "peer": peer,
        "n": 1_000_000,
        "run": run,
        "session": session,
        "load": 1.0,
        "machine": "a machine",
        "version": "0",
        "wall_s": wall_s,
        "cpu_s": 1.0,
        "rss_mb": 10.0,
        "tree_rss_mb": 5.0,
        "n_processes": 1,
        "cpu_s_by_role": {},
        **more,
    }


def test_a_bar_is_a_ratio_within_one_pass() -> None:
    """The machine was twice as slow in the second pass: the ratio is the same, the medians of the walls are not."""
    records = [
        made_up("list", 4.0),
        made_up("distilnb", 6.0),
        made_up("list", 8.0, run=1),
        made_up("distilnb", 12.0, run=1),
        made_up("distilnb", 100.0, run=2),  # no loop in that pass
    ]
    (bar,) = [bar for bar in all_bars(Found(records)) if bar.wanted == "≥ 0.5 ×"]
    assert (bar.measured, bar.is_met) == ("0.67 ×", True)


def test_only_the_newest_session_counts_and_a_failure_is_shown() -> None:
    records = [
        made_up("list", 4.0, session="1"),
        made_up("list", 2.0, session="2"),
        {**made_up("arrow", 1.0, session="2"), "error": "exit 1: no memory"},
    ]
    text = render(records)
    assert re.search(r"bare loop, in memory \| 1 \| 2 \| 500,000 ", text)
    assert "exit 1: no memory" in text


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_names_peers_that_exist(name: str) -> None:
    workload = WORKLOADS[name]
    assert {*workload.own, *workload.rivals} <= PEERS.keys()
    assert workload.smoke_rows < workload.rows


def test_the_readme_tells_every_workload() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert [name for name in WORKLOADS if f"`{name}`" not in text] == []

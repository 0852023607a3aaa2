"""The command: `python -m benchmarks WORKLOAD`, `all`, `import`, `diff`, `setup`, `table`, `list`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import import_time, results, table
from benchmarks.harness import Record, bench, measure
from benchmarks.peers import PEERS, REQUIREMENTS, Peer, install
from benchmarks.processes import adopt_orphans
from benchmarks.workloads import WORKLOADS, Workload

_DEFAULT_BUDGET_S = 900.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; 1 when a measurement failed."""
    options = _parser().parse_args(arguments)
    if options.what == "list":
        return _list()
    if options.what == "setup":
        install(tuple(options.peers.split(",")) if options.peers else tuple(REQUIREMENTS))
        return 0
    if options.what == "table":
        found = results.load(options.out)
        return table.write_readme(found) if options.write else table.show(found)
    adopt_orphans()
    session = results.Session(options.out)
    if options.what == "import":
        session.add(import_time.record(options.runs or 15))
    elif options.what == "diff":
        session.add(_diff_record(options.runs or 3))
    elif options.what == "all":
        _measure_all(session, options)
    else:
        workload = WORKLOADS[options.what]
        rows, peers = _chosen(workload, options)
        if options.kills:
            workload = dataclasses.replace(workload, kills=tuple(options.kills.split(",")))
        for run in range(options.runs or 3):
            _pass(session, workload, peers, rows, run=run, pin=options.pin)
    return table.show(session.records) or int(any("error" in record for record in session.records))


def _diff_record(n_runs: int) -> Record:
    from benchmarks import diff_time  # it imports all of distilnb, which nobody else here does

    return diff_time.record(n_runs)


def _measure_all(session: results.Session, options: argparse.Namespace) -> None:
    """Measure everything once, then again what is worth it, as long as the budget allows."""
    began = time.monotonic()
    wanted = [w for w in WORKLOADS.values() if w.runs and (w.rivals or not options.rivals)]
    wanted.sort(key=lambda workload: workload.is_long)  # what the budget may leave out
    n_passes = options.runs or max(workload.runs for workload in wanted)
    for run in range(n_passes):
        if run == 0 and not options.rivals:
            session.add(import_time.record(15))
            session.add(_diff_record(3))
        for workload in wanted:
            rows, peers = _chosen(workload, options)
            left_s = options.budget_s - (time.monotonic() - began)
            if run >= (options.runs or workload.runs):
                continue
            if run == 0 and left_s <= 0:
                print(
                    f"the budget of {options.budget_s:.0f} s is spent: {workload.name} is left out",
                    file=sys.stderr,
                )
                continue
            if left_s > session.seconds_of(workload.name):
                _pass(session, workload, peers, rows, run=run, pin=options.pin)
    print(f"measured for {time.monotonic() - began:.0f} s", file=sys.stderr)


def _pass(
    session: results.Session, workload: Workload, peers: Sequence[Peer], rows: int, *, run: int, pin: bool
) -> None:
    """Measure each peer once, in turn, so that what else the machine does falls on all alike."""
    began = time.monotonic()
    with bench(workload, rows, pin=pin) as made:
        for peer in peers:
            for record in measure(made, peer):
                session.add({**record, "run": run})
                _tell(record)
    session.note_seconds(workload.name, time.monotonic() - began)


def _tell(record: Record) -> None:
    if record.get("is_not_offered"):
        figures = "does not offer it"
    elif "error" in record:
        figures = f"FAILED: {record['error']}"
    else:
        kill = f"kill {record['kill']}: " if "kill" in record else ""
        figures = f"{kill}{record['wall_s']:.2f} s, CPU {record['cpu_s']:.1f} s, {record['rss_mb']:.0f} MB"
    print(f"{record['workload']} {record['peer']} n={record['n']}: {figures}", file=sys.stderr, flush=True)


def _chosen(workload: Workload, options: argparse.Namespace) -> tuple[int, list[Peer]]:
    """Return how many rows, and who takes part."""
    if options.peers and options.what != "all":
        names = options.peers.split(",")
    elif options.rivals:  # in `all` beside one bare loop and distilnb, to be compared within a pass
        own = [workload.own[0], "distilnb"] if options.what == "all" else workload.own
        names = list(dict.fromkeys([*own, *workload.rivals]))
    else:
        names = list(workload.own)
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise SystemExit(f"There is no peer {unknown[0]!r}; there are {', '.join(PEERS)}.")
    absent = [name for name in names if not PEERS[name].is_installed]
    for name in absent:
        print(f"{name} is not installed (python -m benchmarks setup): left out", file=sys.stderr)
    rows = workload.rows
    if options.rivals and workload.rival_rows:
        rows = workload.rival_rows
    if options.smoke:
        rows = workload.smoke_rows
    return options.rows or rows, [PEERS[name] for name in names if name not in absent]


def _list() -> int:
    for workload in WORKLOADS.values():
        print(
            f"{workload.name:10} {workload.title}\n{'':10} {workload.rows:,} rows · {', '.join(workload.own)}"
        )
        if workload.rivals:
            print(f"{'':10} with --rivals: {', '.join(workload.rivals)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", choices=[*WORKLOADS, "all", "import", "diff", "setup", "table", "list"])
    parser.add_argument("--rows", type=int, default=0, help="instead of the workload's own number")
    parser.add_argument("--peers", default="", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--rivals", action="store_true", help="the other libraries too; with `all` only they")
    parser.add_argument("--runs", type=int, default=0, help="how often each is measured")
    parser.add_argument("--kills", default="", help="of w5: kernel, runner, rows, ask, all")
    parser.add_argument("--smoke", action="store_true", help="few rows: does everything work?")
    parser.add_argument(
        "--pin", action="store_true", help="a core for the server, the others for the measured"
    )
    parser.add_argument("--budget-s", type=float, default=_DEFAULT_BUDGET_S, help="of `all`")
    parser.add_argument("--out", type=Path, default=results.DEFAULT_PATH, help="each run is appended here")
    parser.add_argument("--write", action="store_true", help="`table`: put the tables into README.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())

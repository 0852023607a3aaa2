"""Markdown tables of measurements: the bars first, then every workload with all who took part."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bars import all_bars, cpu_per_thousand, runner_share
from benchmarks.peers import PEERS
from benchmarks.results import Found, Record, figure
from benchmarks.workloads import WORKLOADS

README = Path(__file__).resolve().parent / "README.md"
_BEGIN, _END = "<!-- tables: begin -->", "<!-- tables: end -->"

Cell = Callable[[Record], Any]  # a number, a text, or None


def show(records: Sequence[Record]) -> int:
    """Print the tables."""
    print(render(records))
    return 0


def write_readme(records: Sequence[Record]) -> int:
    """Put the tables into README.md, between their marks."""
    text = README.read_text(encoding="utf-8")
    between = re.compile(f"{re.escape(_BEGIN)}.*{re.escape(_END)}", re.DOTALL)
    README.write_text(between.sub(lambda _: f"{_BEGIN}\n\n{render(records)}\n{_END}", text), encoding="utf-8")
    return 0


def render(records: Sequence[Record]) -> str:
    """Return all tables as markdown."""
    found = Found(records)
    return "\n".join([*_about(records), *_bars(found), *_tables(found)])


def _about(records: Sequence[Record]) -> Iterator[str]:
    machines = dict.fromkeys(record["machine"] for record in records)
    versions = dict.fromkeys(record["version"] for record in records)
    days = sorted({record["session"][:10] for record in records})
    loads = [record["load"] for record in records]
    yield f"distilnb {', '.join(versions)}; {'; '.join(machines)}; {days[0]}" + (
        f" to {days[-1]}" if len(days) > 1 else ""
    )
    yield f"Load of the machine: {min(loads):g} to {max(loads):g}, median {statistics.median(loads):g}."
    yield ""


def _bars(found: Found) -> Iterator[str]:
    bars = list(all_bars(found))
    if not bars:
        return
    yield "| | figure | bar | measured | |"
    yield "|---|---|---|---|---|"
    for bar in bars:
        verdict = "met" if bar.is_met else "**missed**"
        if bar.wanted.startswith("("):  # shown beside the bar, not asked for
            verdict = ""
        yield f"| {bar.workload} | {bar.what} | {bar.wanted} | {bar.measured} | {verdict} |"
    yield ""


def _tables(found: Found) -> Iterator[str]:
    for name, workload in WORKLOADS.items():
        for n_rows in found.sizes(name):
            yield f"### {name.upper()}: {workload.title}"
            yield ""
            if n_rows != workload.rows:
                yield f"Here with {n_rows:,} rows instead of {workload.rows:,}."
                yield ""
            yield from _table(found, name, n_rows)
            yield ""


def _table(found: Found, name: str, n_rows: int) -> Iterator[str]:
    groups = _groups(found, name, n_rows)
    good = [record for records in groups.values() for record in records if "error" not in record]
    columns = {
        title: cell
        for title, cell in _columns(name, n_rows).items()
        if any(cell(record) is not None for record in good)
    }
    titles = [*columns, "wall by distilnb's"]
    yield "| | runs | " + " | ".join(titles) + " |"
    yield "|---" * (len(titles) + 2) + "|"
    for label, records in groups.items():
        done = [record for record in records if "error" not in record]
        failed = [record["error"] for record in records if "error" in record]
        cells = [_summary([cell(record) for record in done]) for cell in columns.values()]
        cells.append(_by_distilnb(found, name, records[0]["peer"], n_rows))
        if not done:
            cells = [failed[0].replace("|", "/")[:120], *[""] * (len(titles) - 1)]
        runs = f"{len(records)}, {len(failed)} failed" if failed and done else f"{len(records)}"
        yield f"| {label} | {runs} | {' | '.join(cells)} |"


def _by_distilnb(found: Found, name: str, peer: str, n_rows: int) -> str:
    """Return how many times distilnb's wall a peer takes, in the same pass."""
    if peer == "distilnb" or "kill" in found.runs(name, peer, n_rows)[0]:
        return ""
    ratio = found.ratio(name, peer, "distilnb", n_rows, lambda theirs, own: theirs["wall_s"] / own["wall_s"])
    return "" if ratio is None else f"{ratio:.2g} ×" if ratio < 100 else f"{ratio:.0f} ×"


def _groups(found: Found, name: str, n_rows: int) -> Mapping[str, list[Record]]:
    """Return the measurements by the label of their line."""
    groups: dict[str, list[Record]] = {}
    for peer in found.peers(name, n_rows):
        for record in found.runs(name, peer, n_rows):
            if record.get("is_not_offered"):
                continue
            label = PEERS[peer].label if peer in PEERS else peer
            if "kill" in record:
                label += f", kill of {record['kill']}"
            groups.setdefault(label, []).append(record)
    return groups


def _columns(name: str, n_rows: int) -> Mapping[str, Cell]:
    floor = WORKLOADS[name].floor_s
    by_role = WORKLOADS[name].name in ("w1m", "w1x", "w2b", "flat")
    return {
        "wall s": lambda r: None if name in ("cache", "w6series") else r["wall_s"],
        "× floor": lambda r: None if floor is None else r["wall_s"] / floor(n_rows),
        "rows/s": lambda r: n_rows / r["wall_s"] if WORKLOADS[name].function == "w1" else None,
        **_told("durable s", "durable_s"),
        **_told("Distiset s", "distiset_s"),
        **_told("as datasets.Dataset s", "dataset_s"),
        **_told("as DataFrame s", "frame_s"),
        "CPU s": lambda r: r["cpu_s"],
        "CPU s for 1,000 requests": lambda r: (
            cpu_per_thousand(r) if name in ("w2a", "w2b", "w3", "flat") else None
        ),
        "CPU s of runner / row worker / ask worker": lambda r: _cpu_by_role(r) if by_role else None,
        "peak memory MB": lambda r: r["rss_mb"],
        "without the first process MB": lambda r: r["tree_rss_mb"] if r["n_processes"] > 1 else None,
        "processes": lambda r: r["n_processes"],
        "requests": lambda r: r["server"]["requests"] if "server" in r else None,
        "status 429": lambda r: r["server"]["rejected_429"] or None if "server" in r else None,
        **_told("complete", "complete"),
        **_told("lost", "lost"),
        **_told("in flight at the kill", "in_flight"),
        **_told("asked again", "resent"),
        **_told("paid twice", "paid_twice"),
        **_told("orphans", "orphans"),
        **_told("first run: requests", "first_requests"),
        **_told("rerun: requests", "rerun_requests"),
        "import s": lambda r: r["import_s"] if name == "w6preview" else None,
        **_told("first preview s", "first_s" if name == "w6preview" else ""),
        **_told("warm s", "warm_s"),
        **_told("all cached s", "cached_s"),
        **{
            f"{step} s": figure(f"{step}_s")
            for step in ("first", "again", "edited", "appended")
            if name == "w6series"
        },
        **{
            f"{step}: requests": figure(f"{step}_requests")
            for step in ("first", "again", "edited", "appended", "preview")
            if name == "w6series"
        },
        **_told("start() s", "start_s"),
        **_told("first event s", "event_s"),
        **_told("first rows s", "rows_s"),
        **_told("lookup s", "lookup_s"),
        **_told("worst lookup s", "worst_lookup_s"),
        **_told("cache MB", "cache_mb"),
        **_told("two runs and a preview s", "shared_s"),
        "runner's CPU %": lambda r: 100 * runner_share(r) if name == "events" else None,
        "kernel's CPU %": lambda r: 100 * r["panel_cpu_share"] if "panel_cpu_share" in r else None,
        **_told("looks a second", "panel_hz"),
        **_told("first row s", "first_row_s"),
        **_told("first row, edited s", "warm_row_s"),
        **{
            f"run, {model}, {rows} s": figure(f"run_{model}_{size}_s")
            for size, rows in (("small", "1,000"), ("large", f"{n_rows:,}"))
            for model in ("free", "priced")
            if name == "cell"
        },
    }


def _told(title: str, name: str) -> Mapping[str, Cell]:
    return {title: figure(name)}


def _cpu_by_role(record: Record) -> str | None:
    cpu = record["cpu_s_by_role"]
    return (
        " / ".join(f"{cpu.get(role, 0):.1f}" for role in ("runner", "rows", "ask"))
        if "runner" in cpu
        else None
    )


def _summary(values: Sequence[Any]) -> str:
    """Return the median, and the range where it is wide enough to be told."""
    there = [value for value in values if value is not None]
    if not there:
        return ""
    if isinstance(there[0], str):
        return str(there[-1])
    numbers = [float(value) for value in there]
    middle = statistics.median(numbers)
    spread = max(numbers) - min(numbers)
    if middle and spread > 0.05 * middle:
        return f"{_short(middle)} ({_short(min(numbers))} to {_short(max(numbers))})"
    return _short(middle)


def _short(value: float) -> str:
    """Return a number with three digits, whole ones whole.

    >>> _short(0.2034), _short(12345.6), _short(18.0)
    ('0.203', '12,346', '18')
    """
    if value == int(value) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"

"""The figures to reach: each bar with what was measured, met or missed. All are ratios, or distances, within a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.drivers.cell_kernel import SMALL
from benchmarks.import_time import BAR_S
from benchmarks.results import Found, Record, figure, median_of
from benchmarks.workloads import WORKLOADS

SAME = 1.10  # memory that does not grow: within a tenth
_STARTUP_S = 0.5
DIFF_S = 2.0
_MODEL_S = 0.2  # of previews and of the start-up


@dataclass(frozen=True)
class Bar:
    """One line: what is asked for, what was found."""

    workload: str
    what: str
    wanted: str
    measured: str
    is_met: bool


def all_bars(found: Found) -> Iterator[Bar]:
    """Yield every bar for which there is a measurement."""
    makers = (
        _w1,
        _w1_memory,
        _asking,
        _w4,
        _w5,
        _w6,
        _import,
        _diff,
        _start,
        _flat,
        _cache,
        _events,
        _panel,
        _cell,
    )
    for make in makers:
        yield from make(found)


def size_of(found: Found, workload: str) -> int:
    """Return the size to judge: the workload's own, else the largest that was measured; 0 when none was."""
    sizes = found.sizes(workload)
    own = WORKLOADS[workload].rows
    return own if own in sizes else max(sizes, default=0)


def _at_most(workload: str, what: str, value: float | None, bar: float, unit: str = "") -> Iterator[Bar]:
    if value is not None:
        yield Bar(workload, what, f"≤ {bar:.3g}{unit}", f"{value:.3g}{unit}", value <= bar)


def _w1(found: Found) -> Iterator[Bar]:
    bars = {
        "distilnb": ("list-of-dict steps, from a file", 0.5),
        "distilnb-columns": ("built-in verbs, from a file", 0.9),
        "distilnb-list": ("from a list in the kernel", 0.3),
    }
    for workload in ("w1", "w1m"):
        n_rows = size_of(found, workload)
        for peer, (what, bar) in bars.items():
            for loop, told in (("list", "the bare loop"), ("list-file", "the bare loop that reads the file")):
                share = found.ratio(workload, peer, loop, n_rows, lambda a, b: b["wall_s"] / a["wall_s"])
                if share is None or (loop == "list-file" and peer == "distilnb-list"):
                    continue
                is_bar = workload == "w1m" and loop == "list"
                wanted = f"≥ {bar:g} ×" if is_bar else f"(≥ {bar:g} ×)"
                yield Bar(workload, f"{what}: rows/s by {told}", wanted, f"{share:.2f} ×", share >= bar)


def _w1_memory(found: Found) -> Iterator[Bar]:
    peaks: dict[int, float] = {}
    for workload in ("w1", "w1m", "w1x"):
        n_rows = size_of(found, workload)
        peak = found.median(workload, "distilnb", n_rows, lambda record: record["tree_rss_mb"])
        if peak is not None:
            peaks[n_rows] = peak
    if len(peaks) > 1:
        first, *others = sorted(peaks)
        for n_rows in others:
            told = f"peak memory of runner and workers, {n_rows:,} by {first:,} rows"
            yield from _at_most("w1", told, peaks[n_rows] / peaks[first], SAME, " ×")


def _asking(found: Found) -> Iterator[Bar]:
    n_rows = size_of(found, "w2a")
    over = found.ratio("w2a", "distilnb", "aiohttp", n_rows, _left_after(1.10))
    yield from _at_most("w2a", "wall after 1.10 × the bare aiohttp loop", over, _STARTUP_S, " s")
    tree = found.median("w2a", "distilnb", n_rows, lambda record: record["tree_rss_mb"])
    yield from _at_most("w2a", "memory of runner and workers", tree, 120, " MB")
    n_rows = size_of(found, "w2b")
    over = found.ratio("w2b", "distilnb", "aiohttp", n_rows, _left_after(1.25))
    yield from _at_most("w2b", "wall after 1.25 × the bare aiohttp loop", over, _STARTUP_S, " s")
    cpu = found.median("w2b", "distilnb", n_rows, cpu_per_thousand)
    yield from _at_most("w2b", "CPU for 1,000 requests, kernel and imports included", cpu, 0.35, " s")
    n_rows = size_of(found, "w3")
    floor_s = WORKLOADS["w3"].floor_s
    wall = found.median("w3", "distilnb", n_rows, lambda record: record["wall_s"])
    if wall is not None and floor_s is not None:
        yield from _at_most("w3", "wall after 1.25 × the floor", wall - 1.25 * floor_s(n_rows), 0.4, " s")
        judged = found.median("w3", "distilnb", n_rows, lambda r: r["judged_before_generated"]) or 0
        told = "rows judged before the generators end"
        yield Bar("w3", told, "> 0", f"{judged:.0f}", judged > 0)


def _left_after(factor: float) -> Callable[[Record, Record], float]:
    """Compare two walls: what is left of the first after so many of the second."""

    def left(mine: Record, theirs: Record) -> float:
        return float(mine["wall_s"] - factor * theirs["wall_s"])

    return left


def cpu_per_thousand(record: Record) -> float | None:
    """Return the CPU seconds for 1,000 requests, None for a workload without any."""
    requests = record.get("server", {}).get("requests", 0)
    return record["cpu_s"] / requests * 1000 if requests else None


def _w4(found: Found) -> Iterator[Bar]:
    for workload in ("w4", "w4h"):
        n_rows = size_of(found, workload)
        runs = found.runs(workload, "distilnb", n_rows)
        if not runs:
            continue
        worst = min(record.get("complete", 0) for record in runs)
        yield Bar(workload, "rows complete", f"{n_rows:,}", f"{worst:,}", worst == n_rows)
        ratio = found.ratio(workload, "distilnb", "openai", n_rows, lambda a, b: a["wall_s"] / b["wall_s"])
        yield from _at_most(workload, "wall by the openai client", ratio, 1.0, " ×")


def _w5(found: Found) -> Iterator[Bar]:
    n_rows = size_of(found, "w5")
    by_kill: dict[str, list[Record]] = {}
    for record in found.runs("w5", "distilnb", n_rows):
        by_kill.setdefault(record["kill"], []).append(record)
    for kill, records in by_kill.items():
        if any("error" in record for record in records):
            yield Bar("w5", f"kill of {kill}", "goes on", records[0].get("error", ""), False)
            continue
        allowed = 0 if kill in ("kernel", "rows") else WORKLOADS["w5"].concurrency
        resent = max(record["resent"] for record in records)
        yield Bar("w5", f"kill of {kill}: asked again", f"≤ {allowed}", f"{resent}", resent <= allowed)
        left = max(record["orphans"] + record["lost"] for record in records)
        yield Bar("w5", f"kill of {kill}: orphans and lost rows", "0", f"{left}", left == 0)


def _w6(found: Found) -> Iterator[Bar]:
    n_rows = size_of(found, "w6preview")
    for name, told, over in (("warm_s", "warm", 0.05), ("first_s", "first of a process", 0.15)):
        taken = found.median("w6preview", "distilnb", n_rows, figure(name))
        yield from _at_most("w6preview", f"preview of 5 rows, {told}", taken, _MODEL_S + over, " s")
    n_rows = size_of(found, "w6edit")
    asked = found.median("w6edit", "distilnb", n_rows, lambda record: record["rerun_requests"])
    yield from _at_most("w6edit", "requests after a change of the last prompt", asked, n_rows)
    n_rows = size_of(found, "w6series")
    wanted = {
        "again": ("nothing changed", 0),
        "edited": ("last prompt changed", n_rows),
        "appended": ("10 rows more", 20),
    }
    for name, (told, n_asked) in wanted.items():
        asked = found.median("w6series", "distilnb", n_rows, figure(f"{name}_requests"))
        yield from _at_most("w6series", f"{told}: requests", asked, n_asked)
        taken = found.median("w6series", "distilnb", n_rows, figure(f"{name}_s"))
        yield from _at_most("w6series", f"{told}: through a full run", taken, 0.5, " s")
    asked = found.median("w6series", "distilnb", n_rows, lambda record: record["preview_requests"])
    yield from _at_most("w6series", "preview after the run: requests", asked, 0)


def _import(found: Found) -> Iterator[Bar]:
    for n_runs in found.sizes("import")[-1:]:
        record = found.runs("import", "distilnb", n_runs)[-1]
        over = record["seconds"]["distilnb"] - record["seconds"]["pydantic"]
        yield from _at_most("import", "import distilnb after import pydantic", over, BAR_S, " s")
        loaded = ", ".join(record["heavy"]) or "none"
        yield Bar("import", "heavy packages loaded by it", "none", loaded, not record["heavy"])


def _diff(found: Found) -> Iterator[Bar]:
    for n_runs in found.sizes("diff")[-1:]:
        record = found.runs("diff", "distilnb", n_runs)[-1]
        for name, taken in record["seconds"].items():
            yield from _at_most("diff", f"two versions side by side, {name}", taken, DIFF_S, " s")


def _start(found: Found) -> Iterator[Bar]:
    n_rows = size_of(found, "start")
    wanted = {
        "start_s": ("start() returns", 0.1),
        "event_s": ("first event", 0.2),
        "rows_s": ("first rows on disk", 0.8 + _MODEL_S),
    }
    for name, (told, bar) in wanted.items():
        taken = found.median("start", "distilnb", n_rows, figure(name))
        yield from _at_most("start", told, taken, bar, " s")


def _flat(found: Found) -> Iterator[Bar]:
    n_rows = size_of(found, "flat")
    told = {"rss_bytes": "memory", "n_files": "open files", "n_threads": "threads"}
    for name, what in told.items():
        growth = found.median("flat", "distilnb", n_rows, _growth_of(name))
        yield from _at_most("flat", f"{what} in the last quarter by the second", growth, SAME, " ×")


def _growth_of(name: str) -> Callable[[Record], float | None]:
    def growth(record: Record) -> float | None:
        value: float | None = record["growth"].get(name)
        return value

    return growth


def _cache(found: Found) -> Iterator[Bar]:
    n_rows = size_of(found, "cache")
    taken = found.median("cache", "distilnb", n_rows, lambda record: record["lookup_s"])
    yield from _at_most("cache", f"a batch of 1,000 in {n_rows:,} entries", taken, 0.02, " s")
    records = [record for record in found.runs("cache", "distilnb", n_rows) if "error" not in record]
    if records:
        failed = max(record["lost"] for record in records)
        yield Bar("cache", "two runs and a preview at once: failures", "0", f"{failed}", failed == 0)
        asked = median_of(record["again_requests"] for record in records) or 0
        yield Bar("cache", "and once more: requests", "0", f"{asked:.0f}", asked == 0)


def _events(found: Found) -> Iterator[Bar]:
    n_rows = size_of(found, "events")
    share = found.median("events", "distilnb", n_rows, runner_share)
    if share is not None:
        rate = found.median("events", "distilnb", n_rows, lambda record: record["rows_in_per_s"]) or 0.0
        told = f"CPU of the runner at {rate:,.0f} rows/s"
        yield Bar("events", told, "< 5 % at 10,000", f"{100 * share:.1f} %", share < 0.05 and rate >= 10_000)


def runner_share(record: Record) -> float:
    """Return the runner's CPU as a share of the time that the run took."""
    return float(record["cpu_s_by_role"].get("runner", 0.0) / record["durable_s"])


def _panel(found: Found) -> Iterator[Bar]:
    n_rows = size_of(found, "panel")
    share = found.median("panel", "distilnb", n_rows, figure("panel_cpu_share"))
    if share is not None:
        rate = found.median("panel", "distilnb", n_rows, figure("rows_in_per_s")) or 0.0
        hz = found.median("panel", "distilnb", n_rows, figure("panel_hz")) or 0.0
        told = f"CPU of the kernel that shows the panel, at {rate:,.0f} rows/s"
        yield Bar("panel", told, "< 3 % at 10,000", f"{100 * share:.1f} %", share < 0.03 and rate >= 10_000)
        yield Bar("panel", "looks at the run a second", "≤ 10", f"{hz:.1f}", hz <= 10)


def _cell(found: Found) -> Iterator[Bar]:
    n_rows = size_of(found, "cell")
    for name, told in (("first_row_s", "a kernel's first preview"), ("warm_row_s", "an edited prompt")):
        taken = found.median("cell", "distilnb", n_rows, figure(name))
        over = None if taken is None else taken - _MODEL_S
        yield from _at_most("cell", f"{told}: first row after the model's own time", over, 0.1, " s")
    for size, rows in (("small", SMALL), ("large", n_rows)):
        for model in ("free", "priced"):
            taken = found.median("cell", "distilnb", n_rows, figure(f"run_{model}_{size}_s"))
            told = f"%distil run returns, {model} model, {rows:,} rows"
            yield from _at_most("cell", told, taken, 0.2, " s")

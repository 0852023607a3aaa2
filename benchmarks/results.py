"""Measurements on disk: a line of JSON each, appended as soon as it is made."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distilnb.version import __version__

Record = dict[str, Any]

DEFAULT_PATH = Path(__file__).resolve().parent / ".results" / "results.jsonl"  # not in git


class Session:
    """The measurements of one call of the command. Only those of one session are compared with each other."""

    def __init__(self, path: Path) -> None:
        self.records: list[Record] = []
        self._path = path
        self._marks = {
            "session": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "version": __version__,
            "machine": machine(),
        }
        self._seconds: dict[str, float] = {}
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, record: Record) -> None:
        """Append a measurement."""
        marked = {**record, **self._marks}
        self.records.append(marked)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(marked) + "\n")

    def note_seconds(self, workload: str, seconds: float) -> None:
        """Note how long a pass over a workload took."""
        self._seconds[workload] = seconds

    def seconds_of(self, workload: str) -> float:
        """Return how long a further pass will take, 0 when none was made yet."""
        return self._seconds.get(workload, 0.0)


def load(path: Path) -> list[Record]:
    """Return the measurements of a file, oldest first."""
    if not path.exists():
        raise SystemExit(f"There is no {path}: measure something first.")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def machine() -> str:
    """Return what the machine is, in words."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = names[0] if names else cpu
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} cores of {cpu}, {pages / 2**30:.0f} GiB, {platform.system()} {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}"
    )


class Found:
    """Measurements that can be asked: the newest session of each peer and size, failures left out."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = list(records)
        newest: dict[tuple[str, str, int], str] = {}
        for record in self.records:
            newest[_place(record)] = max(newest.get(_place(record), ""), record["session"])
        self._groups: dict[tuple[str, str, int], list[Record]] = defaultdict(list)
        for record in self.records:
            if record["session"] == newest[_place(record)]:
                self._groups[_place(record)].append(record)

    def sizes(self, workload: str) -> list[int]:
        """Return the numbers of rows that a workload was measured with."""
        return sorted({n for name, _, n in self._groups if name == workload})

    def peers(self, workload: str, n_rows: int) -> list[str]:
        """Return who was measured, in the order of their first measurement."""
        return [peer for name, peer, n in self._groups if (name, n) == (workload, n_rows)]

    def runs(self, workload: str, peer: str, n_rows: int) -> list[Record]:
        """Return the measurements of a peer, failures too."""
        return self._groups.get((workload, peer, n_rows), [])

    def median(
        self, workload: str, peer: str, n_rows: int, value: Callable[[Record], float | None]
    ) -> float | None:
        """Return the median of a figure, None when nobody has it."""
        return median_of(
            value(record) for record in self.runs(workload, peer, n_rows) if "error" not in record
        )

    def ratio(
        self, workload: str, peer: str, other: str, n_rows: int, compare: Callable[[Record, Record], float]
    ) -> float | None:
        """Return the median of what compares two peers run by run: only runs of one pass are compared."""
        return median_of(
            compare(mine, theirs)
            for mine, theirs in self.pairs(workload, peer, other, n_rows)
            if "error" not in mine and "error" not in theirs
        )

    def pairs(self, workload: str, peer: str, other: str, n_rows: int) -> Iterator[tuple[Record, Record]]:
        """Yield the measurements of two peers that were made in the same pass of the same session."""
        place = (workload, other, n_rows)
        theirs = {(r["session"], r["run"]): r for r in self.records if _place(r) == place}
        for record in self.runs(workload, peer, n_rows):
            if (mark := (record["session"], record["run"])) in theirs:
                yield record, theirs[mark]


def figure(name: str) -> Callable[[Record], Any]:
    """Return what looks a figure up in a measurement; None where it has none."""

    def look_up(record: Record) -> Any:
        return record.get(name)

    return look_up


def median_of(values: Iterable[float | None]) -> float | None:
    """Return the median of the values that are there, None when there is none."""
    there: Sequence[float] = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def _place(record: Record) -> tuple[str, str, int]:
    return record["workload"], record["peer"], record["n"]

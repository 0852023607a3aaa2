"""Who does what: the names of a run's workers, and which of them may do the work of each stage.

A source, a join, a global step and a step that keeps state live in one process of the pool and stay there. Batches
of the other row steps go to whoever has least to do. Sources are kept apart, so that no long step holds up a pull.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from distilnb.engine.plan import Plan, Stage


@dataclass
class Roster:
    """The workers of one plan."""

    plan: Plan
    names: list[str] = field(init=False)
    _places: dict[str, list[str]] = field(init=False)  # stage → the workers that may do it
    _sources: dict[str, list[str]] = field(init=False)  # worker → its sources

    def __post_init__(self) -> None:
        stages = [stage for stage in self.plan.stages if stage.kind != "spool"]
        rows = [stage for stage in stages if stage.worker == "rows"]
        n_row_workers = max(1, int(self.plan.options.get("row_workers") or 1)) if rows else 0
        pool = [f"rows-{number}" for number in range(n_row_workers)]
        self.names = pool + ["ask-0"] * any(stage.worker == "ask" for stage in stages)
        self._places = {stage.name: ["ask-0"] for stage in stages if stage.worker == "ask"}
        self._sources = {}
        self._place_pinned(rows, pool)
        for stage in rows:
            if stage.name not in self._places:
                # From the far end: sources begin at the near one.
                self._places[stage.name] = pool[::-1][: stage.replicas or None]

    def _place_pinned(self, rows: list[Stage], pool: list[str]) -> None:
        sources = [stage for stage in rows if stage.kind == "source"]
        others = [stage for stage in rows if stage.kind != "source" and stage.replicas == 1]
        for_sources = pool[: max(1, len(pool) // 2)]
        for_others = pool[len(for_sources) :] if sources and len(pool) > 1 else pool
        for number, stage in enumerate(sources):
            if stage.is_cut:  # all read it, so it keeps nobody from other work
                self._places[stage.name] = pool
                continue
            place = for_sources[number % len(for_sources)]
            self._places[stage.name] = [place]
            self._sources.setdefault(place, []).append(stage.name)
        for number, stage in enumerate(others):
            self._places[stage.name] = [for_others[-1 - number % len(for_others)]]

    def pick(
        self,
        stage: Stage,
        living: Collection[str],
        n_rows: Callable[[str], int],
        has_ended: Callable[[str], bool],
        maker: str = "",
    ) -> str | None:
        """Return the worker for the stage's next work; None when those that may do it are not there.

        `maker` has made the batch and holds it in memory, so it goes on with it where it may.

        `n_rows` tells how many rows a worker has to do, `has_ended` whether a source is through.
        """
        there = [name for name in self._places[stage.name] if name in living]
        if maker in there:
            return maker
        if len(self._places[stage.name]) > 1:
            free = [
                name for name in there if all(has_ended(source) for source in self._sources.get(name, ()))
            ]
            there = free or there
        return min(there, key=n_rows, default=None)

"""The plan of a run as plain data: stages, how rows flow between them, and which worker does each.

The runner reads it without pydantic, so nothing here knows of specs; `planning` makes a plan from a graph.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

StageKind = Literal["spool", "source", "rows", "ask", "join", "global"]
WorkerRole = Literal["rows", "ask"]

OFFLINE_WINDOW = 50_000  # rows that may wait for offline jobs: as many requests as the usual job takes

FORMAT = 1  # of the run directory; raised when an older runner could not read it


def ask_window(max_concurrency: int) -> int:
    """Return how many rows may be with a model's worker: enough that its slots never run empty."""
    return max(64, 4 * max_concurrency)


@dataclass(frozen=True)
class Stage:
    """One or more fused steps between two files.

    `inputs` are stages in the order of the join; `window` is how many rows may be in flight (0: no limit);
    `tells_gone` says that a join downstream waits for rows by id, so lost rows must be named; `columns` are those
    that each input brings to a join, as far as they are known; `is_route` says that each row flows into some of the
    stages that follow, as the batch file says; `part_bytes` of a source says how large
    the parts are that several workers read (0: one reads it all); `is_offline` says that requests go by offline batch,
    so that very many rows wait at once.
    """

    name: str  # of its last step
    kind: StageKind
    steps: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    worker: WorkerRole = "rows"
    window: int = 0
    batch_rows: int = 1000
    tells_gone: bool = False
    expected_rows: int | None = None  # of a source, where it is known
    replicas: int = (
        0  # how many workers may do it at once: 1 where a process keeps its state, 0 for any number
    )
    columns: tuple[tuple[str, ...], ...] = ()
    is_route: bool = False
    part_bytes: int = 0
    is_offline: bool = False

    @property
    def is_cut(self) -> bool:
        """Whether several workers read parts of this source."""
        return self.part_bytes > 0


@dataclass(frozen=True)
class Plan:
    """All stages in an order in which each comes after its inputs."""

    run_id: str
    pipeline: str
    digest: str  # of graph, rows and options: equal digest, equal run
    stages: tuple[Stage, ...]
    leaves: dict[str, str] = field(default_factory=dict)  # leaf step → its stage
    options: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def stage(self, name: str) -> Stage:
        """Return the stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)

    def stage_of(self, step: str) -> Stage:
        """Return the stage that runs a step."""
        return next(stage for stage in self.stages if step in stage.steps)

    def consumers(self, name: str) -> list[Stage]:
        """Return the stages that read what a stage writes."""
        return [stage for stage in self.stages if name in stage.inputs]

    def downstream(self, name: str) -> list[str]:
        """Return all stages that a stage's rows flow into, in the order of the plan."""
        reached = {name}
        for stage in self.stages:
            if reached.intersection(stage.inputs):
                reached.add(stage.name)
        return [stage.name for stage in self.stages if stage.name in reached and stage.name != name]

    def to_json(self) -> str:
        """Return the plan as text."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote."""
        data = json.loads(text)
        stages = tuple(
            Stage(
                **{
                    **stage,
                    "steps": tuple(stage["steps"]),
                    "inputs": tuple(stage["inputs"]),
                    "columns": tuple(map(tuple, stage.get("columns", ()))),
                }
            )
            for stage in data.pop("stages")
        )
        return cls(stages=stages, **data)

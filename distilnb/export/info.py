"""What a dataset tells of the run that made it: state, counts, models; plain data, kept beside the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from typing_extensions import Self

from distilnb.engine.status import RunStatus, StepStatus
from distilnb.version import __version__


@dataclass(frozen=True)
class RunInfo:
    """The run behind a Distiset. `failures` counts quarantined rows by step and reason."""

    pipeline: str = "pipeline"
    description: str = ""
    run_id: str = ""
    state: str = "finished"
    reason: str = ""  # why it stopped: "user", "budget", ...
    is_rehearsed: bool = False
    is_partial: bool = False
    started_at: float = 0.0
    ended_at: float | None = None
    steps: tuple[StepStatus, ...] = ()
    failures: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    version: str = __version__

    @classmethod
    def of(
        cls,
        status: RunStatus,
        *,
        description: str = "",
        is_partial: bool | None = None,
        failures: Mapping[str, Mapping[str, int]] | None = None,
    ) -> Self:
        """Make it from a run's status; what is not finished is partial."""
        return cls(
            pipeline=status.pipeline,
            description=description,
            run_id=status.id,
            state=status.state,
            reason=status.reason,
            is_rehearsed=status.is_rehearsed,
            is_partial=status.state != "finished" if is_partial is None else is_partial,
            started_at=status.started_at,
            ended_at=status.ended_at,
            steps=status.steps,
            failures=failures or {},
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, also by another version: unknown entries are dropped."""
        known = {item.name for item in fields(cls)}
        of_step = {item.name for item in fields(StepStatus)}
        values = {key: value for key, value in data.items() if key in known}
        values["steps"] = tuple(
            StepStatus(**{key: value for key, value in step.items() if key in of_step})
            for step in data.get("steps", ())
        )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    @property
    def cost_usd(self) -> float | None:
        """Money spent, None when the price of some model is unknown."""
        total = 0.0
        for step in self.steps:
            if step.cost_usd is None:
                return None
            total += step.cost_usd
        return total

    @property
    def marks(self) -> tuple[str, ...]:
        """The words that must stand on everything the run made."""
        return ("rehearsed",) * self.is_rehearsed + ("partial",) * self.is_partial

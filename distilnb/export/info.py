"""What a dataset tells of the run that made it: state, counts, models; plain data, kept beside the rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from typing_extensions import Self

from distilnb.engine.status import RunStatus, StepStatus
from distilnb.version import __version__


@dataclass(frozen=True)
class RunInfo:
    """The run behind a Distiset.

    `failures` counts quarantined rows by step and reason; `edited` counts by step and version the rows that
    `retry(using=...)` has made with an edited step.
    """

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
    edited: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    version: str = __version__

    @classmethod
    def of(
        cls,
        status: RunStatus,
        *,
        description: str = "",
        is_partial: bool | None = None,
        failures: Mapping[str, Mapping[str, int]] | None = None,
        edited: Mapping[str, Mapping[str, int]] | None = None,
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
            edited=edited or {},
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


def count_failures(errors: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Return the rows in quarantine by step and reason."""
    counted: dict[str, dict[str, int]] = {}
    for error in errors:
        if not error["is_partial"] and error["state"] in ("open", "kept"):
            reasons = counted.setdefault(error["step"], {})
            reason = f"{error['kind']}: {error['reason'].splitlines()[0] if error['reason'] else ''}"
            reasons[reason] = reasons.get(reason, 0) + 1
    return counted


def count_edited(versions: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Return the rows that edited steps have made, by step and version."""
    counted: dict[str, dict[str, int]] = {}
    for version in versions:
        if version["row_ids"]:
            counted.setdefault(version["step"], {})[str(version["version"])] = len(version["row_ids"])
    return counted

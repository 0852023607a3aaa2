"""The limits of a run: as it was started, as they were changed since, and which changes make sense.

`adjust` leaves a change as a command with the payload {"steps": [...], "changes": {limit: value or null}}; null
lifts a limit. The runner keeps what is in force in its journal, so that a resume takes it again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

from distilnb.engine.plan import Plan, ask_window
from distilnb.errors import InputError, UnknownStepError, did_you_mean

Number: TypeAlias = "int | float"
Changes: TypeAlias = "dict[str, int | float | None]"

BUDGET = ("max_cost", "max_tokens", "max_time")
PER_MODEL = ("max_concurrency", "rpm", "tpm")
_WHOLE = frozenset({"max_tokens", *PER_MODEL})


@dataclass(frozen=True)
class RunLimits:
    """What limits a run now; None is no limit."""

    max_cost: float | None = None  # USD, over the whole life of the run
    max_tokens: int | None = None  # input and output together, over the whole life of the run
    max_time: float | None = None  # seconds of running, pauses and stops left out
    # max_concurrency, rpm and tpm of each model that sends, by its place: the step, or `answer.llm.0` of several.
    models: dict[str, dict[str, int | None]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, plan: Plan, kept: Mapping[str, Any] | None, waiting: Iterable[Mapping[str, Any]]
    ) -> RunLimits:
        """Return the limits of a plan, of what its journal `kept`, and of changes that wait for a runner."""
        limits = cls(
            **{name: plan.options.get(name) for name in BUDGET},
            models={
                step: {name: model[name] for name in PER_MODEL}
                for step, model in plan.options.get("models", {}).items()
            },
        )
        if kept:
            limits = cls(**kept)
        for payload in waiting:
            limits = limits.changed(payload)
        return limits

    def changed(self, payload: Mapping[str, Any]) -> RunLimits:
        """Return the limits after a change."""
        changes = payload.get("changes", {})
        of_model = {name: value for name, value in changes.items() if name in PER_MODEL}
        models = {
            step: {**limits, **of_model} if step in payload.get("steps", ()) else limits
            for step, limits in self.models.items()
        }
        return replace(self, models=models, **{n: v for n, v in changes.items() if n in BUDGET})

    def windows(self, plan: Plan) -> dict[str, int]:
        """Return how many rows each stage that asks may have at work, but for those whose rows wait for jobs."""
        stages = [(plan.stage_of(step), n_slots) for step, n_slots in self._slots(plan).items()]
        return {
            stage.name: ask_window(n_slots)
            for stage, n_slots in stages
            if stage.kind == "ask" and not stage.is_offline
        }

    def _slots(self, plan: Plan) -> dict[str, int]:
        """Return how many rows each step may have in flight, with all its models: more where rows share requests."""
        models: dict[str, dict[str, Any]] = plan.options.get("models", {})
        found: dict[str, int] = {}
        for place, limits in self.models.items():
            step, n_texts = _step_at(place, models), models.get(place, {}).get("texts_per_request", 1)
            found[step] = found.get(step, 0) + (limits["max_concurrency"] or 1) * n_texts
        return found

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `of` takes as `kept`."""
        return asdict(self)

    def not_raised(self, reached: Mapping[str, Number]) -> list[str]:
        """Return which limits stopped the run, of `reached`, and are as they were, or lower."""
        return [
            name
            for name, value in reached.items()
            if (now := getattr(self, name, None)) is not None and now <= value
        ]


def checked_change(plan: Plan, step: str | None, values: Mapping[str, object]) -> dict[str, Any]:
    """Return the payload of a change; `values` are limits by name, None where one stays as it is.

    Raises UnknownStepError for a step that the run has not, InputError for one that asks no model and for a value
    that makes no sense.
    """
    changes: Changes = {
        name: _checked(name, value, may_lift=name != "max_concurrency")
        for name, value in values.items()
        if value is not None
    }
    if not changes:
        raise InputError("No limit was given.", f"Give one of {', '.join((*PER_MODEL, *BUDGET))}.")
    models: dict[str, dict[str, Any]] = plan.options.get("models", {})
    steps = _steps_of(plan, step, models)
    if not steps and any(name in PER_MODEL for name in changes):
        raise InputError(
            "No step of the run asks a model.", f"Its budget can be changed: {', '.join(BUDGET)}."
        )
    return {"steps": steps, "changes": changes}


def check_limit(name: str, value: object) -> None:
    """Raise InputError for the value of a limit that makes no sense; None is none."""
    if value is not None:
        _checked(name, value, may_lift=False)


def _checked(name: str, value: object, *, may_lift: bool) -> Number | None:
    if may_lift and value == math.inf:
        return None
    is_whole = name in _WHOLE or name == "rows"
    number, kinds = ("a whole number", (int,)) if is_whole else ("a number", (int, float))
    if isinstance(value, kinds) and not isinstance(value, bool) and 0 < value < math.inf:  # which NaN is not
        return value
    otherwise = "float('inf') for no limit" if may_lift else "leave it out"
    raise InputError(f"{name} is {value!r}.", f"Give {number} above 0, or {otherwise}.")


def _steps_of(plan: Plan, step: str | None, models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the places of the models that a step asks, or of those at a place, and wherever else these are asked; all,
    without a name.
    """
    if step is None:
        return sorted(models)
    known = [name for stage in plan.stages for name in stage.steps]
    path = step.replace(".llms.", ".")  # as parameters may be written too
    numbers = {
        model["number"]
        for place, model in models.items()
        if path in (place, _step_at(place, models)) or place.startswith(f"{path}.")
    }
    if step not in known and not numbers:
        raise UnknownStepError(f"There is no step {step!r}; the run has {known}.", did_you_mean(step, known))
    if not numbers:
        raise InputError(
            f"Step {step!r} asks no model; these do: {sorted(models)}.",
            "Name one of them, or no step for all.",
        )
    return sorted(place for place, model in models.items() if model["number"] in numbers)


def _step_at(place: str, models: Mapping[str, Mapping[str, Any]]) -> str:
    return str(models.get(place, {}).get("step", place))

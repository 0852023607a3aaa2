"""What limits a run: the plan's limits, changed by what its journal kept, changed by what waits."""

from __future__ import annotations

import pytest

from distilnb.engine.limits import RunLimits, checked_change
from distilnb.engine.plan import Plan, Stage
from distilnb.errors import InputError

MODEL = {"number": 0, "label": "openai:m", "max_concurrency": 4, "rpm": None, "tpm": None}


def plan(**options: object) -> Plan:
    stages = (Stage("load", "source", ("load",)), Stage("ask", "ask", ("ask",), ("load",), "ask"))
    return Plan("r", "p", "d", stages, options={"models": {"ask": MODEL}, "max_cost": 2.0, **options})


def test_the_plan_is_changed_by_what_was_kept_and_by_what_waits() -> None:
    limits = RunLimits.of(plan(), None, [])
    assert limits == RunLimits(max_cost=2.0, models={"ask": {"max_concurrency": 4, "rpm": None, "tpm": None}})
    later = limits.changed(checked_change(plan(), "ask", {"rpm": 60, "max_cost": 3, "tpm": None}))
    assert later.models["ask"] == {"max_concurrency": 4, "rpm": 60, "tpm": None}
    waiting = [checked_change(plan(), None, {"rpm": float("inf")}), {"changes": {"max_time": 5}}]
    last = RunLimits.of(plan(), later.to_json(), waiting)
    assert (last.max_cost, last.max_time) == (3, 5)
    assert last.models["ask"]["rpm"] is None


def test_a_run_of_an_older_version_has_no_models_to_adjust() -> None:
    old = Plan("r", "p", "d", plan().stages, options={})
    assert RunLimits.of(old, None, []).models == {}
    with pytest.raises(InputError, match="No step of the run asks a model"):
        checked_change(old, None, {"rpm": 5})


@pytest.mark.parametrize(
    "now, not_raised",
    [(2.0, ["max_cost"]), (1.0, ["max_cost"]), (2.5, []), (None, [])],
)
def test_a_limit_must_be_raised_before_a_resume(now: float | None, not_raised: list[str]) -> None:
    assert RunLimits(max_cost=now).not_raised({"max_cost": 2.0}) == not_raised

"""What a dataset tells of its run."""

from __future__ import annotations

import json

from distilnb.engine.status import RunStatus, StepStatus
from distilnb.export.info import RunInfo

STATUS = RunStatus(
    "prefs-1",
    "prefs",
    "stopped",
    (StepStatus("answer", "TextGeneration", cost_usd=0.5),),
    reason="budget",
    is_rehearsed=True,
)


def test_what_is_not_finished_is_partial() -> None:
    info = RunInfo.of(STATUS)
    assert (info.run_id, info.state, info.reason, info.is_partial) == ("prefs-1", "stopped", "budget", True)
    assert info.marks == ("rehearsed", "partial")
    assert RunInfo.of(STATUS, is_partial=False).marks == ("rehearsed",)


def test_it_comes_back_from_json_and_skips_what_a_later_version_adds() -> None:
    info = RunInfo.of(STATUS, description="text", failures={"answer": {"refused": 2}})
    data = json.loads(json.dumps({**info.to_dict(), "new": 1}))
    data["steps"][0]["new"] = 1
    assert RunInfo.from_dict(data) == info


def test_an_unknown_price_makes_the_cost_unknown() -> None:
    assert (
        RunInfo(steps=(StepStatus("a", "X", cost_usd=1.0), StepStatus("b", "X", cost_usd=None))).cost_usd
        is None
    )
    assert (
        RunInfo(steps=(StepStatus("a", "X", cost_usd=1.0), StepStatus("b", "X", cost_usd=0.5))).cost_usd
        == 1.5
    )

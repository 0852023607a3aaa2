"""The quarantine of a run, as its user sees it: which rows failed, and which of them a retry takes up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from distilnb.engine.plan import Plan
from distilnb.errors import RunError, UnknownStepError, did_you_mean
from distilnb.ids import is_below

CONSEQUENCE = "MissingPartnerError"  # the row itself failed, or was left out, in another branch

ERROR_COLUMNS = [
    "row_id",
    "row",
    "step",
    "kind",
    "reason",
    "prompt",
    "reply",
    "traceback",
    "attempts",
    "is_partial",
    "state",
    "version",
    "mended_by",
]

RowChoice = int | str | Iterable[int | str]


def choose_errors(
    errors: Sequence[dict[str, Any]], plan: Plan, *, step: str | None = None, rows: RowChoice | None = None
) -> list[dict[str, Any]]:
    """Return the failures to do again: all, those of a step, those of rows given by id or by ordinal.

    A row that waited in vain for its partner is done again with the partner, so the partner's failure is chosen.
    Raises RunError when there is nothing to do, UnknownStepError for a step that the run has not.
    """
    if step is not None:
        steps = [name for stage in plan.stages for name in stage.steps]
        if step not in steps:
            raise UnknownStepError(
                f"There is no step {step!r}; the run has {steps}.", did_you_mean(step, steps)
            )
    opened = [error for error in errors if error["state"] == "open" and not error["is_partial"]]
    wanted = _wanted(rows)
    chosen = [
        error
        for error in opened
        if step in (None, error["step"]) and (wanted is None or _is_one(error, wanted))
    ]
    causes = [error for error in opened if error["kind"] != CONSEQUENCE]
    found = {error["id"]: error for error in chosen if error["kind"] != CONSEQUENCE}
    for consequence in chosen:
        if consequence["kind"] == CONSEQUENCE:
            found.update({cause["id"]: cause for cause in causes if _caused(cause, consequence, plan)})
    if not found:
        kept = [e for e in errors if e["state"] == "kept" and step in (None, e["step"])]
        if not opened and any(wanted is None or _is_one(error, wanted) for error in kept):
            raise RunError(
                f"Run {plan.run_id!r} has nothing to retry: what failed went on, with None for what is missing "
                "(on_error, or how= of a join), and cannot be taken back.",
                "Mend the step and start the pipeline again: what is unchanged comes from the reply cache.",
            )
        raise _nothing(plan, opened, causes, chosen, step=step, rows=rows)
    return sorted(found.values(), key=lambda error: int(error["id"]))


def _wanted(rows: RowChoice | None) -> list[int | str] | None:
    if rows is None or isinstance(rows, (int, str)):
        return None if rows is None else [rows]
    return list(rows)


def _is_one(error: dict[str, Any], wanted: Iterable[int | str]) -> bool:
    return any(
        is_below(error["row_id"], one) if isinstance(one, str) else error["row"] == one for one in wanted
    )


def _caused(cause: dict[str, Any], consequence: dict[str, Any], plan: Plan) -> bool:
    """Whether a row is missed at a join because it, or what it stems from, failed upstream."""
    here, there = cause["row_id"], consequence["row_id"]
    if not (is_below(here, there) or is_below(there, here)):
        return False
    return plan.stage_of(consequence["step"]).name in plan.downstream(plan.stage_of(cause["step"]).name)


def _nothing(
    plan: Plan,
    opened: Sequence[dict[str, Any]],
    causes: Sequence[dict[str, Any]],
    chosen: Sequence[dict[str, Any]],
    *,
    step: str | None,
    rows: RowChoice | None,
) -> RunError:
    of = (f" of step {step!r}" if step is not None else "") + (f" among {rows!r}" if rows is not None else "")
    if chosen:
        return RunError(
            f"Run {plan.run_id!r} has nothing to retry{of}: the partners of these rows did not fail, "
            "they were left out.",
            "Leave rows out after the branches meet, and start the pipeline again.",
        )
    there = dict(Counter(error["step"] for error in causes))
    fix = f"Failed rows, by step: {there}." if there else "run.errors() lists what has failed so far."
    if not opened and step is None and rows is None:
        fix = "No row is in quarantine; run.resume() goes on with a run that did not finish."
    return RunError(f"Run {plan.run_id!r} has nothing to retry: no failed row{of}.", fix)

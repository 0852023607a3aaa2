"""A look into a run beside its figures: the newest rows of a step, the errors by kind, the end of the logs.

Everything here comes from models and users, and is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from distilnb.engine.failures import unpack_failure
from distilnb.engine.reading import RunReader
from distilnb.engine.status import RunStatus
from distilnb.rows import Row
from distilnb.view.figures import plural
from distilnb.view.html import escape, fold, icon, muted
from distilnb.view.looks import FAILED_ROW, PARTIAL_ROW
from distilnb.view.table import rows_table
from distilnb.view.text import one_line

MAX_GROUPS = 8
MAX_SHOWN = 3  # rows that are told of by name in a group of errors
MAX_ROWS = 5
MAX_TEXT = 900  # characters of a prompt, a reply, or the rest of a reason
ALL_STEPS = "all steps"
LOG_LINES = 30
LOG_CHARACTERS = 6_000
_REASON_CHARACTERS = 200
Whole: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any]]
# Quoted texts, numbers, and words with numbers in them, which are ids: what differs between errors that are alike.
_VARYING = re.compile(r"""(?<!\w)'[^']*(?:'|$)|(?<!\w)"[^"]*(?:"|$)|\w*\d[\w.]*""")


@dataclass(frozen=True)
class Pane:
    """A view that can be chosen in a panel. `html` makes it anew, for one of `choices` where there are some.

    `act` is what a button beside the choice does with it, where the button has a `verb`; what `warns` says of a choice
    is said at a first press, so that only a second one acts.
    """

    label: str
    html: Callable[[str], str]
    choices: tuple[str, ...] = ()
    verb: str = ""
    act: Callable[[str], object] | None = None
    warns: Callable[[str], str] = lambda choice: ""


def panes_of(
    reader: RunReader,
    logs: Callable[[int], str],
    retry: Callable[[str | None], object],
    before_retry: Callable[[str | None], str] = lambda step: "",
) -> tuple[Pane, ...]:
    """Return what can be looked at of a run.

    `logs` returns the last n lines of each of its processes, `retry` does failed rows of a step, or of all, again;
    `before_retry` tells what that may cost where it is to be confirmed, else "".
    """

    def newest(step: str) -> str:
        batch = reader.newest(step, MAX_ROWS)
        made = {one.name: one.made or one.done for one in reader.status().steps}
        return newest_rows_html(batch.rows, [order[0] for order in batch.orders], made.get(step, len(batch)))

    def errors(step: str) -> str:
        every = reader.errors()
        return errors_html([e for e in every if step in (ALL_STEPS, e["step"])], _whole(reader))

    stages = tuple(stage.name for stage in reader.plan.stages if not stage.is_route)
    steps = tuple(step for stage in reader.plan.stages for step in stage.steps)
    return (
        Pane("Newest rows", newest, stages),
        Pane(
            "Errors",
            errors,
            (*steps, ALL_STEPS),
            "Retry these",
            lambda step: retry(None if step == ALL_STEPS else step),
            lambda step: before_retry(None if step == ALL_STEPS else step),
        ),
        Pane("Log", lambda _: log_html(logs(LOG_LINES))),
    )


def trouble_html(reader: RunReader, status: RunStatus) -> str:
    """Return the errors of a run in groups, nothing when there are none, as safe HTML."""
    has_some = any(step.failed or step.partial for step in status.steps)
    return errors_html(reader.errors(), _whole(reader)) if has_some else ""


def _whole(reader: RunReader) -> Whole:
    return lambda error: unpack_failure(dict(error), reader.run.path)


class ErrorGroup(NamedTuple):
    """Failures of one step that differ in numbers and quoted texts only; `first` stands for them."""

    step: str
    kind: str
    is_partial: bool
    first: Mapping[str, Any]
    rows: tuple[str, ...]

    def __str__(self) -> str:
        """Return the group on a line."""
        told = one_line(str(self.first["reason"]).partition("\n")[0], _REASON_CHARACTERS)
        went_on = ", went on" if self.is_partial else ""
        return f"{plural(len(self.rows), 'row')} of {self.step}{went_on}: {self.kind}: {told}"


def group_errors(errors: Sequence[Mapping[str, Any]]) -> list[ErrorGroup]:
    """Return failures that are alike together, the largest group first.

    Each error has step, kind, reason, is_partial, row_id, row, state; those that were mended are left out.
    """
    groups: dict[tuple[str, str, bool, str], list[Mapping[str, Any]]] = {}
    for error in errors:
        if error.get("state") not in ("mended", "retried"):
            alike = _VARYING.sub("…", str(error["reason"]).partition("\n")[0])
            key = (str(error["step"]), str(error["kind"]), bool(error["is_partial"]), alike)
            groups.setdefault(key, []).append(error)
    found = [
        ErrorGroup(step, kind, is_partial, members[0], tuple(_name(member) for member in members))
        for (step, kind, is_partial, _), members in groups.items()
    ]
    return sorted(found, key=lambda group: (group.is_partial, -len(group.rows)))


def _name(error: Mapping[str, Any]) -> str:
    return str(error["row_id"] if error.get("row") is None else error["row"])


def errors_html(errors: Sequence[Mapping[str, Any]], whole: Whole = lambda error: error) -> str:
    """Return the errors of a run in groups, as safe HTML; `whole` adds to an error texts that are kept elsewhere."""
    groups = group_errors(errors)
    if not groups:
        return muted("No row has failed.")
    told = ""
    for group in groups[:MAX_GROUPS]:
        look = PARTIAL_ROW if group.is_partial else FAILED_ROW
        shown = ", ".join(group.rows[:MAX_SHOWN]) + ", …" * (len(group.rows) > MAX_SHOWN)
        told += f"<div>{icon(look)} {escape(str(group))} {muted(f'(row {shown})')}</div>"
        told += _texts_html(group.rows[0], whole(group.first))
    left_out = len(groups) - MAX_GROUPS
    told += f"<div>{muted(f'… {left_out} more kinds: run.errors() has all')}</div>" if left_out > 0 else ""
    return told


def _texts_html(row: str, error: Mapping[str, Any]) -> str:
    """Return the rest of the reason, and what was sent and came back, each behind a triangle."""
    texts = {
        "more": str(error["reason"]).partition("\n")[2].strip(),
        f"prompt of row {row}": str(error.get("prompt") or ""),
        "raw reply": str(error.get("reply") or ""),
    }
    folds = "".join(fold(title, text, MAX_TEXT) for title, text in texts.items() if text)
    return f'<div class="dnb-folds">{folds}</div>' if folds else ""


def newest_rows_html(rows: Sequence[Row], ordinals: Sequence[int], n_rows: int) -> str:
    """Return the newest rows of a step as safe HTML; `n_rows` is how many it has made in all."""
    if not rows:
        return muted("No row has come out of this step yet.")
    table = rows_table(
        rows[-MAX_ROWS:], ordinals=ordinals[-MAX_ROWS:], max_rows=MAX_ROWS, n_rows=max(n_rows, len(rows))
    )
    return table.html


def log_html(text: str) -> str:
    """Return the end of a run's logs as safe HTML."""
    if not text.strip():
        return muted("Nothing was written to the logs.")
    end = text[-LOG_CHARACTERS:]
    return f'<pre dir="auto" style="max-height:18em;overflow:auto;white-space:pre-wrap">{escape(end)}</pre>'

"""The pinned rows against what was accepted: what got worse first, each with what was changed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from distilnb.rows import Row
from distilnb.view.diff import DIFF_STYLE, marked_html, marked_text, pieces_of
from distilnb.view.figures import asked, money, plural
from distilnb.view.html import MAX_BYTES, STYLE, Bundle, escape, marked, muted, page, size_bytes
from distilnb.view.looks import Look
from distilnb.view.text import one_line, value_text

Verdict = Literal["worse", "changed", "better", "new", "same"]
_RANK: Sequence[Verdict] = ("worse", "better", "changed", "new", "same")
_LOOKS: dict[Verdict, Look] = {
    "worse": Look("▼", "worse", "bad"),
    "better": Look("▲", "better", "ok"),
    "changed": Look("≠", "changed", "warn"),
    "new": Look("+", "new", "idle"),
    "same": Look("=", "the same", "idle"),
}
TEXT_ROWS = 20
_TRIES = ((30, 500), (30, 200), (15, 120), (6, 80), (0, 0))  # rows, characters of a difference


class Finding(NamedTuple):
    """What is other at a step than it was accepted: in words, and the texts then and now.

    `text` names which of its texts that is, where it makes several of a row.
    """

    step: str
    verdict: Verdict
    reason: str = ""
    was: str = ""
    now: str = ""
    text: str = ""


@dataclass(frozen=True)
class CheckedRow:
    """A pinned row and what was found."""

    ordinal: int
    row_id: str
    findings: tuple[Finding, ...]
    came_in: Row

    @property
    def verdict(self) -> Verdict:
        """The gravest finding."""
        found = {finding.verdict for finding in self.findings}
        return next((verdict for verdict in _RANK if verdict in found), "same")


@dataclass(frozen=True)
class CheckData:
    """A check as a view draws it; `against` names the versions that were accepted, "" for none."""

    pipeline: str
    rows: tuple[CheckedRow, ...]
    against: str = ""
    accepted_at: float | None = None
    version: str = ""
    asked: int = 0
    retries: int = 0  # of those asked
    reused: int = 0
    cost_usd: float | None = 0.0
    n_missing: int = 0


def check_bundle(data: CheckData) -> Bundle:
    """Return a check as text and as HTML of bounded size."""
    return {"text/plain": _text(data), "text/html": _html(data)}


def heading(data: CheckData) -> str:
    """Return the line on how many rows are worse, against what, and what it cost."""
    told = [data.pipeline, f"check of {plural(len(data.rows), 'row')}, {data.version}"]
    if data.accepted_at is None:
        told.append("nothing was accepted yet: p.sample.accept() makes this the measure")
    else:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(data.accepted_at))
        told.append(f"against {data.against} of {when}")
        verdicts = [row.verdict for row in data.rows]
        counts = {verdict: verdicts.count(verdict) for verdict in _RANK}
        words = [f"{n} {_LOOKS[verdict].word}" for verdict, n in counts.items() if n]
        told.append(", ".join(words if counts["worse"] else ["none worse", *words]))
    told.append(asked(data.asked, data.retries, data.reused))
    told.append(money(data.cost_usd, is_free=data.asked > 0))
    if data.n_missing:
        told.append(f"{plural(data.n_missing, 'answer')} not asked yet")
    return one_line(" · ".join(told), 400)


def _shown(data: CheckData) -> list[CheckedRow]:
    """Return the rows to show, the gravest first."""
    found = [row for row in data.rows if any(one.reason or one.verdict != "new" for one in row.findings)]
    return sorted(found, key=lambda row: _RANK.index(row.verdict))


def _lead(row: CheckedRow) -> str:
    first = next(iter(row.came_in.items()), None)
    told = f"{first[0]}: {one_line(value_text(first[1], 300), 60)}" if first else ""
    return f"row {row.ordinal} · {told}"


def _text(data: CheckData) -> str:
    told = [heading(data)]
    rows = _shown(data)
    for row in rows[:TEXT_ROWS]:
        told.append(f"{_LOOKS[row.verdict]} · {_lead(row)}")
        for one in row.findings:
            if one.reason:
                told.append(f"    {one_line(one.step, 40)}: {one_line(one.reason, 200)}")
            if one.was != one.now:
                name = f"{one.step} {one.text}".strip()
                shown = " ".join(marked_text(pieces_of(one.was, one.now), 300).split())
                told.append(f"    {one_line(name, 60)}: {one_line(shown, 400)}")
    if len(rows) > TEXT_ROWS:
        told.append(f"… {plural(len(rows) - TEXT_ROWS, 'more row')}")
    return "\n".join(told)


def _html(data: CheckData) -> str:
    head = f"<div><b>{escape(heading(data))}</b></div>"
    room = MAX_BYTES - size_bytes(STYLE) - size_bytes(DIFF_STYLE) - size_bytes(head)
    rows = _shown(data)
    tables = (_table(rows, n_rows, chars) for n_rows, chars in _TRIES)
    return page(DIFF_STYLE, head, next((table for table in tables if size_bytes(table) <= room), ""))


def _table(rows: Sequence[CheckedRow], n_rows: int, chars: int) -> str:
    if not rows:
        return ""
    body = "".join(_row_html(row, chars) for row in rows[:n_rows])
    more = len(rows) - n_rows
    foot = f"<div>{muted('… ' + plural(more, 'more row') + ' not shown')}</div>" if more > 0 else ""
    heads = '<th scope="col">row, step</th><th scope="col">what is other</th>'
    return f'<div class="dnb-scroll"><table class="dnb-t"><tr>{heads}</tr>{body}</table></div>{foot}'


def _row_html(row: CheckedRow, chars: int) -> str:
    lead = f"{marked(_LOOKS[row.verdict])} {muted(f'· {_lead(row)}')}"
    lines = f'<tr class="dnb-line"><td colspan="2">{lead}</td></tr>'
    for one in row.findings:
        reason = f"<div>{escape(one_line(one.reason, 300))}</div>" if one.reason else ""
        text = ""
        if one.was != one.now:
            shown = marked_html(pieces_of(one.was, one.now, 20_000), chars)
            text = f'<div class="dnb-text" dir="auto">{shown}</div>'
        name = f"<br>{muted(one_line(one.text, 40))}" if one.text else ""
        cells = f'<td class="dnb-name">{escape(one_line(one.step, 40))}{name}</td><td>{reason}{text}</td>'
        lines += f'<tr class="dnb-under">{cells}</tr>'
    return lines

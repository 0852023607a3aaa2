"""Rows as a table, in HTML with long texts folded, and in text, aligned; what went wrong comes first."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from distilnb.rows import Row
from distilnb.view.figures import plural
from distilnb.view.html import Shown, escape, fold, icon, marked, muted, page, size_bytes
from distilnb.view.looks import FAILED_ROW, PARTIAL_ROW, Look
from distilnb.view.text import ELLIPSIS, clip, one_line, pad, value_text, visible, width

MAX_BYTES = 16_000  # of one table; with header and style an output stays below 20 KB
MAX_ITEMS = 8  # of a list
MAX_COLUMNS = 12
LONG_CHARS = 60
PAGE_ROWS = 10  # of a table that are open to see; further pages are folded
# What is left of a table that is too large: first less behind triangles, then less at once.
TIGHTER = ((300, 1600), (220, 900), (150, 900), (150, 500), (80, 500), (60, 300), (24, 144))
TEXT_WIDTH = 110


@dataclass(frozen=True)
class Entry:
    """A line of a table: a row, its ordinal, and what is to be said of it."""

    row: Row
    ordinal: int | None = None
    look: Look | None = None
    reason: str = ""
    folds: tuple[tuple[str, str], ...] = field(default=())  # (title, text) behind triangles under the row
    remark: str = ""  # said quietly beside them


class Limits(NamedTuple):
    """How much of a table is written out."""

    rows: int
    chars: int  # of a cell, shown at once
    folded: int  # of a cell or a fold, opened


def rows_table(
    rows: Sequence[Row],
    *,
    ordinals: Sequence[int] | None = None,
    columns: Sequence[str] | None = None,
    max_rows: int = 10,
    max_chars: int = 200,
    highlight: Collection[str] = (),
    failed: Mapping[int, str] | None = None,
    partial: Mapping[int, str] | None = None,
    n_rows: int | None = None,
) -> Shown:
    """Return rows as a table.

    `ordinals` are the rows' numbers in the source; `failed` and `partial` give reasons by ordinal and bring
    their rows to the top; `highlight` names columns that are new; `n_rows` is how many rows there are in all.
    """
    numbers = list(ordinals) if ordinals is not None else list(range(len(rows)))
    failed, partial = failed or {}, partial or {}
    entries = [_entry(row, number, failed, partial) for row, number in zip(rows, numbers, strict=True)]
    entries += [_entry({}, number, failed, partial) for number in failed if number not in set(numbers)]
    limits = Limits(max_rows, max_chars, 4_000)
    names = column_names(entries, columns)
    total = max(n_rows or 0, len(entries))
    return Shown(
        table_text(entries, names, limits, total),
        page(table_html(entries, names, limits, highlight=highlight, total=total)),
    )


def _entry(row: Row, ordinal: int, failed: Mapping[int, str], partial: Mapping[int, str]) -> Entry:
    if ordinal in failed:
        return Entry(row, ordinal, FAILED_ROW, failed[ordinal])
    if ordinal in partial:
        return Entry(row, ordinal, PARTIAL_ROW, partial[ordinal])
    return Entry(row, ordinal)


def column_names(entries: Sequence[Entry], columns: Sequence[str] | None = None) -> list[str]:
    """Return the columns to show: those asked for, else all, each once."""
    if columns is not None:
        return list(columns)
    return list(dict.fromkeys(name for entry in entries for name in entry.row))


def in_rank(entries: Sequence[Entry]) -> list[Entry]:
    """Return failed rows first, then partial ones, then the others."""
    ranks = {FAILED_ROW: 0, PARTIAL_ROW: 1}
    return sorted(entries, key=lambda entry: ranks.get(entry.look, 2) if entry.look else 2)


# --- HTML ---------------------------------------------------------------------


def table_html(
    entries: Sequence[Entry],
    columns: Sequence[str],
    limits: Limits,
    *,
    highlight: Collection[str] = (),
    total: int | None = None,
    max_bytes: int = MAX_BYTES,
) -> str:
    """Return a table of at most `max_bytes`: texts are cut shorter, then rows left out; it says so."""
    total = len(entries) if total is None else total
    chosen = in_rank(entries)[: limits.rows]
    tries = [limits, *(Limits(limits.rows, min(limits.chars, n), min(limits.folded, m)) for n, m in TIGHTER)]
    for cut in tries:
        drawn = _draw(chosen, columns, cut, highlight, total, is_cut=cut is not limits)
        if size_bytes(drawn) <= max_bytes:
            return drawn
    for n_rows in range(len(chosen) - 1, 0, -1):
        drawn = _draw(chosen[:n_rows], columns[:MAX_COLUMNS], tries[-1], highlight, total, is_cut=True)
        if size_bytes(drawn) <= max_bytes:
            return drawn
    return f"<div>{muted(plural(total, 'row') + ', too large to show here')}</div>"


def _draw(
    entries: Sequence[Entry],
    columns: Sequence[str],
    limits: Limits,
    highlight: Collection[str],
    total: int,
    is_cut: bool,
) -> str:
    shown, hidden = columns[:MAX_COLUMNS], columns[MAX_COLUMNS:]
    has_numbers = any(entry.ordinal is not None for entry in entries)
    numeric = {name for name in shown if _is_numeric(entries, name)}
    head = '<th scope="col" class="dnb-num">row</th>' * has_numbers
    for name in shown:
        new = ' title="made by this step"' * (name in highlight)
        label = escape(one_line(name, 60)) + (
            ' <span class="dnb-busy" aria-hidden="true">+</span>' * bool(new)
        )
        kind = " class=dnb-num" if name in numeric else " class=dnb-wide" if _is_long(entries, name) else ""
        head += f'<th scope="col"{kind}{new}>{label}</th>'
    drawn = [_draw_entry(entry, shown, numeric, limits, has_numbers) for entry in entries]
    pages = [_page(head, drawn[start : start + PAGE_ROWS]) for start in range(0, len(drawn), PAGE_ROWS)]
    table = pages[0] if pages else _page(head, [])
    for number, one in enumerate(pages[1:], start=1):
        told = f"rows {number * PAGE_ROWS + 1} to {min((number + 1) * PAGE_ROWS, len(drawn))} of {total:,}"
        table += f'<details class="dnb-page"><summary>{told}</summary>{one}</details>'
    notes = []
    if total > len(entries):
        notes.append(f"{plural(total - len(entries), 'more row')} not shown")
    if hidden:
        notes.append(f"{plural(len(hidden), 'more column')}: {one_line(', '.join(hidden), 120)}")
    if is_cut:
        notes.append("long texts are cut to keep the notebook small")
    foot = f"<div>{muted('… ' + ' · '.join(notes))}</div>" if notes else ""
    return table + foot


def _page(head: str, rows: Sequence[str]) -> str:
    table = f'<table class="dnb-t"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f'<div class="dnb-scroll">{table}</div>'


def _draw_entry(
    entry: Entry, columns: Sequence[str], numeric: Collection[str], limits: Limits, has_numbers: bool
) -> str:
    number = ""
    if has_numbers:
        mark = f"{icon(entry.look)} " if entry.look else ""
        number = f'<td class="dnb-num dnb-muted">{mark}{"" if entry.ordinal is None else entry.ordinal}</td>'
        if entry.look:
            number = number.replace(" dnb-muted", "")
    span = len(columns)
    under = ""
    if entry.look:
        reason = escape(entry.reason[: limits.folded])
        under += f'<div class="dnb-text"><b>{marked(entry.look)}</b>: {reason}</div>'
    if entry.folds or entry.remark:
        folds = "".join(fold(title, body, limits.folded) for title, body in entry.folds)
        remark = f"<div>{muted(entry.remark)}</div>" if entry.remark else ""
        under += f'<div class="dnb-folds">{folds}{remark}</div>'
    if not any(name in entry.row for name in columns):  # a row that failed before it had anything to show
        return f'<tr class="dnb-line">{number}<td colspan="{max(1, span)}">{under}</td></tr>'
    cells = ""
    for name in columns:
        cell = cell_html(entry.row[name], limits) if name in entry.row else ""
        cells += f"<td{' class=dnb-num' * (name in numeric)}>{cell}</td>"
    line = f'<tr class="dnb-line">{number}{cells}</tr>'
    if not under:
        return line
    first = '<td class="dnb-num"></td>' * has_numbers
    return f'{line}<tr class="dnb-under">{first}<td colspan="{span}">{under}</td></tr>'


def cell_html(value: Any, limits: Limits) -> str:
    """Return one value: text folded where it is long, a list as items, None as such."""
    if value is None:
        return '<i class="dnb-muted" style="background:none">None</i>'
    if isinstance(value, (list, tuple)) and value:
        each = limits._replace(chars=max(24, limits.chars // min(len(value), 3)), folded=limits.folded // 2)
        items = "".join(f"<li>{cell_html(_item(item), each)}</li>" for item in value[:MAX_ITEMS])
        if len(value) > MAX_ITEMS:
            items += f'<li style="list-style:none">{muted(f"{len(value) - MAX_ITEMS:,} more")}</li>'
        return f'<ol class="dnb-items" start="0">{items}</ol>'
    text = value_text(value, limits.folded + 1)
    style = "dnb-text" if isinstance(value, str) else "dnb-text dnb-mono"
    if isinstance(value, (int, float)):
        return escape(text)
    if len(text) <= limits.chars and text.count("\n") < 12:
        return f'<div class="{style}" dir="auto">{escape(text)}</div>'
    start = escape(one_line(text, limits.chars))
    whole = text[: limits.folded]
    length = len(value) if isinstance(value, str) else len(text)
    rest = muted(f"\n… {length - len(whole):,} more characters") if length > len(whole) else ""
    return (
        f'<details><summary dir="auto"><span class="dnb-clip">{start}</span></summary>'
        f'<div class="{style}" dir="auto">{escape(whole)}{rest}</div></details>'
    )


def _item(item: Any) -> Any:
    """Return a chat message as `role: content`; anything else as it is, lists in lists as text."""
    if isinstance(item, dict) and {"role", "content"} <= item.keys():
        return f"{item['role']}: {value_text(item['content'])}"
    return value_text(item) if isinstance(item, (list, tuple)) else item


def _is_long(entries: Sequence[Entry], name: str) -> bool:
    """Whether a column holds texts that would stand a word a line if they had no room of their own."""
    return any(len(value_text(entry.row.get(name))) > LONG_CHARS for entry in entries)


def _is_numeric(entries: Sequence[Entry], name: str) -> bool:
    values = [entry.row[name] for entry in entries if entry.row.get(name) is not None]
    return bool(values) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


# --- text ---------------------------------------------------------------------


def table_text(
    entries: Sequence[Entry], columns: Sequence[str], limits: Limits, total: int | None = None
) -> str:
    """Return a table as aligned text, one line a row, as wide as a page."""
    total = len(entries) if total is None else total
    chosen = in_rank(entries)[: limits.rows]
    cells = [[_cell_text(entry.row, name, limits.chars) for name in columns] for entry in chosen]
    heads = [one_line(name, 40) for name in columns]
    wide = _share_width([max(map(width, column)) for column in zip(heads, *cells, strict=True)])
    numeric = [_is_numeric(chosen, name) for name in columns]
    first = max([width(str(entry.ordinal)) for entry in chosen if entry.ordinal is not None] + [3])
    told = [_text_line("  " + pad("row", first, right=True), heads, wide, numeric)]
    for entry, line in zip(chosen, cells, strict=True):
        mark = entry.look.icon if entry.look else " "
        lead = f"{mark} {pad('' if entry.ordinal is None else str(entry.ordinal), first, right=True)}"
        if any(name in entry.row for name in columns):
            told.append(_text_line(lead, line, wide, numeric))
            lead = " " * width(lead)
        if entry.look:
            told.append(clip(f"{lead}  {entry.look.word}: {one_line(entry.reason, 400)}", TEXT_WIDTH + 40))
    if total > len(chosen):
        told.append(f"… {plural(total - len(chosen), 'more row')}")
    return "\n".join(told)


def _text_line(lead: str, cells: Sequence[str], wide: Sequence[int], numeric: Sequence[bool]) -> str:
    fitted = [pad(clip(cell, w), w, right=right) for cell, w, right in zip(cells, wide, numeric, strict=True)]
    return "  ".join([lead, *fitted]).rstrip()


def _share_width(wanted: list[int]) -> list[int]:
    """Return widths that fit a page: narrow columns keep theirs, wide ones share what is left."""
    left, granted = TEXT_WIDTH - 2 * len(wanted) - 5, [0] * len(wanted)
    by_width = sorted(range(len(wanted)), key=wanted.__getitem__)
    for place, index in enumerate(by_width):
        granted[index] = max(6, min(wanted[index], left // (len(by_width) - place)))
        left -= granted[index]
    return granted


def _cell_text(row: Row, name: str, limit: int) -> str:
    if name not in row:
        return ""
    value = row[name]
    if isinstance(value, (list, tuple)):
        items = [one_line(value_text(_item(item), 400), limit) for item in value[:MAX_ITEMS]]
        told = [f"[{index}] {item}" for index, item in enumerate(items)] or ["[]"]
        return " ".join(told + [ELLIPSIS] * (len(value) > MAX_ITEMS))
    return one_line(visible(value_text(value, 8 * limit + 64)), limit)

"""Candidates side by side: a grid of rows and answers, who won how often, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from distilnb.rows import Row
from distilnb.view.diff import Figures
from distilnb.view.figures import UNKNOWN, asked, money, plural
from distilnb.view.html import MAX_BYTES, STYLE, Bundle, badge, escape, lines, marked, muted, page, size_bytes
from distilnb.view.lineup import FIGURES, Lineup, figure_cells
from distilnb.view.looks import FAILED_ROW, WARNING, Look
from distilnb.view.table import Limits, cell_html
from distilnb.view.text import one_line, value_text

BEST = Look("★", "best", "ok")
TEXT_ROWS = 12
_TRIES = ((10, 600), (10, 250), (6, 250), (4, 120), (2, 60), (0, 0))  # rows, characters of a cell
_NAMES = ("candidate", "won")
_HEADS = (*_NAMES, *FIGURES, "failed")
MAX_PAIRS = 10  # sentences on who beat whom: of 27 candidates there would be 351
MAX_CANDIDATES = 30  # lines of the table


@dataclass(frozen=True)
class Tally:
    """A candidate and what became of it. `won` is in words; `seconds` of its figures is the median of a request."""

    name: str
    won: str = ""
    figures: Figures = field(default_factory=Figures)
    is_best: bool = False


class Cell(NamedTuple):
    """What a candidate answered to a row: its texts by name, or why there is none."""

    texts: dict[str, str]
    failure: str = ""
    rating: float | None = None


@dataclass(frozen=True)
class GridRow:
    """A row: what came in, the answer of each candidate in the order shown, and who won ("" for a tie, None: open).

    `winner` is a place in `cells`, from 0 on; `letters` stand for the names while these are hidden.
    """

    ordinal: int
    row_id: str
    came_in: Row
    cells: tuple[Cell, ...]
    winner: int | None = None
    is_tie: bool = False
    names: tuple[str, ...] = ()  # of the cells; letters while they are hidden
    called: int | str = ""  # what to vote by: the ordinal, or the id where several rows have that


@dataclass(frozen=True)
class ComparisonData:
    """A comparison as a view draws it.

    `pairs` are sentences on who beat whom, those first that can tell most; none while names are hidden.
    """

    pipeline: str
    step: str
    tallies: tuple[Tally, ...]
    rows: tuple[GridRow, ...]
    pairs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    voter: str = ""  # the judge; "" for people
    n_voted: int = 0
    is_hidden: bool = False
    asked: int = 0
    retries: int = 0  # of those asked
    reused: int = 0
    cost_usd: float | None = 0.0
    n_missing: int = 0
    is_rehearsed: bool = False


def comparison_bundle(data: ComparisonData) -> Bundle:
    """Return a comparison as text and as HTML of bounded size."""
    return {"text/plain": _text(data), "text/html": page(comparison_html(data))}


def heading(data: ComparisonData) -> str:
    """Return the line on what is compared, what it cost, and how far the votes are."""
    told = [
        data.pipeline,
        f"{data.step}: {plural(len(data.tallies), 'candidate')}",
        plural(len(data.rows), "row"),
    ]
    told.append(asked(data.asked, data.retries, data.reused))
    told.append(money(data.cost_usd, is_free=data.asked > 0))
    if data.n_missing:
        told.append(f"{plural(data.n_missing, 'answer')} not asked yet")
    told.append(
        f"{f'judge {data.voter}' if data.voter else 'votes'}: {data.n_voted} of {plural(len(data.rows), 'row')}"
    )
    if not data.n_voted and not data.voter:
        told.append("vote with .ballot() or .vote(row, name)")
    if data.is_hidden:
        told.append("names are hidden until all rows have a vote")
    return one_line(" · ".join(told), 300)


def _lineup(data: ComparisonData) -> Lineup:
    """Return the candidates, each with what its replies took; the best one among them, however many there are."""
    kept = sorted(data.tallies, key=lambda tally: not tally.is_best)[:MAX_CANDIDATES]
    lines = (
        (
            f"{BEST.icon} {one_line(tally.name, 60)}" if tally.is_best else one_line(tally.name, 60),
            tally.won or UNKNOWN,
            *figure_cells(tally.figures),
            str(tally.figures.n_failed),
        )
        for tally in data.tallies
        if tally in kept
    )
    return Lineup(_HEADS, tuple(lines), frozenset(_NAMES))


def _under_lineup(data: ComparisonData) -> list[str]:
    """Return what is said below the candidates: those left out, and who beat whom."""
    more = len(data.tallies) - MAX_CANDIDATES
    told = [f"… and {plural(more, 'more candidate')}, in .candidates"] if more > 0 else []
    told += [one_line(pair, 200) for pair in data.pairs[:MAX_PAIRS]]
    left_out = len(data.pairs) - MAX_PAIRS
    return [*told, *([f"… and {plural(left_out, 'more pair')}, in .pairs"] if left_out > 0 else [])]


# --- text ---------------------------------------------------------------------


def _text(data: ComparisonData) -> str:
    told = [heading(data)]
    if not data.is_hidden:
        told += _lineup(data).text()
        told += [f"  {line}" for line in _under_lineup(data)]
    told += [f"  {WARNING.icon} {one_line(note, 200)}" for note in data.notes]
    for grid_row in data.rows[:TEXT_ROWS]:
        told += _row_lines(grid_row, 160, MAX_CANDIDATES)
    if len(data.rows) > TEXT_ROWS:
        told.append(f"… {plural(len(data.rows) - TEXT_ROWS, 'more row')}")
    return "\n".join(told)


def row_text(row: GridRow) -> str:
    """Return one row with its answers, as text."""
    return "\n".join(_row_lines(row, 4_000, len(row.cells)))


def _row_lines(row: GridRow, limit: int, most: int) -> list[str]:
    told = [f"row {row.ordinal} · {_came_in(row, 60, 120)}{' · tie' * row.is_tie}"]
    for place, (name, cell) in enumerate(zip(row.names, row.cells, strict=True)):
        if place >= most and place != row.winner:
            continue
        sign = BEST.icon if place == row.winner else " "
        said = f"{FAILED_ROW.icon} {cell.failure}" if cell.failure else " · ".join(cell.texts.values())
        told.append(f"  {sign} {one_line(name, 60)}: {one_line(said, limit)}")
    if len(row.cells) > most:
        told.append(f"    … {plural(len(row.cells) - most, 'more answer')}")
    return told


def _came_in(row: GridRow, each: int, limit: int) -> str:
    told = " · ".join(
        f"{name}: {one_line(value_text(value, 8 * each), each)}" for name, value in row.came_in.items()
    )
    return one_line(told, limit)


# --- HTML ---------------------------------------------------------------------


def comparison_html(data: ComparisonData) -> str:
    """Return the HTML without its style: figures, pairs, and as much of the grid as there is room for."""
    mark = f" {badge('rehearsed', 'warn')}" if data.is_rehearsed else ""
    head = f"<div><b>{escape(heading(data))}</b>{mark}</div>"
    below = ""
    if not data.is_hidden:
        head += _lineup(data).html()
        below += "".join(f"<div>{escape(line)}</div>" for line in _under_lineup(data))
    below += lines(data.notes, WARNING)
    head += f'<div class="dnb-told-below">{below}</div>' if below else ""
    room = MAX_BYTES - size_bytes(STYLE) - size_bytes(head)
    grids = (_grid(data, n_rows, chars) for n_rows, chars in _TRIES)
    return head + next((grid for grid in grids if size_bytes(grid) <= room), "")


def _grid(data: ComparisonData, n_rows: int, chars: int) -> str:
    if not data.rows:
        return ""
    by_name = [tally.name for tally in data.tallies]
    heads = data.rows[0].names if data.is_hidden else by_name
    names = "".join(f'<th scope="col">{escape(one_line(name, 60))}</th>' for name in heads)
    body = "".join(_grid_row(row, heads, chars) for row in data.rows[:n_rows])
    more = len(data.rows) - n_rows
    foot = f"<div>{muted('… ' + plural(more, 'more row') + ' not shown')}</div>" if more > 0 else ""
    head = f'<tr><th scope="col" class="dnb-num">row</th>{names}</tr>'
    table = f'<table class="dnb-t"><thead>{head}</thead><tbody>{body}</tbody></table>'
    return f'<div class="dnb-scroll">{table}</div>{foot}'


def _grid_row(row: GridRow, heads: Sequence[str], chars: int) -> str:
    cells = ""
    for name in heads:
        place = row.names.index(name) if name in row.names else -1
        cells += (
            f"<td>{_cell(row.cells[place], chars, is_best=place == row.winner) if place >= 0 else ''}</td>"
        )
    tie = muted("tie") if row.is_tie else ""
    asked = (
        f'<td colspan="{len(heads)}">{muted(_came_in(row, max(60, chars // 2), max(120, chars // 2)))}</td>'
    )
    return (
        f'<tr class="dnb-line"><td class="dnb-num dnb-muted">{row.ordinal}</td>{asked}</tr>'
        f'<tr class="dnb-under"><td class="dnb-num">{tie}</td>{cells}</tr>'
    )


def _cell(cell: Cell, chars: int, *, is_best: bool) -> str:
    sign = f"<div>{marked(BEST)}</div>" if is_best else ""
    if cell.failure:
        return f"{sign}<div>{marked(FAILED_ROW)} {escape(one_line(cell.failure, 200))}</div>"
    limits = Limits(1, max(24, chars // max(1, len(cell.texts))), 4 * chars)
    texts = "".join(
        (f"<div>{muted(one_line(name, 40))}</div>" if len(cell.texts) > 1 else "") + cell_html(text, limits)
        for name, text in cell.texts.items()
    )
    rating = f"<div>{muted(f'rated {cell.rating:.2g}')}</div>" if cell.rating is not None else ""
    return sign + texts + rating


def row_html(row: GridRow, told: str) -> str:
    """Return one row as people vote on it: what came in, then the answers side by side."""
    came_in = "".join(
        f"<div>{muted(one_line(name, 40))} {cell_html(value, Limits(1, 300, 3_000))}</div>"
        for name, value in list(row.came_in.items())[:6]
    )
    names = "".join(f'<th scope="col">{escape(one_line(name, 60))}</th>' for name in row.names)
    cells = "".join(
        f"<td>{_cell(cell, 3_000, is_best=place == row.winner)}</td>" for place, cell in enumerate(row.cells)
    )
    body = f'<tbody><tr class="dnb-line">{cells}</tr></tbody>'
    table = f'<table class="dnb-t"><thead><tr>{names}</tr></thead>{body}</table>'
    return f'<div><b>{escape(told)}</b></div>{came_in}<div class="dnb-scroll">{table}</div>'

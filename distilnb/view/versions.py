"""The versions of a step's prompt as a table: number, when it was seen, what was changed, what it came to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from distilnb.view.diff import Figures, pieces_of, shortened
from distilnb.view.figures import duration, money, plural, tokens
from distilnb.view.html import Bundle, escape, page
from distilnb.view.text import clip, one_line, pad, width

CHANGE = 70  # columns of what was changed, in the text form
_HEADS = ("version", "first seen", "changed", "previews", "runs", "tokens in/out", "cost", "latency", "judge")
_NUMBERS = frozenset({3, 4, 5, 6, 7, 8})


@dataclass(frozen=True)
class VersionLine:
    """One version. `at` is seconds since the epoch; `figures` are those on the Sample, as far as replies are known."""

    number: int
    at: float
    prompt: str
    previews: int = 0
    runs: int = 0
    is_current: bool = False
    figures: Figures = field(default_factory=Figures)


def versions_bundle(pipeline: str, step: str, lines: Sequence[VersionLine]) -> Bundle:
    """Return the versions of a step as text and HTML."""
    head = one_line(f"{pipeline} · {step} · {plural(len(lines), 'version')}", 200)
    rows = [
        _cells(step, line, lines[index - 1].prompt if index else None) for index, line in enumerate(lines)
    ]
    foot = f"* the current one · {step}@1 can be named wherever a step is"
    return {
        "text/plain": "\n".join([head, *_text(rows), f"  {one_line(foot, 200)}"]),
        "text/html": page(
            f"<div><b>{escape(head)}</b></div>", _html(rows), f"<div>{escape(one_line(foot, 200))}</div>"
        ),
    }


def _cells(step: str, line: VersionLine, before: str | None) -> list[str]:
    figures = line.figures
    each = figures.n_rows or 1
    used = "–"
    if figures.input_tokens is not None and figures.output_tokens is not None:
        used = f"{tokens(round(figures.input_tokens / each))}/{tokens(round(figures.output_tokens / each))}"
    is_known = bool(figures.n_rows)
    rating = "–" if figures.rating is None else f"{figures.rating:.2g} ({plural(figures.n_rated, 'row')})"
    return [
        f"{one_line(step, 40)}@{line.number}{' *' * line.is_current}",
        time.strftime("%Y-%m-%d %H:%M", time.localtime(line.at)),
        changed(before, line.prompt),
        str(line.previews),
        str(line.runs),
        used if is_known else "–",
        money(figures.cost_usd and figures.cost_usd / each, is_free=True) if is_known else "–",
        duration(figures.seconds),
        rating,
    ]


def changed(before: str | None, prompt: str) -> str:
    """Return in one line what a version changed, as [-gone-] and {+new+}; of the first the beginning of its prompt."""
    if before is None:
        return one_line(prompt, CHANGE)
    signs = {"same": " … ", "gone": "[-{}-]", "new": "{{+{}+}}"}
    pieces = [piece for piece in pieces_of(before, prompt) if piece.kind != "same" or len(piece.text) > 3]
    return one_line("".join(signs[p.kind].format(p.text) for p in shortened(pieces, 400)).strip(" …"), CHANGE)


def _text(rows: Sequence[Sequence[str]]) -> list[str]:
    every = [_HEADS, *rows]
    wide = [min(CHANGE, max(width(row[place]) for row in every)) for place in range(len(_HEADS))]
    told = []
    for row in every:
        cells = [
            pad(clip(cell, wide[place]), wide[place], right=place in _NUMBERS)
            for place, cell in enumerate(row)
        ]
        told.append(("  " + "  ".join(cells)).rstrip())
    return told


def _html(rows: Sequence[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = [" class=dnb-num" * (place in _NUMBERS) for place in range(len(cells))]
        return "".join(
            f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)
        )

    body = "".join(f'<tr class="dnb-line">{line("td", row)}</tr>' for row in rows)
    return f'<div class="dnb-scroll"><table class="dnb-t"><tr>{line("th", _HEADS)}</tr>{body}</table></div>'

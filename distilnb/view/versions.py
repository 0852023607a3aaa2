"""The versions of a step's prompt as a table: number, when it was seen, what was changed, what it came to."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from distilnb.view.diff import DIFF_STYLE, Figures, marked_html, pieces_of, shortened
from distilnb.view.figures import plural
from distilnb.view.html import Bundle, Shown, escape, page
from distilnb.view.lineup import FIGURES, Lineup, figure_cells
from distilnb.view.text import one_line
from distilnb.view.worddiff import Piece

CHANGE = 70  # columns of what was changed, in the text form
_NAMES = ("version", "first seen")
_HEADS = (*_NAMES, "changed", "previews", "runs", *FIGURES)


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
    rows = (
        _cells(step, line, lines[index - 1].prompt if index else None) for index, line in enumerate(lines)
    )
    table = Lineup(_HEADS, tuple(rows), frozenset(_NAMES), frozenset({"changed"}))
    foot = f"* the current one · {step}@1 can be named wherever a step is"
    return {
        "text/plain": "\n".join([head, *table.text(), f"  {one_line(foot, 200)}"]),
        "text/html": page(
            DIFF_STYLE,
            f"<div><b>{escape(head)}</b></div>",
            table.html(),
            f"<div>{escape(one_line(foot, 200))}</div>",
        ),
    }


def _cells(step: str, line: VersionLine, before: str | None) -> tuple[str | Shown, ...]:
    return (
        f"{one_line(step, 40)}@{line.number}{' *' * line.is_current}",
        time.strftime("%Y-%m-%d %H:%M", time.localtime(line.at)),
        Shown(changed(before, line.prompt), _changed_html(before, line.prompt)),
        str(line.previews),
        str(line.runs),
        *figure_cells(line.figures),
    )


def changed(before: str | None, prompt: str) -> str:
    """Return in one line what a version changed, as [-gone-] and {+new+}; of the first the beginning of its prompt."""
    if before is None:
        return one_line(prompt, CHANGE)
    signs = {"same": " … ", "gone": "[-{}-]", "new": "{{+{}+}}"}
    told = "".join(signs[piece.kind].format(piece.text) for piece in _changes(before, prompt, 400))
    return one_line(told.strip(" …"), CHANGE)


def _changed_html(before: str | None, prompt: str) -> str:
    """Return the same as HTML, what is gone struck through and what is new underlined."""
    if before is None:
        return escape(one_line(prompt, CHANGE))
    pieces = [
        Piece(piece.kind, " … " if piece.kind == "same" else piece.text)
        for piece in _changes(before, prompt, CHANGE)
    ]
    while pieces and pieces[0].kind == "same":
        pieces.pop(0)
    while pieces and pieces[-1].kind == "same":
        pieces.pop()
    return f'<span dir="auto">{marked_html(pieces, 2 * CHANGE)}</span>'


def _changes(before: str, prompt: str, limit: int) -> Iterator[Piece]:
    """Yield what was changed, and what of the same stands between, in about `limit` characters."""
    pieces = [piece for piece in pieces_of(before, prompt) if piece.kind != "same" or len(piece.text) > 3]
    return shortened(pieces, limit)

"""The versions of a step's prompt as a table: number, when it was seen, what was changed, what it came to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from distilnb.view.diff import Figures, pieces_of, shortened
from distilnb.view.figures import plural
from distilnb.view.html import Bundle, escape, page
from distilnb.view.lineup import FIGURES, Lineup, figure_cells
from distilnb.view.text import one_line

CHANGE = 70  # columns of what was changed, in the text form
_WORDS = ("version", "first seen", "changed")
_HEADS = (*_WORDS, "previews", "runs", *FIGURES)


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
    table = Lineup(_HEADS, frozenset(_WORDS), tuple(rows))
    foot = f"* the current one · {step}@1 can be named wherever a step is"
    return {
        "text/plain": "\n".join([head, *table.text(), f"  {one_line(foot, 200)}"]),
        "text/html": page(
            f"<div><b>{escape(head)}</b></div>", table.html(), f"<div>{escape(one_line(foot, 200))}</div>"
        ),
    }


def _cells(step: str, line: VersionLine, before: str | None) -> tuple[str, ...]:
    return (
        f"{one_line(step, 40)}@{line.number}{' *' * line.is_current}",
        time.strftime("%Y-%m-%d %H:%M", time.localtime(line.at)),
        changed(before, line.prompt),
        str(line.previews),
        str(line.runs),
        *figure_cells(line.figures),
    )


def changed(before: str | None, prompt: str) -> str:
    """Return in one line what a version changed, as [-gone-] and {+new+}; of the first the beginning of its prompt."""
    if before is None:
        return one_line(prompt, CHANGE)
    signs = {"same": " … ", "gone": "[-{}-]", "new": "{{+{}+}}"}
    pieces = [piece for piece in pieces_of(before, prompt) if piece.kind != "same" or len(piece.text) > 3]
    return one_line("".join(signs[p.kind].format(p.text) for p in shortened(pieces, 400)).strip(" …"), CHANGE)

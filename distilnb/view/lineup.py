"""Versions, or candidates, line by line in one table: what their replies took, by the row, so that lines compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distilnb.view.diff import Figures
from distilnb.view.figures import UNKNOWN, duration, money_each, plural, tokens
from distilnb.view.html import Shown, escape
from distilnb.view.text import clip, pad, width

MAX_WIDTH = 70  # columns of a cell, in the text form
FIGURES = ("tokens in/out per row", "cost per row", "median latency", "rating")


@dataclass(frozen=True)
class Lineup:
    """A table with a line for each version or candidate; a cell whose HTML is more than its text is `Shown`.

    `names` are the heads of columns of short words, `texts` of those that may be long; all others hold figures.
    """

    heads: tuple[str, ...]
    lines: tuple[tuple[str | Shown, ...], ...]
    names: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()

    def text(self) -> list[str]:
        """Return the table as aligned lines of text."""
        every = [self.heads, *([str(cell) for cell in line] for line in self.lines)]
        wide = [min(MAX_WIDTH, max(width(line[place]) for line in every)) for place in range(len(self.heads))]
        told = []
        for line in every:
            cells = [
                pad(clip(cell, columns), columns, right=self._kind(head) == "num")
                for head, cell, columns in zip(self.heads, line, wide, strict=True)
            ]
            told.append(("  " + "  ".join(cells)).rstrip())
        return told

    def html(self) -> str:
        """Return the table as HTML."""
        body = "".join(f'<tr class="dnb-line">{self._cells("td", line)}</tr>' for line in self.lines)
        head = f"<thead><tr>{self._cells('th scope=col', self.heads, wide='wide')}</tr></thead>"
        return f'<div class="dnb-scroll"><table class="dnb-t dnb-lineup">{head}<tbody>{body}</tbody></table></div>'

    def _cells(self, tag: str, cells: Sequence[str | Shown], *, wide: str = "") -> str:
        kinds = [f" class=dnb-{kind}" if (kind := self._kind(head) or wide) else "" for head in self.heads]
        drawn = [cell.html if isinstance(cell, Shown) else escape(cell) for cell in cells]
        return "".join(f"<{tag}{kind}>{cell}</{tag[:2]}>" for kind, cell in zip(kinds, drawn, strict=True))

    def _kind(self, head: str) -> str:
        return "name" if head in self.names else "" if head in self.texts else "num"


def figure_cells(figures: Figures) -> tuple[str, ...]:
    """Return the cells below `FIGURES`: tokens, cost, latency and rating of a row that was answered, on average."""
    n_rows = figures.n_rows
    used = UNKNOWN
    if n_rows and figures.input_tokens is not None and figures.output_tokens is not None:
        used = (
            f"{tokens(round(figures.input_tokens / n_rows))}/{tokens(round(figures.output_tokens / n_rows))}"
        )
    cost = money_each(figures.cost_usd and figures.cost_usd / n_rows) if n_rows else UNKNOWN
    rating = UNKNOWN if figures.rating is None else f"{figures.rating:.2g} ({plural(figures.n_rated, 'row')})"
    return used, cost, duration(figures.seconds), rating

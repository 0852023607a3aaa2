"""Two versions of a prompt side by side: what was changed in the prompt, and what that changed in each row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from distilnb.rows import Row
from distilnb.view.figures import asked, duration, money, money_each, plural, tokens
from distilnb.view.html import MAX_BYTES, STYLE, Bundle, badge, escape, marked, muted, page, size_bytes
from distilnb.view.looks import FAILED_ROW
from distilnb.view.text import ELLIPSIS, clip, one_line, visible
from distilnb.view.worddiff import MAX_STEPS, Budget, Piece, diff

CONTEXT = 60  # characters of what is the same, shown on either side of a change
TEXT_ROW = 400  # characters of a row's difference in the text form
_SHARES = (2_000, 900, 400, 150, 60)  # characters of a cell, tried until the output is small enough
MAX_ROWS = 20
SHOWN_STEPS = 20_000  # enough to tell by word what there is room for
# An underline and a line through it, not a colour alone; `<del>` and `<ins>` are told by screen readers too.
DIFF_STYLE = """<style>
.dnb ins{text-decoration:underline;text-decoration-thickness:2px;background:rgba(42,145,72,.18)}
.dnb del{text-decoration:line-through;background:rgba(221,75,67,.18)}
.dnb.dnb table.dnb-d td{width:50%}.dnb.dnb table.dnb-d td.dnb-num{width:auto}
</style>""".replace("\n", "")


class TextPair(NamedTuple):
    """One text of a row by both versions; None where a version made none."""

    name: str
    left: str | None
    right: str | None


@dataclass(frozen=True)
class DiffRow:
    """A row, the texts that both versions made of it, why a version failed on it, and how judges rate them."""

    ordinal: int
    row_id: str
    came_in: Row
    pairs: tuple[TextPair, ...] = ()
    left_failure: str = ""
    right_failure: str = ""
    left_rating: float | None = None
    right_rating: float | None = None


@dataclass(frozen=True)
class Figures:
    """What the replies of a version came to on the rows. `seconds` is the median of a request."""

    n_rows: int = 0
    n_failed: int = 0
    n_cut_off: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    seconds: float | None = None
    rating: float | None = None
    n_rated: int = 0


class Side(NamedTuple):
    """A version: its name, its prompt as text, and its figures."""

    name: str
    prompt: str
    figures: Figures


@dataclass(frozen=True)
class DiffData:
    """Two versions on the same rows, as a view draws them. `verdict` is what paired ratings tell, "" without any.

    The figures of both sides are of the rows that both answered, their ratings of those that are rated in both.
    """

    pipeline: str
    left: Side
    right: Side
    rows: tuple[DiffRow, ...]
    verdict: str = ""
    asked: int = 0
    retries: int = 0  # of those asked
    reused: int = 0
    cost_usd: float | None = 0.0
    n_missing: int = 0
    is_rehearsed: bool = False


def diff_bundle(data: DiffData) -> Bundle:
    """Return two versions side by side as text and as HTML of bounded size."""
    prompt = pieces_of(data.left.prompt, data.right.prompt)
    rows = [
        [(pair.name, pieces_of(pair.left or "", pair.right or "", SHOWN_STEPS)) for pair in row.pairs]
        for row in data.rows[:MAX_ROWS]
    ]
    return {"text/plain": _text(data, prompt, rows), "text/html": _html(data, prompt, rows)}


_Pieces = list[Piece]
_RowPieces = list[tuple[str, _Pieces]]


def pieces_of(left: str, right: str, steps: int = MAX_STEPS) -> list[Piece]:
    """Return the difference of two texts in which nothing is hidden any more."""
    return diff(visible(left), visible(right), Budget(steps))


# --- figures ------------------------------------------------------------------


def heading(data: DiffData) -> str:
    """Return the line on what is compared and what that cost."""
    told = [data.pipeline, f"{data.left.name} → {data.right.name}", plural(len(data.rows), "row")]
    told.append(asked(data.asked, data.retries, data.reused))
    told.append(money(data.cost_usd, is_free=data.asked > 0))
    if data.n_missing:
        told.append(f"{plural(data.n_missing, 'answer')} not asked yet")
    return one_line(" · ".join(told), 250)


def changes(data: DiffData) -> str:
    """Return what became of tokens, cost, latency and ratings from one version to the other."""
    left, right = data.left.figures, data.right.figures
    told = []
    if 0 < left.n_rows < len(data.rows):
        told.append(f"in the {plural(left.n_rows, 'row')} that both answered")
    for word, one, other in (
        ("tokens in", left.input_tokens, right.input_tokens),
        ("tokens out", left.output_tokens, right.output_tokens),
    ):
        if one is not None and other is not None:
            told.append(f"{word} {tokens(one)} → {tokens(other)}{_share(one, other)}")
    costs = left.cost_usd, right.cost_usd
    if costs[0] is not None and costs[1] is not None:
        both = [money_each(cost) for cost in costs]
        told.append(f"cost {' → '.join(both)}{_share(*costs)}" if any(costs) else f"cost {both[0]}")
    if left.seconds is not None and right.seconds is not None:
        told.append(f"latency {duration(left.seconds)} → {duration(right.seconds)}")
    if left.rating is not None and right.rating is not None:
        of_rows, verdict = "", data.verdict
        if left.n_rated < len(data.rows):
            of_rows = f" in {plural(left.n_rated, 'row')} rated in both"
            verdict = verdict.removeprefix(f"{plural(left.n_rated, 'row')}: ")  # once is enough
        told.append(f"judge {left.rating:.2g} → {right.rating:.2g}{of_rows} ({verdict})")
    elif any(_rating_words(row) for row in data.rows):
        told.append("judge: no row is rated in both")
    for word, counts in (
        ("failed", (left.n_failed, right.n_failed)),
        ("cut off", (left.n_cut_off, right.n_cut_off)),
    ):
        if any(counts):
            told.append(f"{word} {counts[0]} → {counts[1]}")
    return " · ".join(told)


def _share(one: float | None, other: float | None) -> str:
    """Return the change as " (−12 %)", "" of nothing."""
    if not one or other is None:
        return ""
    share = round(100 * (other - one) / one)
    return f" ({'+' if share > 0 else '−' if share < 0 else '±'}{abs(share)} %)"


# --- shown pieces ---------------------------------------------------------------


def shortened(pieces: Sequence[Piece], limit: int) -> Iterator[Piece]:
    """Yield pieces with what is the same cut to what stands beside a change, `limit` characters in all, or nearly."""
    left = limit
    for index, piece in enumerate(pieces):
        if left <= 0:
            yield Piece("same", f" {ELLIPSIS} {sum(len(p.text) for p in pieces[index:]):,} more characters")
            return
        text = piece.text
        if piece.kind == "same":
            head = CONTEXT if index else 0
            tail = CONTEXT if index + 1 < len(pieces) else 0
            if len(pieces) == 1:
                head = min(left, 4 * CONTEXT)
            if len(text) > head + tail + 20:
                cut = len(text) - head - tail
                text = f"{text[:head]}{ELLIPSIS} {cut:,} the same {ELLIPSIS}{text[len(text) - tail :] if tail else ''}"
        elif len(text) > left:
            text = f"{text[:left]}{ELLIPSIS} {len(text) - left:,} more"
        left -= len(text)
        yield Piece(piece.kind, text)


def _of_side(pieces: Sequence[Piece], kind: str) -> list[Piece]:
    return [piece for piece in pieces if piece.kind in ("same", kind)]


# --- text ---------------------------------------------------------------------


def _text(data: DiffData, prompt: _Pieces, rows: Sequence[_RowPieces]) -> str:
    told = [heading(data)]
    told += [f"  {changes(data)}"] * bool(changes(data))
    told += ["prompt", *(f"  {line}" for line in marked_text(prompt, 1_500).splitlines())]
    for row, pairs in zip(data.rows, rows, strict=False):
        told.append(f"row {row.ordinal}{_rating_words(row)}")
        told += [f"  {line}" for line in _failure_lines(data, row)]
        for name, pieces in pairs:
            shown = " ".join(marked_text(pieces, TEXT_ROW).split())
            told.append(f"  {one_line(name, 40)}: {clip(shown, 3 * TEXT_ROW)}")
    if len(data.rows) > len(rows):
        told.append(f"… {plural(len(data.rows) - len(rows), 'more row')}")
    return "\n".join(told)


def marked_text(pieces: Sequence[Piece], limit: int) -> str:
    """Return pieces as text, what is gone as [-so-] and what is new as {+so+}, in about `limit` characters."""
    signs = {"same": "{}", "gone": "[-{}-]", "new": "{{+{}+}}"}
    return "".join(signs[piece.kind].format(piece.text) for piece in shortened(pieces, limit))


def _rating_words(row: DiffRow) -> str:
    if row.left_rating is None and row.right_rating is None:
        return ""
    both = ("–" if one is None else f"{one:.2g}" for one in (row.left_rating, row.right_rating))
    return f" · judge {' → '.join(both)}"


def _failure_lines(data: DiffData, row: DiffRow) -> list[str]:
    sides = ((data.left.name, row.left_failure), (data.right.name, row.right_failure))
    return [f"{FAILED_ROW.icon} {name}: {one_line(why, 200)}" for name, why in sides if why]


# --- HTML ---------------------------------------------------------------------


def _html(data: DiffData, prompt: _Pieces, rows: Sequence[_RowPieces]) -> str:
    """Return the HTML; texts are cut shorter, then rows left out, until it is small enough."""
    limit = MAX_BYTES - size_bytes(STYLE) - size_bytes(DIFF_STYLE)
    halves = [len(rows) >> n for n in range(1, len(rows).bit_length())]
    for share, shown in [*((share, len(rows)) for share in _SHARES), *((_SHARES[-1], n) for n in halves)]:
        drawn = _draw(data, prompt, rows, share, shown)
        if size_bytes(drawn) <= limit:
            return page(DIFF_STYLE, drawn)
    return page(f"<div><b>{escape(heading(data))}</b></div>", muted("too large to show here"))


def _draw(data: DiffData, prompt: _Pieces, rows: Sequence[_RowPieces], share: int, n_shown: int) -> str:
    mark = f" {badge('rehearsed', 'warn')}" if data.is_rehearsed else ""
    head = (
        f"<div><b>{escape(heading(data))}</b>{mark}</div>"
        f"<div>{escape(changes(data))}</div>"
        f"<details open><summary>prompt: what was changed</summary>"
        f'<pre dir="auto">{marked_html(prompt, share)}</pre></details>'
    )
    names = "".join(
        f'<th scope="col">{escape(one_line(side.name, 60))}</th>' for side in (data.left, data.right)
    )
    body = "".join(
        _draw_row(data, row, pairs, share)
        for row, pairs in zip(data.rows[:n_shown], rows[:n_shown], strict=True)
    )
    more = len(data.rows) - n_shown
    left_out = f"… {plural(more, 'more row')} not shown"
    foot = f"<div>{muted(left_out)}</div>" if more else ""
    table = (
        f'<div class="dnb-scroll"><table class="dnb-t dnb-d"><thead><tr><th scope="col" class="dnb-num">row</th>{names}'
        f"</tr></thead><tbody>{body}</tbody></table></div>{foot}"
    )
    return head + table


def _draw_row(data: DiffData, row: DiffRow, pairs: _RowPieces, share: int) -> str:
    lines = []
    for index, (name, pieces) in enumerate(pairs):
        number = str(row.ordinal) if not index else ""
        label = f"<div>{muted(one_line(name, 40))}</div>" if len(pairs) > 1 else ""
        texts = row.pairs[index].left, row.pairs[index].right
        cells = "".join(
            f"<td>{label}{_cell(pieces, kind, share, text)}</td>"
            for kind, text in zip(("gone", "new"), texts, strict=True)
        )
        lines.append(f'<tr class="dnb-line"><td class="dnb-num dnb-muted">{number}</td>{cells}</tr>')
    under = [f"<div>{marked(FAILED_ROW)} {escape(line[2:])}</div>" for line in _failure_lines(data, row)]
    if _rating_words(row):
        under.append(f"<div>{muted(_rating_words(row).removeprefix(' · '))}</div>")
    if under:
        number = "" if pairs else str(row.ordinal)
        kind = "dnb-under" if pairs else "dnb-line"
        lines.append(
            f'<tr class="{kind}"><td class="dnb-num">{number}</td><td colspan="2">{"".join(under)}</td></tr>'
        )
    return "".join(lines)


def _cell(pieces: Sequence[Piece], kind: str, share: int, text: str | None) -> str:
    if text is None:
        return muted("none")
    if not any(piece.kind != "same" for piece in pieces) and kind == "new":
        return muted("the same")
    return f'<div class="dnb-text" dir="auto">{marked_html(_of_side(pieces, kind), share)}</div>'


def marked_html(pieces: Sequence[Piece], share: int) -> str:
    """Return pieces as safe HTML, in about `share` characters of text."""
    signs = {"same": "{}", "gone": "<del>{}</del>", "new": "<ins>{}</ins>"}
    return "".join(signs[piece.kind].format(escape(piece.text)) for piece in shortened(pieces, share))

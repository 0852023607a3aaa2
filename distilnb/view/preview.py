"""The preview of a pipeline on a few rows: per step what came in, was asked, came back, was made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from distilnb.llms.images import Image
from distilnb.rows import Row
from distilnb.view.figures import duration, money, plural
from distilnb.view.html import Bundle, badge, escape, marked, page
from distilnb.view.looks import FAILED_ROW, PARTIAL_ROW
from distilnb.view.table import Entry, Limits, table_html, table_text
from distilnb.view.text import one_line, value_text, visible

if TYPE_CHECKING:
    from distilnb.llms.request import Message

MANY_COLUMNS = 8  # more do not fit beside each other
LIMITS = Limits(rows=50, chars=220, folded=2_500)
STEP_BYTES = 15_000  # of one step's table; a notebook holds many previews


@dataclass(frozen=True)
class Failure:
    """A row that failed in a step: why, what was sent, and what came back."""

    ordinal: int
    reason: str
    prompt: Sequence[Message] = ()
    reply: str = ""


class RowUse(NamedTuple):
    """Where the replies for a row are from; the amounts are in USD, None where the price is unknown."""

    n_asked: int
    n_reused: int
    cost_usd: float | None
    saved_usd: float | None


@dataclass(frozen=True)
class StepPreview:
    """What a step did with the sample. `ordinals` run beside `rows`; the mappings are keyed by ordinal."""

    name: str
    kind: str
    rows_in: int
    rows_out: int
    columns_made: Sequence[str]
    rows: Sequence[Row]
    ordinals: Sequence[int]
    failures: Sequence[Failure] = ()
    partial: Mapping[int, str] = field(default_factory=dict)
    asked: int = 0
    reused: int = 0
    reasked: int = 0  # of those asked, for a reply in place of one that did not fit
    stood_in: int = 0  # replies that a backup gave
    why_stood_in: str = ""  # what kept the first model from giving one of them
    cost_usd: float | None = 0.0
    guessed: int = 0  # replies whose provider told no tokens: their cost is by the length of the texts
    saved_usd: float | None = 0.0  # what the reused replies have cost when they were asked for
    uses: Mapping[int, RowUse] = field(default_factory=dict)
    seconds: float = 0.0
    prompts: Mapping[int, Sequence[Message]] = field(default_factory=dict)
    replies: Mapping[int, Sequence[str]] = field(default_factory=dict)
    is_rehearsed: bool = False
    version: int | None = None  # of the step's prompt
    after: Sequence[str] = ()
    reads: Sequence[str] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)  # rows left out on purpose, by reason
    waiting: int = 0  # rows that have not come out yet, while the preview is being made
    words: str = ""  # what they wait for beside a reply ("loading transformers:…")

    @property
    def asks(self) -> bool:
        """Whether the step asked a model."""
        return self.asked > 0 or self.reused > 0


@dataclass(frozen=True)
class PreviewData:
    """The steps of a preview in their order, the size of the sample, and what steps below will ask of it, in words."""

    pipeline: str
    steps: tuple[StepPreview, ...]
    sample_size: int
    below: str = ""


def preview_bundle(preview: PreviewData, *, columns: Mapping[str, Sequence[str]] | None = None) -> Bundle:
    """Return a preview as text and HTML. `columns` are those to show of a step, else read and made ones."""
    chosen = columns or {}
    texts = [_heading(preview)]
    parts = [f"<div><b>{escape(_heading(preview))}</b></div>"]
    if preview.below:
        texts.append(visible(f"below: {preview.below}"))
        parts.append(f'<div class="dnb-muted">below: {escape(preview.below)}</div>')
    for step in preview.steps:
        names = list(chosen.get(step.name) or shown_columns(step))
        entries = _entries(step)
        texts += ["", step_header(step), table_text(entries, names, LIMITS._replace(chars=60))]
        table = table_html(entries, names, LIMITS, highlight=set(step.columns_made), max_bytes=STEP_BYTES)
        parts.append(f'<div style="margin-top:10px">{_header_html(step)}{table if entries else ""}</div>')
    return {"text/plain": "\n".join(texts), "text/html": page(*parts)}


def _heading(preview: PreviewData) -> str:
    costs = [step.cost_usd for step in preview.steps]
    known = sum(cost for cost in costs if cost is not None)
    asked = sum(step.asked for step in preview.steps)
    reused = sum(step.reused for step in preview.steps)
    reasked = sum(step.reasked for step in preview.steps)
    told = [
        preview.pipeline,
        f"preview of {plural(preview.sample_size, 'row')}",
        f"asked {asked}, reused {reused}"
        + _saved([step.saved_usd for step in preview.steps])
        + (f", re-asked {reasked}" if reasked else ""),
    ]
    told.append(money(None if None in costs else known, is_free=asked > 0 or not reused))
    return one_line(" · ".join(told), 200)


def step_header(step: StepPreview) -> str:
    """Return the line on a step: name and version, what it reads and makes, what was asked, time, price."""
    told = [f"{step.name}@{step.version}" if step.version else step.name]
    if step.after:
        told[0] += f" after {', '.join(step.after)}"
    if step.reads:
        told.append(f"reads {', '.join(step.reads)}")
    if step.columns_made:
        told.append(f"makes {', '.join(step.columns_made)}")
    told.append(
        f"{step.rows_in} → {plural(step.rows_out, 'row')}" if step.rows_in else plural(step.rows_out, "row")
    )
    if step.asks:
        reasked = f", re-asked {step.reasked}" if step.reasked else ""
        told.append(f"asked {step.asked}, reused {step.reused}{_saved([step.saved_usd])}{reasked}")
    if step.stood_in:
        told.append(f"{step.stood_in} by a backup ({one_line(step.why_stood_in, 120)})")
    about = "≈ " if step.guessed and step.cost_usd else ""
    cost = about + money(step.cost_usd, is_free=step.asked > 0 or not step.asks)
    told.append(f"{duration(step.seconds)}, {cost}")
    told += [f"{plural(len(step.failures), 'row')} failed"] * bool(step.failures)
    told += [f"{plural(len(step.partial), 'row')} partial"] * bool(step.partial)
    told += [f"{plural(n, 'row')} left out ({reason})" for reason, n in step.dropped.items()]
    told += [f"{plural(step.waiting, 'row')} on the way"] * bool(step.waiting)
    told += [step.words] * bool(step.words)
    told += ["rehearsed"] * step.is_rehearsed
    return one_line(" · ".join(told), 400)


def _saved(amounts: Sequence[float | None]) -> str:
    known = sum(amount for amount in amounts if amount is not None)
    return f", saved {money(known)}" if known else ""


def _use_text(use: RowUse | None) -> str:
    """Return whether the replies for a row were asked for now, and what that cost or saved."""
    if use is None:
        return ""
    asked = "asked" + (f" {money(use.cost_usd)}" if use.cost_usd else "")
    reused = "reused" + (f", saved {money(use.saved_usd)}" if use.saved_usd else "")
    if use.n_asked and use.n_reused:
        n = use.n_asked + use.n_reused
        return f"{use.n_asked} of {plural(n, 'reply', 'replies')} {asked}, the others {reused}"
    return asked if use.n_asked else reused


def _header_html(step: StepPreview) -> str:
    name = f"{step.name}@{step.version}" if step.version else step.name
    head, _, rest = step_header(step).partition(" · ")
    rest = rest.removesuffix(" · rehearsed") if step.is_rehearsed else rest
    lead = escape(head)
    if head.startswith(name):
        lead = f"<b>{escape(name)}</b>{escape(head[len(name) :])}"
    for look, found in ((FAILED_ROW, step.failures), (PARTIAL_ROW, step.partial)):
        words = f"{plural(len(found), 'row')} {look.word}"
        rest = rest.replace(f" · {words}", "") if found else rest
    told = f'{lead} <span class="dnb-muted">· {escape(rest)}</span>'
    for look, found in ((FAILED_ROW, step.failures), (PARTIAL_ROW, step.partial)):
        if found:
            words = f"{plural(len(found), 'row')} {look.word}"
            told += f" · {marked(look._replace(word=words))}"
    return f"<div>{told} {badge('rehearsed', 'warn') if step.is_rehearsed else ''}</div>"


def shown_columns(step: StepPreview) -> list[str]:
    """Return the columns worth showing of a step: read and made ones, of many those made; all where it makes none."""
    present = dict.fromkeys(name for row in step.rows for name in row)
    wanted = list(dict.fromkeys([*step.reads, *step.columns_made]))
    if len(wanted) > MANY_COLUMNS and step.columns_made:
        wanted = list(step.columns_made)
    return [name for name in wanted if name in present] or list(present) or wanted


def _entries(step: StepPreview) -> list[Entry]:
    """Return failed rows with what was sent and came back, then the rows that were made."""
    entries = []
    for failure in step.failures:
        prompt = failure.prompt or step.prompts.get(failure.ordinal, ())
        replies = [failure.reply] if failure.reply else list(step.replies.get(failure.ordinal, ()))
        use = _use_text(step.uses.get(failure.ordinal))
        entries.append(Entry({}, failure.ordinal, FAILED_ROW, failure.reason, _folds(prompt, replies), use))
    told: set[int] = set()
    for row, ordinal in zip(step.rows, step.ordinals, strict=True):
        folds = _folds(step.prompts.get(ordinal, ()), step.replies.get(ordinal, ()))
        reason = step.partial.get(ordinal, "")
        look = PARTIAL_ROW if reason and ordinal not in told else None
        use = _use_text(step.uses.get(ordinal))
        first = ordinal not in told
        entries.append(Entry(row, ordinal, look, reason, folds if first else (), use if first else ""))
        told.add(ordinal)  # of the several rows that one became, the first tells
    return entries


def _folds(prompt: Sequence[Message], replies: Sequence[str]) -> tuple[tuple[str, str], ...]:
    folds = [("prompt", messages_text(prompt))] if prompt else []
    numbered = len(replies) > 1
    folds += [
        (f"raw reply [{i}]" if numbered else "raw reply", str(reply)) for i, reply in enumerate(replies)
    ]
    return tuple(folds)


def messages_text(messages: Sequence[Message]) -> str:
    """Return messages as a prompt cell writes them: the role on a line of its own, then the text."""
    texts = (
        f"{message.get('role', 'user')}:\n{_content_text(message.get('content'))}" for message in messages
    )
    return "\n".join(texts)


def _content_text(content: object) -> str:
    if not isinstance(content, list):
        return value_text(content) if content is not None else ""
    return "\n".join(map(_part_text, content))


def _part_text(part: object) -> str:
    if not isinstance(part, dict):
        return str(part)
    image = part.get("image")
    if isinstance(image, Image):
        return image.words
    return str(part.get("text") or f"[{part.get('type', 'part')}]")


@contextmanager
def preview_live(*, refresh_hz: float = 4.0, keeps: bool = True) -> Iterator[Callable[[PreviewData], None]]:
    """Show a preview that fills while rows are answered: call what this yields with newer data.

    One output is updated at most `refresh_hz` times a second, from the caller's own thread. With
    `keeps=False` it is emptied at the end, for a caller whose result shows itself. In a terminal, and outside
    IPython, nothing is shown on the way.
    """
    from distilnb.view.display import Output, is_kernel  # imports IPython when it is there

    output = Output() if is_kernel() else None
    newest: PreviewData | None = None
    shown_at = float("-inf")

    def update(preview: PreviewData) -> None:
        nonlocal newest, shown_at
        newest = preview
        if output and time.monotonic() - shown_at >= 1 / refresh_hz:
            output.show(preview_bundle(preview))
            newest, shown_at = None, time.monotonic()

    try:
        yield update
    finally:
        if output and not keeps:
            output.clear()
        elif output and newest:
            output.show(preview_bundle(newest))

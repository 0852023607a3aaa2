"""The quote for a run as text and as static HTML: one line in all, and a line for each step that asks a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from distilnb.engine.forecast import Interval
from distilnb.engine.quote import StepQuote, sum_of
from distilnb.view.figures import count, duration, money, plural
from distilnb.view.figures import tokens as token_count
from distilnb.view.html import Bundle, badge, escape, lines, page
from distilnb.view.looks import WARNING
from distilnb.view.text import clip, one_line, pad, visible, width

UNKNOWN = "unknown"
_HEADS = ("step", "model", "requests", "cached", "tokens in", "tokens out", "cost", "time")
_NUMBERS = frozenset(range(2, len(_HEADS)))


@dataclass(frozen=True)
class EstimateData:
    """A quote as a view draws it. `rows` are those of the sources, `seconds` is for the whole run."""

    pipeline: str
    rows: int
    steps: tuple[StepQuote, ...]
    seconds: Interval | None
    notes: tuple[str, ...] = ()
    is_rehearsed: bool = False


def estimate_bundle(estimate: EstimateData) -> Bundle:
    """Return a quote as text and HTML."""
    return {"text/plain": _text(estimate), "text/html": _html(estimate)}


def between(interval: Interval | None, say: Callable[[float], str]) -> str:
    """Return what is expected and, where it is not sure, the ends: "$0.41 ($0.30 to $0.60)".

    >>> between(Interval(0.3, 0.41, 0.6), money), between(Interval.exactly(2.0), money), between(None, money)
    ('$0.41 ($0.30 to $0.60)', '$2.00', 'unknown')
    """
    if interval is None:
        return UNKNOWN
    low, expected, high = (say(end) for end in interval)
    return expected if low == high else f"{expected} ({low} to {high})"


def headline(estimate: EstimateData) -> str:
    """Return the quote in one line."""
    requests = sum_of(quote.requests for quote in estimate.steps)
    cached = sum(quote.cached for quote in estimate.steps)
    cost = sum_of(quote.cost_usd for quote in estimate.steps)
    tokens = sum_of(quote.tokens for quote in estimate.steps)
    told = [estimate.pipeline, plural(estimate.rows, "row")]
    noun = "request" if requests == Interval.exactly(1) else "requests"
    told.append(f"{between(requests, _count)} {noun}" + (f", {count(cached)} more cached" if cached else ""))
    told.append(f"{between(tokens, _tokens)} tokens")
    told.append(_cost(cost) if cost is not None else f"cost {UNKNOWN}")
    if estimate.seconds is None:
        told.append(f"time {UNKNOWN}")
    else:
        told.append(f"about {between(estimate.seconds, duration)}")
    return one_line(" · ".join(told), 250)


def _cells(quote: StepQuote) -> list[str]:
    return [
        one_line(quote.name, 40),
        one_line(quote.model, 50),
        between(quote.requests, _count),
        count(quote.cached),
        between(quote.input_tokens, _tokens),
        between(quote.output_tokens, _tokens),
        UNKNOWN if quote.cost_usd is None else _cost(quote.cost_usd),
        between(quote.seconds, duration),
    ]


def _cost(cost: Interval) -> str:
    return "free" if not cost.high else between(cost, money)


def _count(number: float) -> str:
    return count(round(number))


def _tokens(number: float) -> str:
    return token_count(round(number))


def _text(estimate: EstimateData) -> str:
    rows = [[clip(cell, 40) for cell in _cells(quote)] for quote in estimate.steps]
    told = [visible(headline(estimate)) + " · rehearsed" * estimate.is_rehearsed]
    if rows:
        rows = [list(_HEADS), *rows]
        wide = [max(width(row[place]) for row in rows) for place in range(len(_HEADS))]
        for row in rows:
            cells = [pad(cell, wide[place], right=place in _NUMBERS) for place, cell in enumerate(row)]
            told.append(("  " + "  ".join(cells)).rstrip())
    told += [f"  ⚠ {visible(note)}" for note in estimate.notes]
    return "\n".join(told)


def _html(estimate: EstimateData) -> str:
    mark = f" {badge('rehearsed', 'warn')}" if estimate.is_rehearsed else ""
    head = "".join(_cell("th", text, place) for place, text in enumerate(_HEADS))
    body = "".join(
        '<tr class="dnb-line">'
        + "".join(_cell("td", text, place) for place, text in enumerate(_cells(quote)))
        + "</tr>"
        for quote in estimate.steps
    )
    table = (
        f'<div class="dnb-scroll"><table class="dnb-t"><tr>{head}</tr>{body}</table></div>' if body else ""
    )
    return page(
        f"<div><b>{escape(headline(estimate))}</b>{mark}</div>", table, lines(estimate.notes, WARNING)
    )


def _cell(tag: str, text: str, place: int) -> str:
    if place not in _NUMBERS:
        return f'<{tag} style="overflow-wrap:normal">{escape(text)}</{tag}>'
    number, bracket, interval = escape(text).partition(" (")  # below the number, or the table is too wide
    below = f'<div class="dnb-muted">{bracket.strip()}{interval}</div>' if bracket else ""
    return f'<{tag} class="dnb-num">{number}{below}</{tag}>'

"""How a run stands, at rest: one line, some lines of text, or a card of static HTML."""

from __future__ import annotations

import time

from distilnb.engine.status import RunStatus, StepStatus
from distilnb.view import figures
from distilnb.view.html import MAX_BYTES, Bundle, badge, escape, fold, icon, marked, muted, page, size_bytes
from distilnb.view.jobs import jobs_in_short, jobs_told
from distilnb.view.looks import (
    PARKED,
    WARNING,
    Look,
    Tone,
    eta_s,
    progress,
    refused,
    remarks,
    run_look,
    step_cost,
    step_look,
)
from distilnb.view.text import clip, one_line, pad, visible, width

_WIDTHS = ("18%", "10%", "19%", "11%", "8%", "12%", "22%")
_HEADS = ("step", "rows", "", "rate", "cost", "tokens in, out", "")
MAX_ROWS = 20  # of steps, in a card that would be too large
MAX_NOTES = 10
_NUMBERS = frozenset({1, 3, 4, 5})


# --- text ---------------------------------------------------------------------


def status_line(status: RunStatus, now: float | None = None) -> str:
    """Return one line: the step that will be done last while it runs, what is spent, and what failed in all.

    >>> step = StepStatus(
    ...     "judge", "UltraFeedback", "running", 1000, 320, cost_usd=0.41, asked=320, rows_per_s=13.1
    ... )
    >>> status_line(RunStatus("prefs-8c1d", "prefs", "running", (step,)))
    'judge 320/1000 [32%] 13.1 rows/s ETA 0:51 $0.41'
    """
    failed = sum(step.failed for step in status.steps)
    step = None if status.is_ended else _slowest(status)
    if step is None:
        look = run_look(status)
        told = [
            f"{status.id} {look.word}",
            f"after {figures.clock(elapsed_s(status, now))}",
            run_cost(status),
        ]
        told += [f"err {figures.count(failed)}"] * bool(failed)
        told += [f"({status.error})"] * bool(status.error)
    else:
        told = [f"{step.name} {progress(step).replace(',', '')}".rstrip()]
        told += [f"[{figures.percent(step.ended, step.total)}]"] * (step.total is not None)
        told += [figures.rate(step.rows_per_s)] * (step.rows_per_s > 0)
        eta = eta_s(step)
        told += [f"ETA {figures.clock(eta)}"] * (eta is not None)
        told += [run_cost(status)] + [f"err {figures.count(failed)}"] * bool(failed)
        told += [status.state] * (status.state in ("paused", "stopping"))
    told += [jobs_in_short(status, now)] * bool(status.jobs)
    told += ["rehearsed"] * status.is_rehearsed
    return one_line(" ".join(told), 160)


def _slowest(status: RunStatus) -> StepStatus | None:
    running = [step for step in status.steps if step.state == "running"]
    return max(running, key=lambda step: eta_s(step) or -1.0, default=None)


def status_text(status: RunStatus, now: float | None = None) -> str:
    """Return the run on a line, then a line for each step."""
    table = [_step_texts(step, status) for step in status.steps]
    wide = [
        max((width(row[column]) for row in table), default=0)
        for column in range(len(table[0]) if table else 0)
    ]
    told = [" · ".join([visible(status.id), str(run_look(status)), *_facts(status, now)])]
    for row in table:
        cells = [
            pad(cell, w, right=2 <= place <= 6)
            for place, (cell, w) in enumerate(zip(row, wide, strict=True))
            if w
        ]
        told.append(("  " + "  ".join(cells)).rstrip())
    told += [f"  {PARKED.icon} {visible(words)}" for words in jobs_told(status, now)]
    told += [f"  ⚠ {visible(note)}" for note in [*status.notes, *refused(status)]]
    if status.error:
        told += [f"  ✕ {line}" for line in visible(status.error).splitlines()]
    return "\n".join(told)


def _step_texts(step: StepStatus, status: RunStatus) -> list[str]:
    eta = eta_s(step)
    return [
        clip(visible(step.name), 28),
        str(step_look(step, status)),
        progress(step),
        figures.percent(step.ended, step.total) if step.total is not None else "",
        figures.rate(step.rows_per_s) if step.rows_per_s > 0 and not status.is_ended else "",
        f"ETA {figures.clock(eta)}" if eta is not None and not status.is_ended else "",
        step_cost(step),
        " · ".join(one_line(text, 120) for text, _ in remarks(step)),
    ]


def _facts(status: RunStatus, now: float | None = None) -> list[str]:
    told = [figures.clock(elapsed_s(status, now)), run_cost(status)]
    sent, received = (sum(getattr(s, f"{way}_tokens") for s in status.steps) for way in ("input", "output"))
    if sent or received:
        told.append(f"{figures.tokens(sent)} tokens in, {figures.tokens(received)} out")
    return told + limits_told(status) + ["rehearsed"] * status.is_rehearsed


def limits_told(status: RunStatus) -> list[str]:
    """Return the budget of a run in words, nothing when it has none."""
    limits = status.limits
    told = [figures.money(limits.max_cost)] if limits.max_cost is not None else []
    told += [f"{figures.tokens(limits.max_tokens)} tokens"] if limits.max_tokens is not None else []
    told += [figures.clock(limits.max_time)] if limits.max_time is not None else []
    return [f"at most {', '.join(told)}"] if told else []


def elapsed_s(status: RunStatus, now: float | None = None) -> float | None:
    """Return how long a run has taken so far, None before it began."""
    if not status.started_at:
        return None
    end = status.ended_at if status.ended_at is not None else (time.time() if now is None else now)
    return max(0.0, end - status.started_at)


def run_cost(status: RunStatus) -> str:
    """Return what a run has cost so far: "free" when models answered for nothing."""
    about = "≈ " if status.cost_usd and any(step.guessed for step in status.steps) else ""
    return about + figures.money(status.cost_usd, is_free=any(step.asked for step in status.steps))


# --- HTML ---------------------------------------------------------------------


def run_card(
    status: RunStatus, graph_svg: str = "", *, remark: str = "", below: str = "", now: float | None = None
) -> Bundle:
    """Return a run as text and as a card of static HTML. `graph_svg` and `below` are safe HTML."""
    drawn = _card_html(status, graph_svg, remark, below, now, len(status.steps))
    if size_bytes(drawn) > MAX_BYTES:
        drawn = _card_html(status, "", remark, below, now, MAX_ROWS)
    if size_bytes(drawn) > MAX_BYTES:
        drawn = _card_html(status, "", remark, "", now, MAX_ROWS)
    text = status_text(status, now) + (f"\n{visible(remark)}" if remark else "")
    return {"text/plain": text, "text/html": drawn}


def _card_html(
    status: RunStatus, graph_svg: str, remark: str, below: str, now: float | None, n_rows: int
) -> str:
    return page(
        f'<div class="dnb-card" role="group" aria-label="run {escape(status.id)}">',
        figures_html(status, graph_svg, now, n_rows),
        below,
        f"<div>{muted(remark)}</div>" if remark else "",
        "</div>",
    )


def figures_html(
    status: RunStatus, graph_svg: str = "", now: float | None = None, n_rows: int | None = None
) -> str:
    """Return how a run stands: head, graph, a row for each step (the first `n_rows`), and what is to be noted."""
    n_rows = len(status.steps) if n_rows is None else n_rows
    rows = "".join(step_row(step, status) for step in status.steps[:n_rows])
    more = len(status.steps) - n_rows
    parts = (
        header_html(status, now),
        f'<div class="dnb-graph">{graph_svg}</div>' if graph_svg else "",
        f'<div class="dnb-scroll">{steps_table(head_row(status) + rows)}</div>' if rows else "",
        f"<div>{muted(f'… {more} more steps')}</div>" if more > 0 else "",
        notes_html(status),
    )
    return "".join(parts)


def header_html(status: RunStatus, now: float | None = None) -> str:
    """Return the head of a run's card: id, state, time, money, tokens."""
    facts = [fact for fact in _facts(status, now) if fact != "rehearsed"]
    told = "".join(f"<span>{escape(fact)}</span>" for fact in facts)
    rehearsed = badge("rehearsed", "warn") if status.is_rehearsed else ""
    state = f"<span>{marked(run_look(status))}</span>"
    return f'<div class="dnb-head"><b>{escape(status.id)}</b>{state}{told}{rehearsed}</div>'


def steps_table(rows: str) -> str:
    """Return rows of steps as a table; its columns are as wide in any other, so rows may stand apart."""
    columns = "".join(f'<col style="width:{share}">' for share in _WIDTHS)
    style = "table-layout:fixed;min-width:780px"
    return f'<table class="dnb-t" style="{style}"><colgroup>{columns}</colgroup>{rows}</table>'


def head_row(status: RunStatus) -> str:
    """Return the heads of the columns of steps."""
    drawn = ""
    for index, head in enumerate(_HEADS):
        shown = "" if head == "rate" and status.is_ended else head
        drawn += f"<th{' class=dnb-num' * (index in _NUMBERS)} scope=col>{shown}</th>"
    return f"<tr>{drawn}</tr>"


def step_row(step: StepStatus, status: RunStatus) -> str:
    """Return one step as a row of the table: state, counts, bar, rate, ETA, cost, tokens, and remarks."""
    eta = None if status.is_ended else eta_s(step)
    rate = figures.rate(step.rows_per_s) if step.rows_per_s > 0 and not status.is_ended else ""
    tokens = ""
    if step.input_tokens or step.output_tokens:
        about = "≈ " if step.guessed else ""
        tokens = f"{about}{figures.tokens(step.input_tokens)}, {figures.tokens(step.output_tokens)}"
    told = "".join(f"<span>{_remark_html(text, tone)}</span>" for text, tone in remarks(step))
    cells = (
        f"<b>{escape(clip(visible(step.name), 28))}</b><br>{marked(step_look(step, status))}",
        escape(progress(step)),
        bar_html(step, status),
        escape(rate) + (f"<br>ETA {figures.clock(eta)}" if eta is not None else ""),
        escape(step_cost(step)),
        tokens,
    )
    drawn = "".join(f"<td{' class=dnb-num' * (i in _NUMBERS)}>{cell}</td>" for i, cell in enumerate(cells))
    drawn += f'<td class="dnb-told">{told}</td>'
    title = escape(one_line(f"{step.name} ({step.kind})", 120))
    return f'<tr class="dnb-line" title="{title}">{drawn}</tr>'


def _remark_html(text: str, tone: Tone) -> str:
    """Return a remark on rows: a coloured icon and a word, or a quiet word."""
    text = one_line(text, 120)
    if tone == "idle":
        return muted(text)
    sign, _, words = text.partition(" ")
    return f"{icon(Look(sign, words, tone))} {escape(words)}"


def bar_html(step: StepStatus, status: RunStatus) -> str:
    """Return the bar of a step: done, failed and dropped rows as parts of those expected."""
    total = step.total if step.total is not None else (step.ended or step.made)
    if not total:
        return ""
    is_sure = step.total is not None or step.state == "finished"
    parts = (
        (step.done or step.made, "ok" if step.state == "finished" else "busy"),
        (step.failed, "bad"),
        (step.dropped, "idle"),
    )
    drawn = "".join(
        f'<i class="dnb-{tone}" style="width:{100 * n / total:.1f}%"></i>' for n, tone in parts if n
    )
    if not is_sure:
        drawn = (
            '<i class="dnb-busy" style="width:30%;opacity:.5"></i>'  # how much is to come is not known yet
        )
    share = figures.percent(step.ended, step.total) if is_sure else "total not known yet"
    spoken = f"{progress(step)} rows, {step.done} done, {step.failed} failed, {step.dropped} dropped"
    spoken = escape(f"{share}: {spoken}")
    return f'<div class="dnb-bar" role="img" title="{spoken}">{drawn}</div>'


def notes_html(status: RunStatus) -> str:
    """Return what the run has to say: remarks, and what failed with the tail of the log folded."""
    told = "".join(f"<div>{icon(PARKED)} {escape(one_line(words, 240))}</div>" for words in jobs_told(status))
    told += "".join(
        f"<div>{icon(WARNING)} {escape(one_line(note, 240))}</div>"
        for note in [*status.notes, *refused(status)][:MAX_NOTES]
    )
    if status.error:
        first, _, rest = status.error.strip().partition("\n")
        failed = Look("✕", "failed", "bad")
        told += f'<div>{marked(failed)}: <span class="dnb-text">{escape(first[:600])}</span></div>'
        told += fold("log", rest, 3_000) if rest.strip() else ""
    return told

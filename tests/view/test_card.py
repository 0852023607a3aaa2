from __future__ import annotations

from dataclasses import replace

import pytest

from distilnb.engine.limits import RunLimits
from distilnb.engine.status import RunStatus, StepStatus
from distilnb.view.card import run_card, status_line, status_text
from distilnb.view.graph import draw_svg
from tests.view.samples import HOSTILE, chain, check_html, large, status

DONE = status("finished", ended_at=1093.0, is_rehearsed=True)


def test_the_line_tells_of_the_step_that_takes_longest() -> None:
    assert status_line(status()) == "judge 320/1000 [32%] 13.1 rows/s ETA 0:51 $0.41 err 4"


def test_the_line_of_a_run_that_has_ended() -> None:
    assert status_line(DONE) == "prefs-8c1d finished after 1:33 $0.41 err 4 rehearsed"


def test_the_line_before_anything_runs() -> None:
    run = RunStatus("prefs-8c1d", "prefs", "starting", (StepStatus("load", "Source"),))
    assert status_line(run) == "prefs-8c1d starting after – $0"


def test_the_text_is_a_line_on_the_run_and_one_on_each_step() -> None:
    run = replace(status(), notes=("2 replies were cut off.",), error="It broke.\nTraceback")
    assert status_text(run, now=1052.0) == (
        "prefs-8c1d · ► running · 0:52 · $0.41 · 41.2k tokens in, 123k out\n"
        "  load    ✓ finished        412\n"
        "  answer  ► running     309/412  75%  41.2 rows/s  ETA 0:02  $0.06  ✕ 3 failed · 14 cached\n"
        "  judge   ► running   320/1,000  32%  13.1 rows/s  ETA 0:51  $0.35  ✕ 1 failed · 2 dropped\n"
        "  ⚠ 2 replies were cut off.\n"
        "  ✕ It broke.\n"
        "  ✕ Traceback"
    )


def test_a_run_of_no_steps_yet_has_its_forms() -> None:
    run = RunStatus("prefs-8c1d", "prefs", "starting")
    assert status_text(run) == "prefs-8c1d · ○ starting · – · $0"
    check_html(run_card(run)["text/html"])


def test_free_and_unknown_prices_are_told_apart() -> None:
    local = StepStatus("answer", "T", "finished", 2, 2, asked=2, cost_usd=0.0)
    unknown = replace(local, cost_usd=None)
    for step, shown in ((local, "free"), (unknown, "price unknown")):
        assert f" · {shown}" in status_text(
            RunStatus("r", "p", "finished", (step,), started_at=1, ended_at=2)
        )


def test_the_card_says_all_of_it_in_words() -> None:
    card = run_card(
        replace(DONE, notes=("a note",)),
        draw_svg(chain(), None, DONE),
        remark="a remark",
        below="<div>x</div>",
    )
    told = check_html(card["text/html"])
    for word in (
        "prefs-8c1d",
        "✓ finished",
        "1:33",
        "$0.41",
        "rehearsed",
        "309/412",
        "✕ 3 failed",
        "a note",
        "a remark",
    ):
        assert word in told
    assert "rate" not in told
    assert len(card["text/html"].encode()) < 20_000
    assert card["text/plain"].splitlines()[-1] == "a remark"


def test_in_a_run_that_stopped_nothing_is_called_running() -> None:
    stopped = status("stopped", ended_at=1093.0, reason="budget")
    told = check_html(run_card(stopped)["text/html"])
    assert "stopped (budget)" in told
    assert "unfinished" in told
    assert "running" not in told


def test_a_card_of_any_size_stays_small() -> None:
    steps = tuple(
        StepStatus(f"step_{i}", "Making", "running", 100, 50, 1, asked=9, cost_usd=0.1) for i in range(300)
    )
    run = status(steps=steps, notes=("x" * 5000,) * 50, error="y" * 100_000)
    html = run_card(run, "<svg></svg>" * 5000, below="<div></div>" * 5000)["text/html"]
    assert "280 more steps" in check_html(html)
    assert len(html.encode()) < 20_000


def test_bars_are_read_out() -> None:
    html = run_card(status())["text/html"]
    assert 'title="75%: 309/412 rows, 306 done, 3 failed, 0 dropped"' in html


def test_a_card_of_thirty_steps_is_small_without_its_graph_and_readable_with_it() -> None:
    steps = tuple(
        StepStatus(name, "Making", "running", 100, 50, 1, asked=9, cost_usd=0.1) for name in large().steps
    )
    card = run_card(status(steps=steps))["text/html"]
    assert check_html(card).count("✕ 1 failed") == 30
    assert len(card.encode()) < 20_000


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_stays_text_wherever_it_stands(text: str) -> None:
    step = StepStatus(text, text, "failed", 3, 1, 1, 1, drop_reasons={text: 1})
    run = RunStatus(text, text, "failed", (step,), reason=text, error=f"{text}\n{text}", notes=(text,))
    card = run_card(run, remark=text)
    check_html(card["text/html"])
    for form in (card["text/plain"], status_text(run), status_line(run)):
        assert "\x1b" not in form
        assert "\u202e" not in form


def test_a_paused_run_says_so_everywhere_and_its_budget_is_told() -> None:
    paused = status("paused", limits=RunLimits(max_cost=2.0, max_tokens=10_000, max_time=90))
    assert "paused" in status_line(paused)
    text = status_text(paused)
    assert text.splitlines()[0].startswith("prefs-8c1d · ‖ paused · ")
    assert "at most $2.00, 10k tokens, 1:30" in text
    assert "► running" not in text
    drawn = run_card(paused)["text/html"]
    assert "paused" in drawn
    assert "at most $2.00" in drawn
    assert "at most" not in status_text(status())

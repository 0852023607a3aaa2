"""Offline jobs in words: on a line, in lines, on a card; of a run that goes on, and of one that has ended."""

from __future__ import annotations

import time
from typing import Any

from distilnb.engine.status import JobStatus, RunStatus
from distilnb.view.card import run_card, status_line, status_text
from distilnb.view.jobs import jobs_in_short, jobs_told

NOON = time.mktime((2026, 11, 21, 12, 0, 0, 0, 0, -1))
DAY_S = 86_400


def job(number: int = 1, **changes: Any) -> JobStatus:
    told: dict[str, Any] = {"n_total": 200, "n_done": 120, "since": NOON, "expires_at": NOON + DAY_S}
    return JobStatus(
        **{
            "id": f"batch_{number}",
            "model": "openai:m",
            "state": "parked",
            "run": "prefs-8c1d",
            **told,
            **changes,
        }
    )


def run(*jobs: JobStatus, state: Any = "running") -> RunStatus:
    return RunStatus("prefs-8c1d", "prefs", state, jobs=jobs, started_at=NOON)


def test_a_parked_run_says_which_job_it_waits_for_since_when_and_until_when() -> None:
    words = "parked: job batch_1, 120/200 done, since 12:00, expires Nov 22 12:00"
    assert jobs_told(run(job()), NOON + 60) == [words]
    assert run(job()).is_parked
    text = status_text(run(job()), NOON + 60)
    assert text.splitlines()[0].startswith("prefs-8c1d · ◷ parked")
    assert text.endswith(f"  ◷ {words}")
    assert status_line(run(job()), NOON + 60).endswith(words)
    assert "batch_1, 120/200 done" in run_card(run(job()), now=NOON)["text/html"]


def test_failures_a_foreign_run_and_what_is_in_the_way_are_told() -> None:
    [told] = jobs_told(run(job(n_failed=3, run="other-1234", note="HTTP 500: <b>busy</b>")), NOON)
    assert "3 failed" in told
    assert "handed over by other-1234" in told
    assert told.endswith("HTTP 500: <b>busy</b>")
    assert "<b>busy" not in run_card(run(job(note="<b>busy</b>")))["text/html"]


def test_what_is_gathered_is_no_job_yet() -> None:
    gathering = run(job(id="", state="gathering", n_total=1_234))
    assert jobs_told(gathering) == ["gathering: 1,234 requests for an offline job of openai:m"]
    assert not gathering.is_parked


def test_an_ended_run_says_what_it_has_left_and_how_to_get_it() -> None:
    [told] = jobs_told(run(job(), state="stopped"), NOON)
    assert told.startswith("left with the provider: job batch_1")
    assert told.endswith("run.resume() collects it")


def test_many_jobs_are_added_up() -> None:
    many = run(*(job(number) for number in range(1, 10)))
    told = jobs_told(many, NOON)
    assert len(told) == 5
    assert told[-1] == "and 5 more jobs, 600/1,000 done"
    assert jobs_in_short(many) == "parked: 9 jobs, 1,080/1,800 done"
    assert jobs_in_short(run()) == ""

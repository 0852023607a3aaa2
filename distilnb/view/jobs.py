"""Offline jobs in words: what a parked run waits for, or what an ended one has left with a provider."""

from __future__ import annotations

import time

from distilnb.engine.status import JobStatus, RunStatus
from distilnb.view import figures

MAX_JOBS = 5  # told one by one


def jobs_told(status: RunStatus, now: float | None = None) -> list[str]:
    """Return a line for each job that rows of a run wait for, the last ones together.

    >>> job = JobStatus("batch_abc", "openai:gpt-4o-mini", "parked", 200, 120)
    >>> jobs_told(RunStatus("prefs-8c1d", "prefs", "running", jobs=(job,)))
    ['parked: job batch_abc, 120/200 done']
    """
    many = len(status.jobs) > MAX_JOBS
    single = status.jobs[: MAX_JOBS - 1] if many else status.jobs
    told = [_words(job, status, now) for job in single]
    if many:
        rest = status.jobs[MAX_JOBS - 1 :]
        told.append(f"and {figures.count(len(rest))} more jobs, {_progress(rest)}")
    return told


def jobs_in_short(status: RunStatus, now: float | None = None) -> str:
    """Return the jobs of a run in a few words for a line; "" when it has none."""
    if len(status.jobs) < 2:
        return "".join(jobs_told(status, now))
    word = "left with the provider" if status.is_ended else "parked"
    return f"{word}: {figures.count(len(status.jobs))} jobs, {_progress(status.jobs)}"


def _words(job: JobStatus, status: RunStatus, now: float | None) -> str:
    if job.state == "gathering":
        return f"gathering: {figures.count(job.n_total)} requests for an offline job of {job.model}"
    name = f"job {job.id}" if job.id else f"an offline job of {job.model}"
    head = "left with the provider" if status.is_ended and job.id else job.state
    told = [f"{head}: {name}", _progress((job,))]
    if job.n_failed:
        told.append(f"{figures.count(job.n_failed)} failed")
    if job.since:
        told.append(f"since {_clock(job.since, now)}")
    if job.expires_at:
        told.append(f"expires {_clock(job.expires_at, now)}")
    if job.run and job.run != status.id:
        told.append(f"handed over by {job.run}")
    if status.is_ended:
        told.append("run.resume() collects it")
    if job.note:
        told.append(job.note)
    return ", ".join(told)


def _progress(jobs: tuple[JobStatus, ...]) -> str:
    done, total = sum(job.n_done for job in jobs), sum(job.n_total for job in jobs)
    return f"{figures.count(done)}/{figures.count(total)} done"


def _clock(at: float, now: float | None) -> str:
    """Return a moment as the hour of today, with the day where it is another."""
    now = time.time() if now is None else now
    then = time.localtime(at)
    hour = time.strftime("%H:%M", then)
    return hour if then[:3] == time.localtime(now)[:3] else f"{time.strftime('%b %d', then)} {hour}"

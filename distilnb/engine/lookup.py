"""Rows of a task as they are before anything is asked: rendered, numbered, and with the replies that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distilnb.engine.apply import Failure
from distilnb.engine.asked import Asked, At, Errand
from distilnb.engine.attempts import CacheMode, choose_attempts, find_bought
from distilnb.engine.cache import ReplyCache, request_digests
from distilnb.engine.inquiry import Inquiry, inquire, seek_all
from distilnb.engine.reasking import n_reasks
from distilnb.engine.rendering import model_of, renderer
from distilnb.engine.repeats import Repeats
from distilnb.llms.request import Request


def look_up(
    errand: Errand,
    indices: Sequence[int],
    attempts: Mapping[int, int],
    cache: ReplyCache,
    mode: CacheMode,
    repeats: Repeats,
    *,
    at: At,
) -> list[Inquiry]:
    """Render all requests and find their replies in one look-up; rows that cannot be rendered end here.

    `attempts` has, by index, how often a retry has raised a row's attempt.
    """
    task, batch = errand.task, errand.batch
    rendered: list[tuple[int, Request]] = []
    render_row = renderer(task)
    for index in indices:
        try:
            with at(batch, index, finishes=False):
                rendered.append((index, render_row(batch.rows[index])))
        except Exception as error:  # noqa: BLE001 - a user's task may raise anything; it is the row's failure
            errand.done(index, Asked(failure=Failure.of(batch.ids[index], task.name, error)))
    numbered = _number(errand, rendered, repeats)
    inquiries = []
    for (index, request), (digest, repeat) in zip(rendered, numbered, strict=True):
        attempt = attempts.get(index, 0)
        inquiry = inquire(model_of(task), index, request, digest, repeat, attempt, errand.voices)
        if attempt:
            row, most = batch.rows[index], n_reasks(task, request)
            choose_attempts(cache, mode, task, row, inquiry, attempt, most, again=errand.again)
        inquiries.append(inquiry)
    seek_all(inquiries, lambda keys: find_bought(cache, mode, keys, again=errand.again))
    return inquiries


def _number(
    errand: Errand, rendered: Sequence[tuple[int, Request]], repeats: Repeats
) -> list[tuple[bytes, int]]:
    """Return the digest of each request, and how many equal ones of the step came before it."""
    llm = model_of(errand.task)
    digests = request_digests(llm, [request for _, request in rendered])
    before = [0] * len(rendered)
    if not llm.is_deterministic:
        ids = [errand.batch.ids[index] for index, _ in rendered]
        before = repeats.number(errand.task.digest, [*zip(digests, ids, strict=True)])
    return [*zip(digests, before, strict=True)]

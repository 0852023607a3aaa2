"""Asking again for a reply that does not have the shape it should: what is wrong with it is quoted to the model.

A re-ask is a request like any other: it has its place in the reply cache, below the reply that it is about, so that a
later look at the same row finds it whatever became of the process that sent it. Its key tells nothing of what was
wrong: where the validation has changed since, a stored re-ask is read before another is sent.
"""

from __future__ import annotations

import hashlib

from distilnb.engine.asked import At, Errand
from distilnb.engine.cache import Key
from distilnb.engine.inquiry import Inquiry
from distilnb.llms.request import Request
from distilnb.tasks.base import Task


def reask_key(key: Key, number: int) -> Key:
    """Return the key of the number-th re-ask for a reply, given the key of the reply itself."""
    return hashlib.blake2b(key + f"reask:{number}".encode(), digest_size=16).digest()


def n_reasks(task: Task, request: Request) -> int:
    """Return how often a reply to this request may be asked for again."""
    return task.max_reasks if request.shape is not None else 0


def has_complaint(errand: Errand, inquiry: Inquiry, at: At) -> bool:
    """Whether something is wrong with a reply of a row that asking again may mend."""
    if not n_reasks(errand.task, inquiry.request):
        return False
    return any(complaint(errand, inquiry, place, at) for place in range(len(inquiry.parts)))


def complaint(errand: Errand, inquiry: Inquiry, place: int, at: At) -> str:
    """Return what is wrong with a reply of a row, "" when nothing is, or none is there."""
    one = inquiry.at(place)
    if one is None:
        return ""
    with at(errand.batch, inquiry.index, finishes=False):
        return errand.task.complaint(one.reply, errand.batch.rows[inquiry.index])

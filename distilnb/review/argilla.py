"""Sending a review plan to an Argilla 2 server."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from distilnb.errors import ReviewError
from distilnb.review.connection import connected, explain, find_dataset, find_workspace, without_bars
from distilnb.review.plan import Property, Question, Record, ReviewPlan

MAX_BATCH = 500  # the server's limit of records in one call
OnExists = Literal["error", "append", "replace"]

_NOT_IN_AGENT = re.compile(r"[^a-zA-Z0-9\-_:./\s]+")


@dataclass(frozen=True)
class Pushed:
    """What was sent, and where people find it."""

    dataset: str
    workspace: str
    url: str
    n_sent: int
    n_unfit: int = 0
    created: bool = True

    def __str__(self) -> str:
        left_out = f", {self.n_unfit} unfit left out" if self.n_unfit else ""
        return f"{self.n_sent} rows sent to {self.workspace}/{self.dataset}{left_out}: {self.url}"


def push_review(
    plan: ReviewPlan,
    *,
    dataset: str,
    workspace: str | None = None,
    api_url: str | None = None,
    api_key: str | None = None,
    on_exists: OnExists = "error",
    create_workspace: bool = False,
    batch_size: int = MAX_BATCH,
    headers: Mapping[str, str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Pushed:
    """Send the records of a plan to an Argilla dataset.

    A record that is there already (the same row with the same texts) is updated and keeps its answers, so a
    push that broke off is simply repeated, with `on_exists="append"`. "replace" deletes the dataset first,
    with all answers. `on_progress` is called with the records sent and their total. Without a workspace the
    only one is taken; ARGILLA_API_URL and ARGILLA_API_KEY stand for what is not given.

    Raises ReviewError; what was sent before stays.
    """
    _check(plan, dataset, batch_size, on_exists)
    with connected(api_url, api_key, headers) as client:
        place = find_workspace(client, workspace, create=create_workspace)
        target, created = _target(client, plan, place, dataset, on_exists)
        n_sent = _send(client, target, plan, batch_size, on_progress)
        url = f"{str(client.api_url).rstrip('/')}/dataset/{target.id}/annotation-mode"
        return Pushed(dataset, str(place.name), url, n_sent, len(plan.unfit), created)


def _check(plan: ReviewPlan, dataset: str, batch_size: int, on_exists: str) -> None:
    if not plan.records:
        plan.require_fit()
        raise ReviewError("The review plan holds no record.", "Plan the review of rows that are there.")
    if not 1 <= len(dataset.strip()) <= 200:
        raise ReviewError(f"{dataset!r:.60} cannot be the name of a dataset.", "Use 1 to 200 characters.")
    if on_exists not in ("error", "append", "replace"):
        raise ReviewError(f"on_exists={on_exists!r} is unknown.", "It is 'error', 'append' or 'replace'.")
    if not 1 <= batch_size <= MAX_BATCH:
        raise ReviewError(f"A batch of {batch_size} records is not possible.", f"Use 1 to {MAX_BATCH}.")


def _target(client: Any, plan: ReviewPlan, place: Any, name: str, on_exists: OnExists) -> tuple[Any, bool]:
    """Return the dataset to send to, and whether it was made now."""
    existing = find_dataset(place, name)
    if existing is None:
        return _create(client, plan, place, name), True
    if on_exists == "error":
        raise ReviewError(
            f"The dataset {name!r} exists in workspace {place.name!r} already.",
            "Choose another name, on_exists='append', or 'replace' to delete it with its answers.",
        )
    if on_exists == "replace":
        existing.delete()
        return _create(client, plan, place, name), True
    existing.settings.get()
    _check_settings(plan, existing)
    return existing, False


def _create(client: Any, plan: ReviewPlan, place: Any, name: str) -> Any:
    import argilla as rg

    settings = rg.Settings(
        fields=[
            rg.TextField(
                name=field.name, title=field.title, required=field.required, use_markdown=True, client=client
            )
            for field in plan.fields
        ],
        questions=[_question(client, question) for question in plan.questions],
        metadata=[_property(client, item) for item in plan.properties],
        guidelines=plan.guidelines,
        distribution=rg.TaskDistribution(min_submitted=plan.min_submitted),
    )
    return rg.Dataset(name=name, workspace=place, settings=settings, client=client).create()


def _question(client: Any, question: Question) -> Any:
    import argilla as rg

    shared = {"name": question.name, "title": question.title, "required": question.required, "client": client}
    if question.kind == "rating":
        return rg.RatingQuestion(values=list(question.options), **shared)
    if question.kind == "label":
        return rg.LabelQuestion(labels=list(question.options), **shared)
    return rg.TextQuestion(use_markdown=True, **shared)


def _property(client: Any, item: Property) -> Any:
    import argilla as rg

    kinds = {
        "integer": rg.IntegerMetadataProperty,
        "float": rg.FloatMetadataProperty,
        "terms": rg.TermsMetadataProperty,
    }
    return kinds[item.kind](name=item.name, client=client)


def _check_settings(plan: ReviewPlan, existing: Any) -> None:
    """Raise when an existing dataset lacks fields or questions of the plan: they cannot be added."""
    for what, wanted, found in (
        ("fields", [f.name for f in plan.fields], [f.name for f in existing.settings.fields]),
        ("questions", [q.name for q in plan.questions], [q.name for q in existing.settings.questions]),
    ):
        if missing := [name for name in wanted if name not in found]:
            raise ReviewError(
                f"The dataset {existing.name!r} has the {what} {found}; this review also needs {missing}.",
                "Choose another name, or on_exists='replace'.",
            )


def _send(
    client: Any,
    target: Any,
    plan: ReviewPlan,
    batch_size: int,
    on_progress: Callable[[int, int], None] | None,
) -> int:
    import httpx
    from argilla._exceptions import ArgillaError

    known = {item.name for item in target.settings.metadata}
    total = len(plan.records)
    for start in range(0, total, batch_size):
        batch = plan.records[start : start + batch_size]
        try:
            with without_bars():
                target.records.log([_record(record, known) for record in batch], batch_size=len(batch))
        except (httpx.HTTPError, ArgillaError) as error:
            raise _broken(error, client, batch, start, total) from error
        if on_progress is not None:
            on_progress(start + len(batch), total)
    return total


def _record(record: Record, known: set[str]) -> Any:
    import argilla as rg

    return rg.Record(
        id=record.id,
        fields=dict(record.fields),
        metadata={name: value for name, value in record.metadata.items() if name in known},
        suggestions=[
            rg.Suggestion(item.question, item.value, agent=_agent(item.agent)) for item in record.suggestions
        ],
    )


def _agent(name: str) -> str | None:
    """Return a model's name in the characters that Argilla takes."""
    cleaned = _NOT_IN_AGENT.sub("_", name).strip()[:200]
    return cleaned if any(character.isalnum() for character in cleaned) else None


def _broken(error: Exception, client: Any, batch: Sequence[Record], start: int, total: int) -> ReviewError:
    """Say how far the push came, and which row a refusal is about: the server counts within the batch."""
    reason = explain(error, str(client.api_url))
    what = reason.what
    position = re.search(r"position (\d+)", what)
    if position and int(position[1]) < len(batch):
        what = f"{what} (row {batch[int(position[1])].ordinal})"
    if getattr(error, "status_code", None) is None:
        what = f"The connection to Argilla at {client.api_url} broke"
    return ReviewError(
        f"{what.rstrip('.')}. {start} of {total} records were sent.",
        "Push again with on_exists='append': what is there is updated, not doubled.",
    )

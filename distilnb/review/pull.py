"""Reading the answers of a review back from an Argilla server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from distilnb.errors import ReviewError
from distilnb.review.connection import connected, find_dataset, find_workspace
from distilnb.review.plan import row_id_of
from distilnb.rows import RowId

PAGE = 500

Answer = int | float | str | None


@dataclass(frozen=True)
class Response:
    """What one person answered, by question."""

    user: str
    status: Literal["draft", "submitted", "discarded"]
    answers: Mapping[str, Answer]


@dataclass(frozen=True)
class Reviewed:
    """One record with its responses; one that all discarded is "discarded", though Argilla says pending."""

    id: str
    row_id: RowId
    status: Literal["pending", "completed", "discarded"]
    responses: tuple[Response, ...] = ()


def pull_review(
    dataset: str,
    *,
    workspace: str | None = None,
    api_url: str | None = None,
    api_key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> list[Reviewed]:
    """Return every record of an Argilla dataset with what people answered. Raises ReviewError."""
    with connected(api_url, api_key, headers) as client:
        place = find_workspace(client, workspace)
        target = find_dataset(place, dataset)
        if target is None:
            names = sorted(known.name for known in place.datasets)
            raise ReviewError(
                f"Workspace {place.name!r} has no dataset {dataset!r}; it has {names}.", "Check the name."
            )
        users = _user_names(client, place)
        return [_reviewed(record, users) for record in _records(client, target.id)]


def _records(client: Any, dataset_id: UUID) -> Iterator[Any]:
    """Yield the records as the API gives them: the SDK's own forget a response without answers, a discard."""
    offset = 0
    while True:
        page = client.api.records.list(dataset_id, offset, PAGE, with_suggestions=False)
        yield from page
        offset += len(page)
        if len(page) < PAGE:
            return


def _user_names(client: Any, place: Any) -> dict[str, str]:
    """Return names by id: of all users for an owner, of the workspace for an admin, else only the own one."""
    from argilla._exceptions import ForbiddenError

    names = {str(client.me.id): str(client.me.username)}
    for holder in (client, place):
        try:
            return {str(user.id): str(user.username) for user in holder.users}
        except ForbiddenError:
            continue
    return names


def _reviewed(record: Any, users: Mapping[str, str]) -> Reviewed:
    responses = tuple(
        Response(
            user=users.get(str(given.user_id), str(given.user_id)),
            status=given.status.value,
            answers={name: answer.get("value") for name, answer in (given.values or {}).items()},
        )
        for given in record.responses or ()
    )
    record_id = str(record.external_id or record.id)
    return Reviewed(record_id, row_id_of(record_id), _status(record, responses), responses)


def _status(record: Any, responses: tuple[Response, ...]) -> Literal["pending", "completed", "discarded"]:
    if record.status == "completed":
        return "completed"
    final = {response.status for response in responses} - {"draft"}
    return "discarded" if final == {"discarded"} else "pending"

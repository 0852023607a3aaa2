"""What a pipeline made of its Sample when its user was content: the measure for later versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from distilnb.errors import InputError
from distilnb.home import folder_name, private_folder
from distilnb.rows import dump_json, load_json, write_text

_FORMAT = 1


class Text(NamedTuple):
    """A text, or its beginning, and the digest of all of it."""

    text: str
    digest: str


@dataclass(frozen=True)
class Outcome:
    """What a step made of a row: texts by column, the mean rating, and what is wrong; "" where nothing is."""

    failure: str = ""
    left_out: str = ""
    partial: str = ""
    is_cut_off: bool = False
    rating: float | None = None
    texts: Mapping[str, Text] = field(default_factory=dict)


@dataclass(frozen=True)
class Accepted:
    """Outcomes by step and by row id, when they were accepted, and the versions of the prompts that made them."""

    at: float
    versions: Mapping[str, int]
    outcomes: Mapping[str, Mapping[str, Outcome]]


def write_accepted(pipeline: str, accepted: Accepted) -> None:
    """Keep what was accepted, in the place of what was before. Raises StoreError when the disk refuses."""
    outcomes = {
        step: {row_id: vars(outcome) | {"texts": dict(outcome.texts)} for row_id, outcome in rows.items()}
        for step, rows in accepted.outcomes.items()
    }
    document = {
        "format": _FORMAT,
        "at": accepted.at,
        "versions": dict(accepted.versions),
        "outcomes": outcomes,
    }
    write_text(_path(pipeline), dump_json(document))


def read_accepted(pipeline: str) -> Accepted | None:
    """Return what was accepted last; None when nothing was, or the file is damaged."""
    try:
        data = load_json(_path(pipeline).read_text(encoding="utf-8", errors="surrogatepass"))
        if data["format"] != _FORMAT:
            return None
        return Accepted(
            data["at"],
            data["versions"],
            {
                step: {row_id: _outcome(one) for row_id, one in rows.items()}
                for step, rows in data["outcomes"].items()
            },
        )
    except (OSError, KeyError, TypeError, ValueError, InputError):
        return None


def _outcome(data: dict[str, Any]) -> Outcome:
    return Outcome(**{**data, "texts": {name: Text(*text) for name, text in data["texts"].items()}})


def _path(pipeline: str) -> Path:
    return private_folder("pipelines", folder_name(pipeline)) / "accepted.json"

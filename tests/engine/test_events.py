"""Events are read as they were written, by newer and older versions too, and the page about them is true."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from distilnb.engine import events
from distilnb.engine.events import KINDS, Event, Record, UnknownEvent, read_event, write_event

PAGE = Path(__file__).parents[2] / "docs" / "architecture" / "events.md"

EXAMPLES: list[Event] = [
    events.Started(pid=7),
    events.Resumed(pid=7, was="stopped"),
    events.Paused(),
    events.Stopping(reason="user"),
    events.Ended(state="stopped", reason="user"),
    events.WorkerStarted(role="rows", pid=8, name="rows-2"),
    events.WorkerDied(role="rows", exit=-9, name="rows-2", how="killed by SIGKILL", step="map"),
    events.WorkerStuck(name="rows-2", pid=8, why="no sign of life", step="map"),
    events.WorkerBusy(name="rows-2", pid=8, why="code that lets nothing else run"),
    events.WorkerAwake(name="rows-2"),
    events.StageEnded(step="load"),
    events.StepFinished(step="ümläut"),
    events.CommandTaken(name="stop"),
    events.Adjusted(steps=["answer"], changes={"rpm": 5, "max_cost": None}),
    events.Limited(model="openai:m", n_refused=3, concurrency=8),
    events.JobParked(job="batch_1", model="openai:m", requests=200, run="prefs-8c1d"),
    events.JobCollected(job="batch_1", model="openai:m", answered=198, failed=2),
    events.BackedUp(model="openai:m", backup="ollama:n", why="ServerError: It failed."),
    events.Retried(rows=2, order="1700000000000000000"),
]


def test_there_is_an_example_of_every_kind() -> None:
    assert {type(event) for event in EXAMPLES} == set(KINDS.values())
    made = {one for one in vars(events).values() if isinstance(one, type) and issubclass(one, Event)}
    assert made - {Event, UnknownEvent} == set(KINDS.values())


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.kind)
def test_what_is_written_is_read(event: Event) -> None:
    read = read_event(3, 12.5, write_event(event))
    assert read == dataclasses.replace(event, id=3, at=12.5)
    assert read.kind == write_event(event).kind


def test_events_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EXAMPLES[0].pid = 8  # type: ignore[attr-defined]


def test_what_a_newer_version_wrote_is_read_as_far_as_it_is_known() -> None:
    assert read_event(1, 0.0, Record("started", "", '{"pid": 7, "host": "b"}')) == events.Started(
        pid=7, id=1, at=0.0
    )
    unknown = read_event(2, 0.0, Record("melted", "judge", '{"degrees": 40}'))
    assert unknown == UnknownEvent(id=2, at=0.0, name="melted", data={"degrees": 40, "step": "judge"})


def test_what_an_older_version_wrote_without_a_field_is_not_lost() -> None:
    old = read_event(1, 0.0, Record("limited", "", '{"model": "m"}'))
    assert old == UnknownEvent(id=1, at=0.0, name="limited", data={"model": "m"})


def test_the_page_lists_every_kind_with_its_fields() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| ([^|]*)\|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    told = {kind: (name, re.findall(r"`(\w+)`", fields)) for kind, name, fields in rows}
    known = {
        kind: (one.__name__, [f.name for f in dataclasses.fields(one) if f.name not in ("id", "at")])
        for kind, one in KINDS.items()
    }
    assert told == known


def test_the_data_of_an_event_is_plain_json() -> None:
    for event in EXAMPLES:
        assert json.loads(write_event(event).data).keys().isdisjoint({"id", "at", "step"})

"""Parts of a source that several workers read at once, as the runner lets them in: one after the other, as named.

A worker cannot know how many equal rows came before those of its part. So it names its rows as if there were none and
tells their digests, which are counted here in the order of the parts. Where that shows equal rows, or that the rows are
numbered wrongly (blank lines were counted), the worker is told to name the rows of the part again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from distilnb.engine.digests import DigestLog
from distilnb.engine.flow import Flow
from distilnb.engine.journal import Journal
from distilnb.engine.rundir import RunDir
from distilnb.engine.wire import Message
from distilnb.engine.workers import Worker
from distilnb.ids import DIGEST_BYTES


class _Names(NamedTuple):
    """What the names of a part's rows depend on: the number of the first, and where equal rows came before."""

    first: int
    again: list[tuple[int, int]]  # place in the part, and how many equal rows came before


class Renaming(NamedTuple):
    """A part whose rows must be named again: what to tell its worker."""

    number: int
    order: Message


class Admissions:
    """All sources of a run that are cut."""

    def __init__(self, run: RunDir, journal: Journal, flow: Flow) -> None:
        self._run, self._journal, self._flow = run, journal, flow
        self._of_stage: dict[str, Admission] = {}

    def take(self, worker: Worker, message: Message) -> Iterator[Message]:
        """Take in what a worker says of a part; yields the outputs whose turn it is, and the failure that one ends in.

        Call it inside a turn of the journal. The worker is told which parts it must name again.
        """
        stage = message["stage"]
        parts = self._flow.parts(stage)
        del parts.given[message["part"]]
        if stage not in self._of_stage:
            seen = [
                (self._run.path / batch.path, batch.n_rows) for batch in self._journal.reader().batches(stage)
            ]
            log = DigestLog(self._run.digests(stage), self._flow.n_made(stage), seen)
            self._of_stage[stage] = Admission(stage, log, parts.n_in, self._flow.n_made(stage))
        for part in self._of_stage[stage].take({**message, "maker": worker.name}):
            if isinstance(part, Renaming):
                parts.given[part.number] = worker.name
                worker.tell(part.order)
            else:
                n_rows_in = parts.n_rows_in + sum(file["n_rows"] for file in part["files"])
                yield {**part, "say": "out"}
                # One that broke off is not in as a whole: a new runner has what is left of it read again.
                where = [part["part"], n_rows_in] if "failed" in part else [parts.n_in, 0]
                self._journal.set_fact(f"parts:{stage}", where)
                if "failed" in part:
                    yield part["failed"]


class Admission:
    """Lets the parts of one source in, in their order."""

    def __init__(self, stage: str, digests: DigestLog, n_parts: int, n_rows: int) -> None:
        """Go on after so many parts, which have so many rows."""
        self._stage = stage
        self._digests = digests
        self._n_in = self._n_named = n_parts
        self._n_rows = n_rows  # of the parts that are named
        self._came: dict[int, Message] = {}
        self._names: dict[int, _Names] = {}  # of the parts that are named and not in
        self._is_broken = False  # a part has failed: none comes in behind it

    def take(self, message: Message) -> Iterator[Message | Renaming]:
        """Take in what a worker says of a part; yields parts that can be let in now, and those to be named again."""
        number = message["part"]
        self._came[number] = message
        if number < self._n_named:  # its worker died while it named the rows again
            yield from self._renamed(number)
        while self._n_named in self._came:
            self._name(self._came[self._n_named])
            self._n_named += 1
            yield from self._renamed(self._n_named - 1)
        while self._n_in in self._came and self._n_in < self._n_named and not self._is_broken:
            part = self._came.pop(self._n_in)
            del self._names[self._n_in]
            self._n_in += 1
            self._is_broken = "failed" in part
            yield part

    def _name(self, message: Message) -> None:
        digests = bytes.fromhex(message["digests"])
        self._names[message["part"]] = _Names(self._n_rows, self._digests.count(digests))
        self._n_rows += len(digests) // DIGEST_BYTES

    def _renamed(self, number: int) -> Iterator[Renaming]:
        """Yield what to tell the worker of a part, if its rows must be named again."""
        message, names = self._came[number], self._names[number]
        is_right = message["first"] == names.first and not names.again
        if is_right or message.get("is_named") or not message["files"]:
            return
        del self._came[number]
        order = {
            "do": "rename",
            "stage": self._stage,
            "part": number,
            "path": message["files"][0]["path"],
            "first": names.first,
            "again": names.again,
        }
        if "failed" in message:  # said again with the names
            order["failed"] = message["failed"]
        yield Renaming(number, order)

"""A finished run held against the interpreter: rows, order, errors, figures, what was asked, and what retries did."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from distilnb.engine.cache import request_digests
from distilnb.engine.journal import JournalReader
from distilnb.engine.reading import RunReader
from distilnb.engine.rundir import RunDir
from distilnb.errors import RefusedRequestError
from distilnb.llms.request import Reply, Request
from distilnb.tasks.base import Task
from tests.property.sequential import Interpreter, Trouble
from tests.property.steps import oracle_replies

FIGURES = ("done", "failed", "dropped", "made", "partial")

ReplyKey = tuple[bytes, int, int, int]  # digest of the request, its number among equal ones, index, attempt


@dataclass
class Replies:
    """What rows are answered: all replies so far, and which of equal requests each row made, as the run chose it."""

    numbers: dict[tuple[str, bytes, str], int] = field(default_factory=dict)  # (step, request, row id) → k
    known: dict[ReplyKey, Reply] = field(default_factory=dict)
    n_answered: int = 0  # requests of rows that got an answer; some share one
    _digests: dict[int, str] = field(default_factory=dict)  # of tasks, by their identity

    def read(self, run_dir: RunDir) -> None:
        """Read what the run chose, and see that it chose properly: k equal requests are numbered 0 to k - 1."""
        path = run_dir.path / "repeats.sqlite"
        if path.is_file():  # else nobody asked anything
            with contextlib.closing(sqlite3.connect(path)) as db:
                for step, request, row_id, k in db.execute("SELECT step, request, row_id, k FROM repeats"):
                    self.numbers[step, request, row_id] = k
        groups: dict[tuple[str, bytes], list[int]] = {}
        for (step, request, _), k in self.numbers.items():
            groups.setdefault((step, request), []).append(k)
        for ks in groups.values():
            assert sorted(ks) == list(range(len(ks)))

    @property
    def n_shared(self) -> int:
        """How many rows got an answer that another row had asked for."""
        return self.n_answered - len({key[:2] for key in self.known})

    def answer(self, task: Task, row_id: str, request: Request, attempt: int) -> Sequence[Reply]:
        """Return the replies that a row of a task must get; the model is asked for those that nobody has got yet."""
        assert task.llm is not None
        [digest] = request_digests(task.llm, [request])
        if id(task) not in self._digests:
            self._digests[id(task)] = task.digest
        k = 0 if task.llm.is_deterministic else self.numbers[self._digests[id(task)], digest, row_id]
        keys = [self._key(digest, k, index, attempt) for index in range(request.n)]
        missing = [key for key in keys if key not in self.known]
        if missing:
            salt = f"{k}+{attempt}" if attempt else str(k)
            part = replace(request, n=len(missing))
            replies = oracle_replies(task.llm.model, part, f"{salt}/{keys.index(missing[0])}")
            if not replies:
                raise RefusedRequestError("The oracle does not like the question.")
            self.known.update(zip(missing, replies, strict=True))
        self.n_answered += 1
        return [self.known[key] for key in keys]

    def _key(self, digest: bytes, k: int, index: int, attempt: int) -> ReplyKey:
        """Return where a reply is: at the first attempt that was not answered, or well enough to be used."""
        for number in range(attempt):
            reply = self.known.get((digest, k, index, number))
            if reply is None or reply.text:
                return digest, k, index, number
        return digest, k, index, attempt


def compare(run_dir: RunDir, interpreter: Interpreter) -> None:
    """Assert that a finished run has what the interpreter has."""
    reader = RunReader(run_dir)
    try:
        for stage in reader.plan.stages:
            batch = reader.rows(stage.name)
            found = [(row_id, row) for row_id, row in zip(batch.ids, batch.rows, strict=True)]
            assert found == [(item.id, item.row) for item in interpreter.endings[stage.name].items], (
                stage.name
            )
        _compare_errors(reader, interpreter)
        _compare_versions(reader, interpreter)
        journal = reader.journal()
        assert journal is not None
        counts = journal.counts()
        for step, ending in interpreter.endings.items():
            counted = {*FIGURES, *(f"routed:{after}" for after in interpreter.graph.successors(step))}
            figures = {name: int(counts.get(step, {}).get(name, 0)) for name in counted}
            assert figures == {name: ending.figures[name] for name in counted}, step
    finally:
        reader.close()


def _compare_errors(reader: RunReader, interpreter: Interpreter) -> None:
    found: Counter[Trouble] = Counter()
    kept: set[tuple[str, str]] = set()
    past: dict[str, list[tuple[str, str, int | None]]] = {"retried": [], "mended": []}
    for error in reader.errors():
        place = (error["step"], error["row_id"])
        if error["state"] in past:
            past[error["state"]].append((*place, error["mended_by"]))
            continue
        cause = re.search(r"did not arrive: step '(.*?)':", error["reason"])
        is_lost = error["kind"] == "MissingPartnerError" and cause is not None
        told = cause[1] if is_lost and cause else ""
        found[
            Trouble(error["row_id"], error["step"], error["kind"], told, goes_on=bool(error["is_partial"]))
        ] += 1
        if error["state"] == "kept" and not error["is_partial"]:
            kept.add(place)
    assert found == Counter(interpreter.troubles)
    lost = {(trouble.step, trouble.id) for trouble in interpreter.troubles if not trouble.goes_on}

    assert kept == interpreter.kept.keys() & lost
    # What was retried has failed again, or was mended by the version that did it last.
    assert {(step, row_id) for step, row_id, _ in past["retried"]} <= lost
    for step, row_id, version in past["mended"]:
        assert (step, row_id) not in lost
        assert version == interpreter.attempt(step, row_id).version


def _compare_versions(reader: RunReader, interpreter: Interpreter) -> None:
    made: dict[tuple[str, int], set[str]] = {}
    lost = {(trouble.step, trouble.id) for trouble in interpreter.troubles if not trouble.goes_on}
    for (step, row_id), attempt in interpreter.attempts.items():
        is_there = row_id in interpreter.endings[step].rows and (step, row_id) not in lost
        if attempt.version > 1 and is_there:
            made.setdefault((step, attempt.version), set()).add(row_id)
    found = {(one["step"], one["version"]): set(one["row_ids"]) for one in reader.versions()}
    assert {key: ids for key, ids in found.items() if ids} == made


def count_of(figure: str, run_dir: RunDir) -> int:
    """Return a figure of a run, summed over its steps."""
    journal = JournalReader.open(run_dir.journal)
    assert journal is not None
    try:
        return int(sum(figures.get(figure, 0) for figures in journal.counts().values()))
    finally:
        journal.close()

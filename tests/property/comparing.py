"""A finished run held against the interpreter: rows, order, errors, figures, and what was asked."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from distilnb.engine.cache import request_digests
from distilnb.engine.journal import JournalReader
from distilnb.engine.reading import RunReader
from distilnb.engine.rundir import RunDir
from distilnb.errors import RefusedRequestError
from distilnb.llms.request import Reply, Request
from distilnb.rows import Row
from distilnb.spec.graph import Graph
from distilnb.tasks.base import Task
from tests.property.sequential import Interpreter, Trouble
from tests.property.steps import oracle_replies

FIGURES = ("done", "failed", "dropped", "made", "partial")


@dataclass
class Pairing:
    """Which of several equal requests each row made: (step, request, row id) → k, as the run chose it."""

    numbers: Mapping[tuple[str, bytes, str], int]
    replies_needed: set[tuple[bytes, int, int]] = field(default_factory=set)  # (request, k, index)
    n_answered: int = 0  # rows that got an answer; some share one
    _digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, run_dir: RunDir) -> Pairing:
        """Read what the run chose, and see that it chose properly: k equal requests are numbered 0 to k - 1."""
        numbers: dict[tuple[str, bytes, str], int] = {}
        path = run_dir.path / "repeats.sqlite"
        if path.is_file():  # else nobody asked anything
            with contextlib.closing(sqlite3.connect(path)) as db:
                for step, request, row_id, k in db.execute("SELECT step, request, row_id, k FROM repeats"):
                    numbers[step, request, row_id] = k
        groups: dict[tuple[str, bytes], list[int]] = {}
        for (step, request, _), k in numbers.items():
            groups.setdefault((step, request), []).append(k)
        for ks in groups.values():
            assert sorted(ks) == list(range(len(ks)))
        return cls(numbers)

    @property
    def n_shared(self) -> int:
        """How many rows got an answer that another row had asked for."""
        return self.n_answered - len({(request, k) for request, k, _ in self.replies_needed})

    def answer(self, task: Task, row_id: str, request: Request) -> Sequence[Reply]:
        """Return the replies that a row of a task must get."""
        assert task.llm is not None
        [digest] = request_digests(task.llm, [request])
        if task.name not in self._digests:
            self._digests[task.name] = task.digest
        k = 0
        if not task.llm.is_deterministic:
            k = self.numbers[self._digests[task.name], digest, row_id]
        replies = oracle_replies(task.llm.model, request, str(k))
        if not replies:
            raise RefusedRequestError("The oracle does not like the question.")
        self.n_answered += 1
        self.replies_needed.update((digest, k, index) for index in range(request.n))
        return replies


def interpreted(
    graph: Graph, rows: Mapping[str, Sequence[Row]], run_dir: RunDir
) -> tuple[Interpreter, Pairing]:
    """Return what the interpreter makes of the rows, given the run's choice among equal requests."""
    pairing = Pairing.of(run_dir)
    goes = [stage.steps for stage in run_dir.plan().stages]
    keeps_failed = run_dir.plan().options.get("on_error") == "null"
    interpreter = Interpreter(graph, rows, pairing.answer, goes, keeps_failed=keeps_failed)
    interpreter.interpret()
    return interpreter, pairing


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
        journal = reader.journal()
        assert journal is not None
        assert _troubles(journal) == Counter(interpreter.troubles)
        counts = journal.counts()
        for step, ending in interpreter.endings.items():
            counted = {*FIGURES, *(f"routed:{after}" for after in interpreter.graph.successors(step))}
            figures = {name: int(counts.get(step, {}).get(name, 0)) for name in counted}
            assert figures == {name: ending.figures[name] for name in counted}, step
    finally:
        reader.close()


def count_of(figure: str, run_dir: RunDir) -> int:
    """Return a figure of a run, summed over its steps."""
    journal = JournalReader.open(run_dir.journal)
    assert journal is not None
    try:
        return int(sum(figures.get(figure, 0) for figures in journal.counts().values()))
    finally:
        journal.close()


def _troubles(journal: JournalReader) -> Counter[Trouble]:
    found: Counter[Trouble] = Counter()
    for error in journal.errors():
        cause = re.search(r"did not arrive: step '(.*?)':", error["reason"])
        is_lost = error["kind"] == "MissingPartnerError" and cause is not None
        told = cause[1] if is_lost and cause else ""
        found[
            Trouble(error["row_id"], error["step"], error["kind"], told, goes_on=bool(error["is_partial"]))
        ] += 1
    return found

"""A worker's side of a source that is cut: parts are read, named and written, and kept for the steps behind."""

from __future__ import annotations

import traceback

from distilnb.engine.apply import Outcome
from distilnb.engine.plan import Stage
from distilnb.engine.rundir import RunDir
from distilnb.engine.wire import Message, failed_message, write_outcome
from distilnb.errors import NoRowsError
from distilnb.ids import name_again
from distilnb.rows import Batch, NamedPart, read_batch, rows_before_error
from distilnb.steps.cutting import Part, PartReader
from distilnb.steps.sources import LoadDataFromFileSystem

_FRESH_BATCHES = 4  # kept: more are not under way to the next stage


class FreshBatches:
    """Batches that this process wrote a moment ago, in memory: the stage that follows need not read their files."""

    def __init__(self) -> None:
        self._batches: dict[str, Batch] = {}

    def keep(self, path: str, batch: Batch) -> None:
        """Keep a batch, if its file would give back the same."""
        if batch.is_as_stored:
            self._batches[path] = batch
            if len(self._batches) > _FRESH_BATCHES:
                del self._batches[next(iter(self._batches))]

    def take(self, path: str) -> Batch | None:
        """Return a batch and let go of it; None when it is not here."""
        return self._batches.pop(path, None)


def no_rows(source: str) -> NoRowsError:
    """Make the error for a source that has no row."""
    return NoRowsError(f"Source {source!r} made no row.", "Check the path, the split and the filters.")


class PartWork:
    """Reads the parts of one source."""

    def __init__(self, run: RunDir, stage: Stage, step: LoadDataFromFileSystem, fresh: FreshBatches) -> None:
        self._run, self._stage, self._step, self._fresh = run, stage, step, fresh
        self._reader = PartReader(step.files(), stage.part_bytes)

    def read(self, number: int, skip: int) -> Message:
        """Read a part, but for so many of its first rows, and return what tells of it.

        Its rows are named as if no equal row came before, and numbered as if every line were a row. Behind the last
        part it raises NoRowsError for a source that has no row at all.
        """
        part = self._reader.read(number)
        if part is None:
            if not self._reader.has_rows():  # no worker knows what the others have made
                raise no_rows(self._stage.name)
            return {**self._told(number, Outcome()), "is_last": True}
        first = part.n_before_in_all + skip
        named, error = self._named(part, skip, first)
        outcome, n_rows = Outcome(named.batch), len(named.batch)
        outcome.count(self._stage.name, done=n_rows, made=n_rows)
        message = {
            **self._told(number, outcome),
            "first": first,
            "digests": named.digests.hex(),
        }
        if error is not None:
            trace = "".join(traceback.format_exception(error))
            message["failed"] = failed_message(self._stage.name, error, trace)
        return message

    def _named(self, part: Part, skip: int, first: int) -> tuple[NamedPart, Exception | None]:
        """Return the rows of a part, read carefully where the fast reader may not be trusted."""
        name, parsed = self._stage.name, None if skip else part.parsed()
        quick = None if parsed is None else Batch.of_part(parsed, name, first, of_reader=True)
        if quick is not None:
            return quick, None
        rows, error = rows_before_error(part.rows(), None)
        careful = Batch.of_part(rows[skip:], name, first)
        assert careful is not None  # only of the fast reader it is
        return careful, error

    def rename(self, order: Message) -> Message:
        """Write a part once more, its rows named and numbered as the order says; returns what tells of it."""
        path = order["path"]
        batch = self._fresh.take(path)
        if batch is None:
            batch = read_batch(self._run.path / path)
        name_again(batch.ids, order["again"])
        batch.number_from(order["first"])
        outcome = Outcome(batch)
        outcome.count(self._stage.name, done=len(batch), made=len(batch))
        failed = {"failed": order["failed"]} if "failed" in order else {}
        return {**self._told(order["part"], outcome), "is_named": True, **failed}

    def _told(self, number: int, outcome: Outcome) -> Message:
        message = write_outcome(self._run, self._stage.name, outcome, {})
        for file in message["files"]:
            self._fresh.keep(file["path"], outcome.batch)
        return {**message, "say": "part", "part": number, "first": 0, "digests": ""}

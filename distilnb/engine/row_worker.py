"""The worker for everything that asks no model: sources, row steps, joins and global steps.

A thread reads the socket, so that the end of the runner is noticed while the main thread works.
"""

from __future__ import annotations

import gc
import itertools
import os
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from distilnb.engine.apply import KeepFailed, Outcome, apply_step, merge
from distilnb.engine.apply_global import apply_global
from distilnb.engine.building import read_steps
from distilnb.engine.deaths import Poison, poison_of
from distilnb.engine.digests import DigestLog
from distilnb.engine.inbox import Inbox
from distilnb.engine.join import Joiner
from distilnb.engine.part_work import FreshBatches, PartWork, no_rows
from distilnb.engine.pieces import Pieces, do_pieces, one_by_one, unit_of
from distilnb.engine.plan import Plan, Stage
from distilnb.engine.poison import failure_of, quarantine
from distilnb.engine.redoing import Marks, apply_with_marks, read_marks
from distilnb.engine.routing import route_rows
from distilnb.engine.row_cache import RowCache
from distilnb.engine.rundir import RunDir
from distilnb.engine.shelf import Shelf
from distilnb.engine.versions import FIRST, plan_secrets, read_version_steps
from distilnb.engine.vitals import WHOLE, Vitals
from distilnb.engine.wire import (
    LineSplitter,
    Message,
    encode,
    failed_message,
    join_runner,
    keep_freed_memory,
    leave,
    write_outcome,
)
from distilnb.errors import SpecError
from distilnb.rows import Batch, IdMaker, Row, read_batch, row_digest, rows_before_error
from distilnb.spec.registry import KINDS
from distilnb.spec.step import GeneratorStep, GlobalStep, Step
from distilnb.steps.function import FunctionSource
from distilnb.steps.route import RouteRows
from distilnb.steps.sources import LoadDataFromFileSystem

GC_THRESHOLD = 100_000  # new objects between two collections; a batch of rows makes some ten thousand


def main() -> None:
    """Serve one runner until it says exit or dies."""
    path, _, connection, vitals = join_runner()
    inbox = Inbox()

    def listen() -> None:
        splitter = LineSplitter()
        try:
            while data := connection.recv(1 << 16):
                for message in splitter.feed(data):
                    inbox.put(message)
        finally:
            leave()

    threading.Thread(target=listen, name="listen", daemon=True).start()
    worker = RowWorker(RunDir(path), vitals, lambda: inbox.is_calling)
    # What is imported stays: the collector need not walk it again, nor come by several times a batch.
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    keep_freed_memory()
    while (message := inbox.next())["do"] != "exit":
        for reply in worker.handle(message):
            connection.sendall(encode(reply))
        if (rest := worker.take_rest()) is not None:
            inbox.put_back(rest)
    worker.unload()
    os._exit(0)  # a user's non-daemon thread must not keep the worker alive


@dataclass
class _Source:
    """A source being read: the rest of its rows, and the number of the next."""

    rows: Iterator[Row]
    ids: IdMaker
    offset: int
    broken_by: Exception | None = None  # what it raised: from then on its iterator looks as if it had ended


@dataclass
class RowWorker:
    """Does what messages ask; knows nothing of sockets. `is_called_off` says that it is to leave a batch off."""

    run: RunDir
    vitals: Vitals
    is_called_off: Callable[[], bool] = lambda: False
    plan: Plan = field(init=False)
    keep: KeepFailed | None = field(init=False)
    steps: dict[str, Step] = field(default_factory=dict)
    _loaded: set[str] = field(default_factory=set)
    _edited: dict[tuple[str, int], Step] = field(default_factory=dict)  # by step and version
    _secrets: dict[str, str] = field(default_factory=dict)
    _joiners: dict[str, tuple[int, Joiner]] = field(default_factory=dict)  # with the era of its rows
    _sources: dict[str, _Source] = field(default_factory=dict)
    _parts: dict[str, PartWork] = field(default_factory=dict)  # of the sources that are cut
    _fresh: FreshBatches = field(default_factory=FreshBatches)
    _row_cache: RowCache | None = None
    _numbers: dict[str, int] = field(init=False)  # of the stages in the plan
    _lost: dict[str, dict[str, Poison]] = field(default_factory=dict)  # join → poisonous rows that wait in it
    _shelf: Shelf = field(init=False)
    _working_on: str = ""
    _pieces: dict[str, Pieces] = field(default_factory=dict)  # by stage
    _rest: Message | None = None
    _n_said: Counter[str] = field(default_factory=Counter)  # how much finished work was told of, by stage

    def __post_init__(self) -> None:
        self.plan = self.run.plan()
        self.keep = KeepFailed.of(self.plan.options)
        self._numbers = {stage.name: number for number, stage in enumerate(self.plan.stages)}
        self._shelf = Shelf(self.run.path)

    def handle(self, message: Message) -> Iterator[Message]:
        """Do one thing and yield what to tell the runner; an error is told as the step's."""
        self._working_on = str(message.get("stage", ""))
        try:
            for reply in self._do(message):
                if reply["say"] == "out":
                    self._n_said[reply["stage"]] += 1
                yield {**reply, "era": message["era"]} if message.get("era") else reply
        except Exception as error:  # noqa: BLE001 - the worker's loop: whatever a step raised as a whole
            yield failed_message(self._working_on, error, traceback.format_exc())

    def take_rest(self) -> Message | None:
        """Return what is left of a batch that was called off, as a message; None when all was done."""
        rest, self._rest = self._rest, None
        return rest

    def unload(self) -> None:
        """Let every loaded step release what it holds."""
        for name in self._loaded:
            self.steps[name].unload()
        for step in self._edited.values():
            step.unload()

    def _do(self, message: Message) -> Iterator[Message]:
        kind = message["do"]
        if kind == "secrets":
            names = [step for stage in self.plan.stages if stage.worker == "rows" for step in stage.steps]
            self._secrets = message["values"]
            self.steps = read_steps(self.run.path, names, plan_secrets(self._secrets))
            yield {"say": "ready"}
        elif kind == "batch":
            yield from self._batch(self.plan.stage(message["stage"]), message)
        elif kind == "pull":
            yield from self._pull(self.plan.stage(message["stage"]), message)
        elif kind == "part":
            yield self._part_work(self.plan.stage(message["stage"])).read(message["part"], message["skip"])
        elif kind == "rename":
            yield self._part_work(self.plan.stage(message["stage"])).rename(message)
        elif kind == "global":
            yield self._global(self.plan.stage(message["stage"]), message)
        elif kind == "end":
            yield from self._end(self.plan.stage(message["stage"]), message)
        elif kind == "forget":
            joiner = self._joiner(self.plan.stage(message["stage"]), message)
            joiner.forget(message["batch"], message["entry"])
        elif kind == "drain":
            yield {"say": "drained"}

    def _load(self, name: str) -> Step:
        step = self.steps[name]
        if name not in self._loaded:
            self._working_on = name
            step.load()
            self._loaded.add(name)
        return step

    def _version(self, name: str, version: int) -> Step:
        """Return a step as a retry has edited it; version 1 is the plan's."""
        if version == FIRST:
            return self._load(name)
        if (name, version) not in self._edited:
            self._working_on = name
            step = read_version_steps(self.run, version, [name], self._secrets)[name]
            step.load()
            self._edited[name, version] = step
        return self._edited[name, version]

    def _batch(self, stage: Stage, message: Message) -> Iterator[Message]:
        is_join = stage.kind == "join"
        path = message["path"]
        batch = self._shelf.put(message["batch"], path) if is_join else self._read(path)
        entries = message["todo"]
        if entries is None:
            entries = range(len(batch) + len(batch.gone))
        steps = [self._load(name) for name in stage.steps]
        marks = read_marks(self.run, stage, message["batch"], batch.ids) if message.get("retried") else None
        if is_join:
            yield from self._join(stage, batch, list(entries), message, marks)
            return
        batch_id, poison, number = message["batch"], poison_of(message), self._numbers[stage.name]

        def run_piece(piece: Sequence[int]) -> Outcome:
            return self._run_marked(stage, batch, piece, marks)

        def run_one(piece: Sequence[int]) -> Outcome:
            if not piece or piece[0] >= len(batch):
                return Outcome(batch.select(piece))
            with self.vitals.at(number, batch_id, piece[0], finishes=piece[0] not in poison):
                return self._run_marked(stage, batch, piece, marks, poison.get(piece[0]))

        if message.get("one_by_one"):
            outcome, done = do_pieces(one_by_one(entries, len(batch), self.is_called_off), run_one)
        else:
            pieces = self._pieces.setdefault(stage.name, Pieces(unit_of(steps)))
            with self.vitals.at(number, batch_id):
                outcome, done = do_pieces(pieces.of(entries, self.is_called_off), run_piece)
        if len(done) < len(entries):
            self._rest = {**message, "todo": sorted(set(entries).difference(done))}
        yield self._finished(stage, outcome, {batch_id: done if len(done) < len(entries) else entries})

    def _read(self, path: str) -> Batch:
        fresh = self._fresh.take(path)
        return read_batch(self.run.path / path) if fresh is None else fresh

    def _run_marked(
        self,
        stage: Stage,
        batch: Batch,
        entries: Sequence[int],
        marks: Marks | None,
        poison: Poison | None = None,
    ) -> Outcome:
        """Run fused steps on entries of which some were retried; `poison` is of the only one: it ends at its step."""
        if marks is None:
            steps = [self._load(name) for name in stage.steps]
            rows = batch if len(entries) == len(batch) + len(batch.gone) else batch.select(entries)
            rows = rows.taken_by(stage.steps[0])
            return self._run(steps, rows, poison, stage.tells_gone)
        beyond: list[tuple[str, str]] = []
        if poison and entries[0] in marks.redo:
            marks, beyond = marks.up_to(stage.steps[: poison.step + 1], entries[0])

        def apply(step: Step, rows: Batch) -> Outcome:
            number = stage.steps.index(step.name)
            self.vitals.at_step(number)
            if poison and number == poison.step:
                return quarantine(Outcome(rows), step.name, poison)
            return self._apply(step, rows)

        outcome = apply_with_marks(stage.steps, self._version, batch, entries, marks, apply)
        if poison:
            for name, row_id in beyond:  # done in one go with the row that kills, they end with it
                outcome.fail(failure_of(row_id, name, poison), batch.orders[entries[0]])
        return outcome

    def _run(self, steps: list[Step], batch: Batch, poison: Poison | None, names_dropped: bool) -> Outcome:
        """Run fused steps on a batch, one after the other, as far as the one at which a row is poison."""
        total = Outcome(batch)
        for number, step in enumerate(steps):
            self.vitals.at_step(number)
            if poison and number == poison.step:
                return quarantine(total, step.name, poison)
            outcome = self._apply(step, total.batch, names_dropped=names_dropped)
            merge(total, outcome)
            total.batch = outcome.batch
        return total

    def _apply(self, step: Step, batch: Batch, *, names_dropped: bool = True) -> Outcome:
        if isinstance(step, RouteRows):
            return route_rows(step, batch, self.vitals.moved)
        if not step.cache:
            return apply_step(step, batch, self.vitals.moved, self.keep, names_dropped=names_dropped)

        def apply(step: Step, batch: Batch) -> Outcome:
            return apply_step(step, batch, self.vitals.moved, self.keep)

        if self._row_cache is None:
            self._row_cache = RowCache(mode=self.plan.options.get("cache", "on"))
        return self._row_cache.apply(step, batch, apply)

    def _join(
        self, stage: Stage, batch: Batch, entries: list[int], message: Message, marks: Marks | None
    ) -> Iterator[Message]:
        """Take rows in and join those whose partners are there; row by row after a death at this batch."""
        joiner, poison = self._joiner(stage, message), poison_of(message)
        lost = self._lost.setdefault(stage.name, {})
        lost.update({_row_id(batch, index): what for index, what in poison.items()})
        late = joiner.come_late(message["batch"], entries)
        if late:
            yield self._finished(stage, Outcome(), {message["batch"]: late})
            entries = [index for index in entries if index not in late]
        for group in [[index] for index in entries] if message.get("one_by_one") else [entries]:
            complete = joiner.add(message["input"], message["batch"], group)
            dead = [row_id for row_id in complete if row_id in lost]
            if dead:
                outcome, used = joiner.give_up({row_id: lost.pop(row_id) for row_id in dead})
                yield self._finished(stage, outcome, used)
            living = [row_id for row_id in complete if row_id not in dead]
            for version, ids in (marks or Marks()).versions(stage.name, living).items():
                joiner.step = self._version(stage.name, version)
                entry = group[0] if message.get("one_by_one") else WHOLE
                released = joiner.release(ids)
                while True:
                    with self.vitals.at(self._numbers[stage.name], message["batch"], entry):
                        piece = next(released, None)
                    if piece is None:
                        break
                    yield self._finished(stage, *piece)

    def _end(self, stage: Stage, message: Message) -> Iterator[Message]:
        """Release what waits in a join in vain; the last message says that it was the last.

        Not before the runner has heard all that was said: a retry may have taken some of it back, and what was used
        up with that is on its way to here again.
        """
        if message.get("heard", self._n_said[stage.name]) < self._n_said[stage.name]:
            yield {"say": "not_ended", "stage": stage.name}
            return
        held: Message | None = None
        for outcome, took in self._joiner(stage, message).release_rest():
            if held is not None:
                yield held
            held = self._finished(stage, outcome, took)
        if held is not None:
            yield {**held, "is_last": True}

    def _finished(self, stage: Stage, outcome: Outcome, took: dict[int, list[int]]) -> Message:
        if not stage.tells_gone:
            outcome.batch.gone.clear()
        return write_outcome(self.run, stage.name, outcome, took, batch_rows=stage.batch_rows)

    def _joiner(self, stage: Stage, message: Message) -> Joiner:
        era = message.get("era", 0)
        if self._joiners.get(stage.name, (-1,))[0] != era:
            step = self._load(stage.name)
            self._joiners[stage.name] = (era, Joiner(step, stage.columns, self._shelf.get, self.keep))
        joiner = self._joiners[stage.name][1]
        joiner.went_on.update(message.get("went_on", ()))
        return joiner

    def _global(self, stage: Stage, message: Message) -> Message:
        step = self._load(stage.name)
        if not isinstance(step, GlobalStep):
            raise TypeError(f"{stage.name} is no global step")
        inputs = [self._read_all(paths, stage, message["without"]) for paths in message["inputs"]]
        outcome = apply_global(step, inputs, IdMaker(stage.name).make)
        reply = self._finished(stage, outcome, {})
        return {**reply, "is_last": True}

    def _read_all(self, paths: list[str], stage: Stage, without: dict[str, list[int]]) -> Batch:
        whole = Batch()
        for path in paths:
            batch = read_batch(self.run.path / path)
            if path in without:
                n_entries = len(batch) + len(batch.gone)
                batch = batch.select(index for index in range(n_entries) if index not in without[path])
            batch = batch.taken_by(stage.name)
            whole.extend(batch)
            if stage.tells_gone:
                whole.gone += batch.gone
        return whole

    # --- sources ---

    def _pull(self, stage: Stage, message: Message) -> Iterator[Message]:
        source = self._sources.get(stage.name)
        if source is None:
            source = self._sources[stage.name] = self._open(stage, message)
        if source.broken_by is not None:  # this pull was on its way by then
            raise source.broken_by
        limit = message["limit"]
        wanted = stage.batch_rows if limit is None else min(stage.batch_rows, limit - source.offset)
        rows, error = rows_before_error(source.rows, max(0, wanted))
        source.broken_by = error
        n_rows = len(rows)
        outcome = Outcome(Batch.of_source(rows, source.ids, source.offset))
        source.offset += n_rows
        is_last = error is None and (n_rows < wanted or source.offset == limit)
        if n_rows:
            outcome.count(stage.name, done=n_rows, made=n_rows)
            yield {**write_outcome(self.run, stage.name, outcome, {}), "is_last": is_last}
        if error is not None:
            raise error
        if n_rows:
            return
        if not source.offset:
            raise no_rows(stage.name)
        yield {"say": "source_end", "stage": stage.name}

    def _part_work(self, stage: Stage) -> PartWork:
        if stage.name not in self._parts:
            step = self._load(stage.name)
            if not isinstance(step, LoadDataFromFileSystem):
                raise TypeError(f"{stage.name} cannot be cut")
            self._parts[stage.name] = PartWork(self.run, stage, step, self._fresh)
        return self._parts[stage.name]

    def _open(self, stage: Stage, message: Message) -> _Source:
        """Start a source after the rows that earlier workers of this run have made."""
        step = self._load(stage.name)
        if not isinstance(step, GeneratorStep):
            raise TypeError(f"{stage.name} is no source")
        offset = int(message["offset"])
        rows: Iterator[Row] = itertools.chain.from_iterable(_lists_of(step, offset))
        seen = [(self.run.path / path, n_rows) for path, n_rows in message["seen"]]
        ids = IdMaker(stage.name, counter=DigestLog(self.run.digests(stage.name), offset, seen))
        if seen and _is_of_user(step):  # those of the library skip what they are told to
            rows = _going_on(stage.name, rows, read_batch(seen[0][0]).ids, offset)
        return _Source(rows, ids, offset)


def _row_id(batch: Batch, index: int) -> str:
    return batch.gone_at(index).id


def _lists_of(step: GeneratorStep, offset: int) -> Iterator[list[Row]]:
    for rows, is_last in step.process(offset=offset):
        yield rows
        if is_last:
            return


def _is_of_user(step: Step) -> bool:
    return step.kind() not in KINDS or isinstance(step, FunctionSource)


def _going_on(name: str, rows: Iterator[Row], seen: list[str], n_seen: int) -> Iterator[Row]:
    """Return the rows, having made sure that a source which was opened again does not begin anew."""
    n_compared = min(len(seen), 20)
    first = list(itertools.islice(rows, n_compared))
    digests = [row_digest(row) for row in first]
    before = [row_id.rsplit(":", 2)[1] for row_id in seen[: len(first)]]
    # Fewer rows than there were before are the rest of a source, though they may be equal to its first.
    if len(first) == n_compared and digests == before and len(set(digests)) > 1:
        raise SpecError(
            f"Source {name!r} was to go on after its first {n_seen} rows, but began anew.",
            "Let `process` skip `offset` rows, or leave the parameter out: then the rows before are skipped.",
        )
    return itertools.chain(first, rows)


if __name__ == "__main__":
    main()

"""One row's way through a run, step by step: what came in, what was asked and answered, what was made of it.

It is read from the files of the run and the reply cache; no code of the user runs. The row is followed by what the
journal says was made of what, so few files are read, however many rows there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from distilnb.engine.attempts import choose_attempts
from distilnb.engine.cache import Key, ReplyCache, request_digests
from distilnb.engine.failures import unpack_failure
from distilnb.engine.inquiry import Inquiry, inquire, voices_of
from distilnb.engine.journal import BatchRef, JournalReader
from distilnb.engine.lineage import Attempt, Lineage
from distilnb.engine.plan import Plan, Stage
from distilnb.engine.reasking import n_reasks, reask_key
from distilnb.engine.rendering import model_of, render
from distilnb.engine.repeats import number_of
from distilnb.engine.rundir import RunDir
from distilnb.errors import DistilnbError, InputError
from distilnb.ids import is_below, root_id
from distilnb.llms.request import Message, Reply, Request
from distilnb.rows import Batch, Row, read_batch
from distilnb.spec.step import Step
from distilnb.tasks.base import Task

StepOf = Callable[
    [Stage, str, int], Step | None
]  # (stage, step, version) → the step; None when the user wrote it
State = Literal["done", "waiting", "elsewhere", "lost"]


@dataclass(frozen=True)
class Question:
    """What a task asked about a row: the messages, the replies as they came, and what they cost in USD (None: unknown).

    Empty messages: they cannot be told without running code of the user.
    """

    row_id: str
    messages: tuple[Message, ...] = ()
    replies: tuple[Reply, ...] = ()
    model: str = ""
    attempt: int = 0  # how often a retry has asked anew
    cost_usd: float | None = None
    why: str = ""  # what kept the model that is asked first from answering, where a backup did
    is_inner: bool = False  # other replies of the row are made of these


@dataclass(frozen=True)
class Chapter:
    """What one stage did with the row: rows by id as they came in and as they were made, and why some were left out.

    `steps` are fused where there are several: of those only the last one's rows are kept. `state` is "waiting" when
    the row has not come there yet, "elsewhere" when a route sent it another way, "lost" when it ended before.
    """

    steps: tuple[str, ...]
    kind: str
    state: State
    version: int = 1
    came_in: Mapping[str, Row] = field(default_factory=dict)
    made: Mapping[str, Row] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)  # row id → reason
    questions: tuple[Question, ...] = ()
    failures: tuple[Mapping[str, Any], ...] = ()  # as `run.errors()` tells them


@dataclass(frozen=True)
class Story:
    """The way of one row of a source (or of a global step that made it) through a run."""

    run_id: str
    row_id: str
    ordinal: int | None
    chapters: tuple[Chapter, ...]


@dataclass
class StoryTeller:
    """Tells the story of rows of one run. `errors` are those of the run; `step_of` builds a step for reading."""

    run: RunDir
    plan: Plan
    journal: JournalReader
    errors: list[dict[str, Any]]
    step_of: StepOf
    _lineage: Lineage = field(init=False)
    _batches: dict[str, Batch] = field(default_factory=dict)
    _entries: dict[str, list[tuple[BatchRef, int]]] = field(default_factory=dict)  # of the row, by stage
    _lost_at: list[str] = field(default_factory=list)  # stages that lost the row, or some that stem from it

    def __post_init__(self) -> None:
        self._lineage = Lineage(self.journal.connection)

    def tell(self, row: int | str) -> Story:
        """Return the story of a row, by its ordinal in the (first) source or by its id; of an id, of its whole family.

        Raises InputError naming what there is when no finished row is called so.
        """
        first, row_id, ordinal = self._find(row)
        entries = self._entries = {}
        self._lost_at.clear()
        chapters = []
        for stage in self.plan.stages:
            if stage.name == first.name:
                refs = self.journal.batches(stage.name)
                entries[stage.name] = list(self._entries_in(refs, row_id))
                came_in: list[tuple[BatchRef, int]] = []
            elif entries.keys() & set(stage.inputs):
                came_in = [
                    entry
                    for name in stage.inputs
                    for entry in entries.get(name, ())
                    if self._goes_to(stage, *entry)
                ]
                entries[stage.name] = list(self._entries_in(self._made_of(stage, came_in), row_id))
            else:
                continue
            chapters.append(
                self._chapter(stage, row_id, came_in, entries[stage.name], is_first=stage is first)
            )
        return Story(self.plan.run_id, row_id, ordinal, tuple(chapters))

    # --- finding ---

    def _find(self, row: int | str) -> tuple[Stage, str, int | None]:
        if isinstance(row, str):
            root = root_id(row)
            name = root.rsplit(":", 2)[0]
            stages = [stage for stage in self.plan.stages if name in stage.steps]
            for stage in stages:
                for ref, at in self._entries_in(self.journal.batches(stage.name), root):
                    batch = self._read(ref)
                    orders = batch.list_orders()
                    return stage, root, orders[at][0] if at < len(batch) and not stage.inputs else None
        else:
            source = next(stage for stage in self.plan.stages if not stage.inputs)
            for ref in self.journal.batches(source.name):
                batch = self._read(ref)
                for row_id, order in zip(batch.ids, batch.list_orders(), strict=False):
                    if order[0] == row:
                        return source, row_id, row
                self._batches.pop(ref.path)
        made = {
            stage.name: sum(ref.n_rows for ref in self.journal.batches(stage.name))
            for stage in self._sources()
        }
        raise InputError(
            f"Run {self.plan.run_id!r} has no row {row!r} yet; rows so far: {made}.",
            "Give the ordinal of a row in the source (0 is the first), or its id: the index of run.rows(step).",
        )

    def _sources(self) -> Iterable[Stage]:
        return (stage for stage in self.plan.stages if not stage.inputs)

    def _read(self, ref: BatchRef) -> Batch:
        if ref.path not in self._batches:
            self._batches[ref.path] = read_batch(self.run.path / ref.path)
        return self._batches[ref.path]

    def _entries_in(self, refs: Iterable[BatchRef], row_id: str) -> Iterator[tuple[BatchRef, int]]:
        for ref in refs:
            batch = self._read(ref)
            found = [at for at, one in enumerate(batch.ids) if is_below(one, row_id)]
            found += [len(batch) + at for at, gone in enumerate(batch.gone) if is_below(gone.id, row_id)]
            if not found:
                self._batches.pop(ref.path)
            yield from ((ref, at) for at in found)

    def _goes_to(self, stage: Stage, ref: BatchRef, entry: int) -> bool:
        batch = self._read(ref)
        return entry >= len(batch) or batch.goes_to(stage.steps[0], entry)

    def _made_of(self, stage: Stage, came_in: Iterable[tuple[BatchRef, int]]) -> list[BatchRef]:
        """Return the batches that a stage made of some entries; of a global step, which takes all, all."""
        if stage.kind == "global" or not self._lineage.is_kept():
            return self.journal.batches(stage.name)
        outs = {self._lineage.out_that_took(stage.name, ref.id, entry) for ref, entry in came_in}
        found = {
            ref.id: ref for out in outs if out is not None for ref in self._lineage.made(stage.name, out)
        }
        return list(found.values())

    # --- telling ---

    def _chapter(
        self,
        stage: Stage,
        row_id: str,
        came_in: list[tuple[BatchRef, int]],
        went_out: list[tuple[BatchRef, int]],
        *,
        is_first: bool,
    ) -> Chapter:
        incoming = {
            self._read(ref).ids[at]: self._read(ref).rows[at] for ref, at in came_in if at < ref.n_rows
        }
        made: dict[str, Row] = {}
        left_out: dict[str, str] = {}
        for ref, at in went_out:
            batch = self._read(ref)
            if at < len(batch):
                made[batch.ids[at]] = batch.rows[at]
            else:
                gone = batch.gone_at(at)
                if gone.step in stage.steps and not gone.is_skip:
                    left_out[gone.id] = gone.reason
        here = [error for error in self.errors if error["step"] in stage.steps]
        failures = [error for error in here if is_below(error["row_id"], row_id)]
        was_taken = is_first or self._was_taken(stage, came_in)
        if was_taken and not (made or left_out or failures):
            left_out = dict.fromkeys(incoming, f"left out by {' or '.join(stage.steps)}")
        state: State = "done" if was_taken or made or failures else "waiting"
        if not incoming and not is_first:
            was_lost = any(stage.name in self.plan.downstream(name) for name in self._lost_at)
            state = "elsewhere" if not was_lost and self._is_elsewhere(stage) else "lost"
        elif left_out or failures:
            self._lost_at.append(stage.name)
        return Chapter(
            stage.steps,
            stage.kind,
            state,
            max((self._attempt(stage.name, one).version for one in incoming), default=1),
            incoming,
            made,
            left_out,
            tuple(self._questions(stage, incoming)) if stage.kind == "ask" else (),
            tuple(unpack_failure(error, self.run.path) for error in failures),
        )

    def _attempt(self, step: str, row_id: str) -> Attempt:
        return self._lineage.attempt(step, row_id) if self._lineage.is_kept() else Attempt()

    def _is_elsewhere(self, stage: Stage) -> bool:
        """Whether some step before told that it sent the row, or one that stems from it, another way."""
        for name in stage.inputs:
            for ref, at in self._entries.get(name, ()):
                batch = self._read(ref)
                if not self._goes_to(stage, ref, at) or (at >= len(batch) and batch.gone_at(at).is_skip):
                    return True
        return any(
            self._is_elsewhere(self.plan.stage(name)) for name in stage.inputs if self.plan.stage(name).inputs
        )

    def _was_taken(self, stage: Stage, came_in: Iterable[tuple[BatchRef, int]]) -> bool:
        return self._lineage.is_kept() and any(
            self._lineage.out_that_took(stage.name, ref.id, at) is not None for ref, at in came_in
        )

    def _questions(self, stage: Stage, incoming: Mapping[str, Row]) -> Iterator[Question]:
        """Render the requests of a task again, and look its replies up where the run has kept them."""
        name = stage.name
        for row_id, row in incoming.items():
            attempt = self._attempt(name, row_id)
            task = self.step_of(stage, name, attempt.version)
            if not isinstance(task, Task) or task.llm is None:
                yield Question(row_id)
                continue
            try:
                request = render(task, row)
            except DistilnbError:  # the failure is told where the errors are
                continue
            yield from self._told(task, self._inquire(task, request, row_id, row, attempt.attempt), row_id)

    def _inquire(self, task: Task, request: Request, row_id: str, row: Row, attempt: int) -> Inquiry:
        """Return what the cache holds of a row's replies, with those that were asked for in their place."""
        llm = model_of(task)
        [digest] = request_digests(llm, [request])
        repeat = 0
        if not llm.is_deterministic:
            repeat = number_of(self.run.path / "repeats.sqlite", task.digest, digest, row_id)
        inquiry = inquire(llm, 0, request, digest, repeat, attempt, voices_of(llm, in_run=True))
        most = n_reasks(task, request)
        cache = ReplyCache()
        try:
            choose_attempts(cache, "on", task, row, inquiry, attempt, most, again=False)
            asks = dict(inquiry.asks)
            inquiry.asks.clear()
            reasked = {
                one.key: [reask_key(one.key, n) for n in range(1, most + 1)] for one in inquiry.standing()
            }
            for key, ask in asks.items():  # behind each reply those that were asked for in its place
                inquiry.asks.update(dict.fromkeys([key, *reasked.get(key, ())], ask))
            inquiry.take(cache.find([key for keys in reasked.values() for key in keys]))
        finally:
            cache.close()
        return inquiry

    def _told(self, task: Task, inquiry: Inquiry, row_id: str) -> Iterator[Question]:
        """Yield each request of a row and what was answered, those that its replies are made of before these."""
        standing = {one.key: one for one in inquiry.standing()}
        groups: dict[tuple[int, int], list[Key]] = {}
        for key, ask in inquiry.asks.items():
            if key in inquiry.replies:
                groups.setdefault((id(ask.llm), id(ask.request)), []).append(key)
        final = [place for place, keys in groups.items() if any(key in standing for key in keys)]
        for place in sorted(groups, key=lambda place: place in final):  # which keeps their order else
            keys, attempt = groups[place], max(inquiry.attempts) if place in final else 0
            ask = inquiry.asks[keys[0]]
            why = next((standing[key].why for key in keys if key in standing), "")
            made = [inquiry.replies[key] for key in keys]
            replies = tuple(
                replace(reply, text=reply.text and ask.llm.shown_reply(reply.text)) for reply in made
            )
            yield Question(
                row_id,
                ask.request.messages,
                replies,
                ask.llm.label,
                attempt,
                inquiry.cost_usd(keys),
                why,
                is_inner=place not in final,
            )
        if not groups:
            yield Question(
                row_id, inquiry.request.messages, (), inquiry.llm.label, max(inquiry.attempts), 0.0
            )

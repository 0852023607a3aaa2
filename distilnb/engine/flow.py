"""Which stage gets which rows when: the runner's bookkeeping, without processes, files or clocks.

A stage is fed while its rows in flight are below its window and the stages after it are not behind; a source is
pulled on the same condition. So every queue is bounded, and nothing waits for a whole batch or a whole step.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from distilnb.engine.journal import BatchRef
from distilnb.engine.parts import Round
from distilnb.engine.plan import Plan, Stage

_GATHER_LOAD = 1_000_000
PULLS_AHEAD = 3  # a source has so many pulls to do, or it would wait for the runner after each
QUEUE_WINDOWS = 4  # a stage is not fed while a consumer has this many windows of rows waiting


class Job(NamedTuple):
    """A batch for a stage: `todo` are the entries left to do, None for all.

    `again` says that a worker may have had it before and was killed; `maker` is the worker that made the batch and
    may hold it in memory still, where that is of use.
    """

    stage: Stage
    input_index: int
    batch: BatchRef
    todo: list[int] | None
    again: bool = False
    maker: str = ""

    @property
    def n_entries(self) -> int:
        """How many entries there are to do."""
        return self.batch.n_entries if self.todo is None else len(self.todo)


class Pull(NamedTuple):
    """A source is to make its next rows, after so many; of one that is cut, those of a part."""

    stage: Stage
    offset: int
    part: int = -1


class Gather(NamedTuple):
    """A global stage has all its rows."""

    stage: Stage


class End(NamedTuple):
    """Every input of a join has ended."""

    stage: Stage


@dataclass
class _State:
    """Where one stage stands."""

    stage: Stage
    queue: deque[Job] = field(default_factory=deque)
    in_flight: dict[int, tuple[Job, set[int]]] = field(default_factory=dict)  # batch → its job, entries left
    n_queued: int = 0
    n_flying: int = 0
    n_made: int = 0  # rows that left it
    n_asked: int = 0  # pulls on their way; of a gather or an end there is one
    stale_ends: list[str] = field(default_factory=list)  # workers with an end that a retry has made void
    has_ended: bool = False  # a source has no more rows; a global stage or a join has done its last work
    holders: dict[int, str] = field(default_factory=dict)  # batch in flight → the worker that has it
    puller: str = ""  # the worker that has the pull, gather or end
    window: int = 0  # how many rows may be in flight now, 0: no limit
    parts: Round = field(default_factory=Round)  # of a source that is cut


@dataclass
class Flow:
    """The state of all stages of a plan.

    `assign` names the worker for a stage's next work, None while that must wait; of a batch that is better gone on
    with by its maker, it is told the maker too.
    """

    plan: Plan
    assign: Callable[..., str | None] = lambda stage: stage.worker
    _loads: Counter[str] = field(default_factory=Counter)  # worker → rows it has to do
    _states: dict[str, _State] = field(init=False)
    _consumers: dict[str, list[tuple[_State, int]]] = field(init=False)

    def __post_init__(self) -> None:
        self._states = {stage.name: _State(stage, window=stage.window) for stage in self.plan.stages}
        self._consumers = {name: [] for name in self._states}
        self._n_parts_ahead = PULLS_AHEAD * (self.plan.options.get("row_workers") or 1)
        for state in self._states.values():
            for index, before in enumerate(state.stage.inputs):
                self._consumers[before].append((state, index))

    # --- what came ---

    def arrived(self, batch: BatchRef, skip: dict[str, set[int]] | None = None, *, maker: str = "") -> None:
        """A stage has made a batch; `skip` has the entries that a consumer is through with (after a restart).

        `maker` is the worker that made it, where that should go on with it.
        """
        self._states[batch.stage].n_made += batch.n_rows
        for state, input_index in self._consumers[batch.stage]:
            if state.stage.kind == "global":
                continue  # it reads the files of its inputs when they have ended
            through = (skip or {}).get(state.stage.name, set())
            todo = [index for index in range(batch.n_entries) if index not in through] if through else None
            if todo != []:
                job = Job(state.stage, input_index, batch, todo, again=skip is not None, maker=maker)
                self._enqueue(state, job)

    def acknowledged(self, stage: str, batch: int, indices: Iterable[int]) -> None:
        """A stage is through with some entries of a batch."""
        state = self._states[stage]
        if batch not in state.in_flight:
            return
        _, left = state.in_flight[batch]
        done = left.intersection(indices)
        left -= done
        state.n_flying -= len(done)
        self._loads[state.holders[batch]] -= len(done)
        if not left:
            del state.in_flight[batch]
            del state.holders[batch]

    def pulled(self, stage: str) -> None:
        """A source has answered a pull."""
        state = self._states[stage]
        if state.stage.is_cut:
            state.parts.n_in += 1
            state.parts.n_rows_in = 0
            return
        state.n_asked = max(0, state.n_asked - 1)
        if not state.n_asked:
            state.puller = ""

    def ended(self, stage: str) -> bool:
        """A source has no more rows, or a global stage or a join has done its last work.

        False is returned, and nothing noted, when the stage was opened again meanwhile.
        """
        state = self._states[stage]
        if state.stale_ends:  # the oldest first: a join, or a global step, has one worker
            state.stale_ends.pop(0)
            return False
        state.has_ended = True
        state.n_asked, state.puller = 0, ""
        return True

    def not_ended(self, stage: str) -> None:
        """A join could not do its last work: what it had said by then was not heard yet."""
        state = self._states[stage]
        if state.stale_ends:
            state.stale_ends.pop(0)
        else:
            state.n_asked, state.puller = 0, ""

    def lost_worker(self, worker: str) -> None:
        """A worker died: what it had in flight waits again, in its old order."""
        self._loads[worker] = 0
        for state in self._states.values():
            jobs = []
            for batch in [batch for batch, holder in state.holders.items() if holder == worker]:
                job, left = state.in_flight.pop(batch)
                del state.holders[batch]
                state.n_flying -= len(left)
                jobs.append(Job(job.stage, job.input_index, job.batch, sorted(left), again=True))
            if state.puller == worker:
                state.n_asked, state.puller = 0, ""
            state.parts.lost_worker(worker)
            state.stale_ends = [holder for holder in state.stale_ends if holder != worker]
            for job in reversed(jobs):
                state.queue.appendleft(job)
                state.n_queued += job.n_entries

    # --- what a retry changes ---

    def revived(self, stage: str, batch: BatchRef, indices: Iterable[int], *, is_urgent: bool = True) -> None:
        """A stage is to do entries again that it was through with: before all that waits, when it is urgent."""
        state = self._states[stage]
        job = Job(state.stage, state.stage.inputs.index(batch.stage), batch, sorted(indices))
        self._enqueue(state, job)
        if is_urgent:
            state.queue.rotate(1)

    def reopened(self, stage: str) -> None:
        """A join or a global stage will get more rows: whatever end it was told does not count."""
        state = self._states[stage]
        state.has_ended = False
        if state.n_asked:
            state.stale_ends.append(state.puller)
        state.n_asked, state.puller = 0, ""

    def withdrawn(self, batch: BatchRef, index: int) -> list[tuple[Stage, str]]:
        """Take an entry from all who wait for it or have it; returns the joins that hold it, and their workers."""
        holders = []
        for state, _ in self._consumers[batch.stage]:
            for place, job in enumerate(state.queue):
                todo = range(batch.n_entries) if job.todo is None else job.todo
                if job.batch.id == batch.id and index in todo:
                    state.queue[place] = job._replace(todo=[entry for entry in todo if entry != index])
                    state.n_queued -= 1
            _, left = state.in_flight.get(batch.id, (None, ()))
            if index in left:
                if state.stage.kind == "join":
                    holders.append((state.stage, state.holders[batch.id]))
                self.acknowledged(state.stage.name, batch.id, [index])
        return holders

    def replaced(self, stages: Iterable[str]) -> None:
        """All that these stages have made, had and waited for counts no more."""
        for name in stages:
            state = self._states[name]
            for batch, (_, left) in state.in_flight.items():
                self._loads[state.holders[batch]] -= len(left)
            self._states[name] = _State(state.stage, window=state.window)
        for name in self._consumers:
            self._consumers[name] = [
                (self._states[state.stage.name], index) for state, index in self._consumers[name]
            ]

    def set_window(self, stage: str, window: int) -> None:
        """Let a stage have more rows in flight, or fewer; what is in flight stays."""
        self._states[stage].window = window

    # --- what to do now ---

    def next_work(self) -> Iterator[Job | Pull | Gather | End]:
        """Yield all that can start now; what is yielded counts as started, by the worker that `holder` names."""
        for state in self._states.values():
            yield from self._feed(state)
            while (work := self._last_work(state)) is not None:
                worker = self.assign(state.stage)
                if worker is None:
                    break
                if state.stage.is_cut:
                    state.parts.give(worker)
                else:
                    state.n_asked, state.puller = state.n_asked + 1, worker
                yield work

    def holder(self, work: Job | Pull | Gather | End) -> str:
        """Return the worker that some work was given to."""
        state = self._states[work.stage.name]
        if isinstance(work, Pull) and work.part >= 0:
            return state.parts.given[work.part]
        return state.holders[work.batch.id] if isinstance(work, Job) else state.puller

    def parts(self, stage: str) -> Round:
        """Return who has which parts of a source that is cut."""
        return self._states[stage].parts

    def _feed(self, state: _State) -> Iterator[Job]:
        while state.queue and self._fits(state) and self._has_room_after(state):
            # A worker that has a part of the batch already gets what a retry has opened again, too.
            job = state.queue[0]
            worker = state.holders.get(job.batch.id) or self.assign(state.stage, *filter(None, [job.maker]))
            if worker is None:
                return
            job = state.queue.popleft()
            state.n_queued -= job.n_entries
            left = set(range(job.batch.n_entries)) if job.todo is None else set(job.todo)
            if not left:
                continue
            state.n_flying += len(left)
            self._loads[worker] += len(left)
            if job.batch.id in state.in_flight:  # entries of the batch that a retry has opened again
                left |= state.in_flight[job.batch.id][1]
            state.in_flight[job.batch.id] = (job, left)
            state.holders[job.batch.id] = worker
            yield job

    @staticmethod
    def _fits(state: _State) -> bool:
        """Whether the next batch may start: it fits the window, or half of the window is empty."""
        window = state.window
        return (
            not window or state.n_flying + state.queue[0].n_entries <= window or state.n_flying < window // 2
        )

    def _last_work(self, state: _State) -> Pull | Gather | End | None:
        stage = state.stage
        if stage.is_cut and not state.has_ended:
            is_wanted = state.parts.n_open < self._n_parts_ahead and self._has_room_after(state)
            number = state.parts.next_number
            return Pull(stage, state.parts.skip_of(number), number) if is_wanted else None
        if state.has_ended or state.n_asked >= (PULLS_AHEAD if stage.kind == "source" else 1):
            return None
        if stage.kind == "source":
            return Pull(stage, state.n_made) if self._has_room_after(state) else None
        if stage.kind == "global" and self._inputs_done(state):
            return Gather(stage)
        if stage.kind == "join" and self._inputs_done(state) and not state.queue:
            return End(stage)  # in the worker's inbox behind the last batch
        return None

    def _has_room_after(self, state: _State) -> bool:
        """Whether no consumer is far behind. Joins and global steps are exempt: they wait by nature."""
        for consumer, _ in self._consumers[state.stage.name]:
            window = consumer.window
            if window and consumer.n_queued >= QUEUE_WINDOWS * window:
                return False
        return True

    def _enqueue(self, state: _State, job: Job) -> None:
        state.queue.append(job)
        state.n_queued += job.n_entries

    # --- where it stands ---

    def is_done(self, stage: str) -> bool:
        """Whether nothing more will leave a stage."""
        state = self._states[stage]
        if state.stage.kind in ("source", "spool", "global", "join"):
            return state.has_ended and not state.in_flight
        return self._inputs_done(state) and not state.queue and not state.in_flight

    def _inputs_done(self, state: _State) -> bool:
        return all(self.is_done(before) for before in state.stage.inputs)

    def all_done(self) -> bool:
        """Whether the run is complete."""
        return all(self.is_done(name) for name in self._states)

    def is_quiet(self) -> bool:
        """Whether there is nothing to do, and nothing being done."""
        states = self._states.values()
        return not any(
            state.queue or state.in_flight or state.n_asked or state.parts.given for state in states
        )

    def is_parked(self) -> bool:
        """Whether nothing more can reach the stages that go by offline batch before one of their jobs is done."""
        return all(self._is_parked(state) for state in self._states.values())

    def _is_parked(self, state: _State) -> bool:
        if state.stage.is_offline:
            return not state.queue or not self._fits(state)
        if state.stage.kind == "join":  # which has rows whose partners wait for a job
            return not state.queue
        if state.stage.kind == "spool":
            return state.has_ended
        return not (state.queue or state.in_flight or state.n_asked or state.parts.given)

    def done_stages(self) -> Sequence[str]:
        """Return the stages from which nothing more will come."""
        return [name for name in self._states if self.is_done(name)]

    def busy_stages(self, worker: str) -> list[str]:
        """Return the stages of which a worker has something to do."""
        return [
            name
            for name, state in self._states.items()
            if worker in (state.puller, *state.holders.values(), *state.parts.given.values())
        ]

    def n_made(self, stage: str) -> int:
        """Return how many rows have left a stage."""
        return self._states[stage].n_made

    def begin_parts(self, stage: str, n_in: int, n_rows_in: int) -> None:
        """Go on with a source that is cut, of which so many parts are in, and so many rows of the next."""
        self._states[stage].parts = Round(n_in, n_rows_in)

    def load_of(self, worker: str) -> int:
        """Return how many rows a worker has to do; a gather weighs more than any batch."""
        load = self._loads[worker]
        for state in self._states.values():
            load += _GATHER_LOAD * (state.stage.kind == "global" and state.puller == worker)
            load += state.stage.batch_rows * list(state.parts.given.values()).count(worker)
        return load

    def has_ended(self, stage: str) -> bool:
        """Whether a source has made its last row."""
        return self._states[stage].has_ended

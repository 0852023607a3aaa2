"""The worker for tasks: one event loop that keeps requests in flight across batch borders, up to the limits.

It never imports pyarrow: that would cost a tenth of a second before the first request, and most of its memory.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any

from distilnb.engine.apply import Failure, KeepFailed, Outcome, fail_row
from distilnb.engine.ask import Asker
from distilnb.engine.asked import Asked, FatalModelError
from distilnb.engine.budget import Budget, BudgetReached
from distilnb.engine.building import read_steps
from distilnb.engine.cache import ReplyCache
from distilnb.engine.deaths import poison_of
from distilnb.engine.models import Models
from distilnb.engine.plan import Plan, Stage
from distilnb.engine.poison import failure_of
from distilnb.engine.redoing import Marks, read_marks
from distilnb.engine.rendering import model_of, senders_of
from distilnb.engine.repeats import Repeats
from distilnb.engine.rundir import RunDir
from distilnb.engine.versions import FIRST, plan_secrets, read_version_steps
from distilnb.engine.vitals import BEAT_S, Vitals
from distilnb.engine.wire import (
    LineSplitter,
    Message,
    encode,
    failed_message,
    join_runner,
    leave,
    write_outcome,
)
from distilnb.llms.prices import price_of
from distilnb.rows import Batch, read_batch
from distilnb.tasks.base import Task

FLUSH_ROWS = 256
REFUSALS_EVERY_S = 1.0
FLUSH_AFTER_S = 0.02  # shorter costs more files, longer delays the next stage
FLUSH_LAST_AFTER_S = 0.1  # where there is none

# Thresholds of the garbage collector. A thousand requests in flight are hundreds of thousands of objects, and next to
# none are garbage: by its own thresholds the collector would take an eighth of the time of a request.
COLLECT_AFTER = (50_000, 20, 20)


def main() -> None:
    """Serve one runner until it says exit or dies."""
    path, _, connection, vitals = join_runner()
    gc.set_threshold(*COLLECT_AFTER)
    asyncio.run(_serve(RunDir(path), connection, vitals))
    os._exit(0)  # a user's non-daemon thread must not keep the worker alive


async def _serve(run: RunDir, connection: socket.socket, vitals: Vitals) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)
    worker = AskWorker(run, vitals, lambda message: writer.write(encode(message)))
    _keep_moving(vitals)
    splitter = LineSplitter()
    while data := await reader.read(1 << 16):
        for message in splitter.feed(data):
            if message["do"] == "exit":
                await worker.close()
                writer.close()
                return
            worker.handle(message)
    leave()


def _keep_moving(vitals: Vitals) -> None:
    """Show that the loop turns: what blocks it holds up every request, though the process beats."""
    vitals.moved()
    asyncio.get_running_loop().call_later(BEAT_S, _keep_moving, vitals)


@dataclass
class _Flush:
    """Finished rows of one stage on their way to one file."""

    outcome: Outcome = field(default_factory=Outcome)
    took: dict[int, list[int]] = field(default_factory=dict)
    n_rows: int = 0
    era: int = 0  # of the stage: rows that a global step has replaced must not mix with later ones
    timer: asyncio.TimerHandle | None = None


@dataclass
class AskWorker:
    """Does what messages ask and says what became of it."""

    run: RunDir
    vitals: Vitals
    say: Callable[[Message], None]
    plan: Plan = field(init=False)
    keep: KeepFailed | None = field(init=False)
    steps: dict[str, Task] = field(default_factory=dict)
    asker: Asker | None = None
    _edited: dict[tuple[str, int], Task] = field(default_factory=dict)  # by step and version
    _secrets: dict[str, str] = field(default_factory=dict)
    _flushes: dict[str, _Flush] = field(default_factory=dict)
    _work: set[asyncio.Task[None]] = field(default_factory=set)
    _places: dict[int, tuple[int, int]] = field(
        default_factory=dict
    )  # batch at work → (stage number, batch id)
    _told_flying: dict[str, int] | None = None
    _told_jobs: list[dict[str, Any]] | None = None
    _n_at_work: Counter[str] = field(default_factory=Counter)  # batches, by stage
    _last: set[str] = field(default_factory=set)  # stages that no other waits for

    def __post_init__(self) -> None:
        self.plan = self.run.plan()
        self.keep = KeepFailed.of(self.plan.options)
        self._last = {stage.name for stage in self.plan.stages if not self.plan.consumers(stage.name)}

    def handle(self, message: Message) -> None:
        """Begin one thing; what it brings is said later."""
        kind = message["do"]
        if kind == "batch":
            self._start(self._ask(self.plan.stage(message["stage"]), message))
        elif kind == "secrets":
            self._start(self._load(message))
        elif kind in ("pause", "resume", "adjust"):
            self._start(self._control(message))
        elif kind == "given":
            self._start(self._note_given(message))
        elif kind == "drain":
            self._start(self._drain())

    async def close(self) -> None:
        """Write what is finished and close the connections."""
        for work in list(self._work):
            work.cancel()
        for name in list(self._flushes):
            self._flush(name)
        for step in (*self.steps.values(), *self._edited.values()):
            step.unload()
        if self.asker:
            if self.asker.jobs is not None:
                await self.asker.jobs.close()
            await self.asker.models.close()

    def _start(self, work: object) -> None:
        task = asyncio.ensure_future(self._guarded(work))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _guarded(self, work: object) -> None:
        """Await work; what it raises as a whole is told to the runner."""
        try:
            await work  # type: ignore[misc]  # every caller passes a coroutine
        except FatalModelError as error:
            self.say(failed_message(error.step, error.error))
        except BudgetReached as reached:
            self.say({"say": "budget", "reason": str(reached), "reached": reached.limits})
        except Exception as error:  # noqa: BLE001 - the worker's loop: the runner decides what follows
            self.say(failed_message("", error, traceback.format_exc()))

    async def _load(self, message: Message) -> None:
        names = [step for stage in self.plan.stages if stage.worker == "ask" for step in stage.steps]
        self._secrets = message["values"]
        steps = read_steps(self.run.path, names, plan_secrets(self._secrets))
        self.steps = {name: step for name, step in steps.items() if isinstance(step, Task)}
        options = self.plan.options
        self.asker = Asker(
            ReplyCache(run_id=self.run.run_id),
            Models(),
            Budget(None, None, message["spent_cost"], message["spent_tokens"]),
            Repeats(self.run.path / "repeats.sqlite"),
            options.get("cache", "on"),
            at=self._at,
        )
        for name, step in self.steps.items():
            self._open_jobs(step)
            _read_prices(step)
            try:
                step.load()
            except Exception as error:  # noqa: BLE001 - a user's `load` may raise anything; the run ends with it
                self.say(failed_message(name, error, traceback.format_exc()))
                return
        self._adjust(self.asker, message["limits"])
        self._tell_refusals()
        gc.freeze()  # modules and steps stay: no collection need look at them
        self.say({"say": "ready"})

    async def _control(self, message: Message) -> None:
        """Pause, go on, or take new limits: behind `_load`, which every worker begins with."""
        if self.asker is None:
            return
        if message["do"] == "pause":
            self.asker.pause()
        elif message["do"] == "resume":
            self.asker.resume()
        else:
            self._adjust(self.asker, message["limits"])

    def _open_jobs(self, step: Task) -> None:
        if self.asker is not None and model_of(step).goes_by_batch:
            self.asker.open_jobs(self.run.run_id, self._tell_jobs)

    async def _note_given(self, message: Message) -> None:
        """Note whether all that can come before an offline job is handed over is here: behind `_load`, as above."""
        if self.asker is not None and self.asker.jobs is not None:
            self.asker.jobs.all_given(message["is_so"])

    def _tell_jobs(self) -> None:
        """Tell how the offline jobs stand, where that has changed."""
        if self.asker is None or self.asker.jobs is None:
            return
        jobs = [asdict(view) for view in self.asker.jobs.views()]
        if jobs != self._told_jobs:
            self._told_jobs = jobs
            self.say({"say": "jobs", "jobs": jobs, "news": self.asker.jobs.take_news()})

    def _adjust(self, asker: Asker, limits: Mapping[str, Any]) -> None:
        asker.budget.adjust(limits["max_cost"], limits["max_tokens"])
        models = {place: llm for step in self.steps.values() for place, llm in senders_of(step).items()}
        for place, of_model in limits["models"].items():
            if place in models:
                asker.models.adjust(models[place], of_model)

    def _tell_refusals(self) -> None:
        """Tell once a second which models refused requests, how far that lowered their concurrency, which load.

        And how many requests of each step are on their way.
        """
        if self.asker is not None:
            for refusals in self.asker.models.take_refusals():
                self.say({"say": "limited", **refusals._asdict()})
            for waiting in self.asker.models.take_waiting():
                self.say({"say": "waiting", **waiting._asdict()})
            if (flying := self.asker.in_flight()) != self._told_flying:
                self._told_flying = flying
                self.say({"say": "flying", "steps": flying})
            self._tell_jobs()
        asyncio.get_running_loop().call_later(REFUSALS_EVERY_S, self._tell_refusals)

    def _tell_backups(self) -> None:
        """Tell which models failed for good and had others asked in their place."""
        for backup in self.asker.models.take_backups() if self.asker else ():
            self.say({"say": "backed_up", **backup._asdict()})

    async def _ask(self, stage: Stage, message: Message) -> None:
        batch = read_batch(self.run.path / message["path"])
        entries = message["todo"]
        if entries is None:
            entries = list(range(len(batch) + len(batch.gone)))
        n_rows = len(batch)
        taken = [index for index in entries if index < n_rows and batch.goes_to(stage.name, index)]
        for index in sorted(set(entries).difference(taken)):
            self._pass_gone(stage, batch, index, message)
        poison = poison_of(message)
        for index in poison.keys() & set(entries):
            failure = failure_of(batch.ids[index], stage.name, poison[index])
            self._finish(stage, self.steps[stage.name], batch, index, Asked(failure=failure), message)
        rows = [index for index in taken if index not in poison]
        marks = Marks()
        if message.get("retried"):
            marks = read_marks(self.run, stage, message["batch"], [batch.ids[index] for index in rows])
        groups = marks.by_version(stage.name, batch, rows)
        asking = [
            self._ask_version(stage, version, batch, indices, marks, message)
            for version, indices in groups.items()
        ]
        self._places[id(batch)] = (self.plan.stages.index(stage), message["batch"])
        self._n_at_work[stage.name] += 1
        try:
            await asyncio.gather(*asking)
        finally:
            del self._places[id(batch)]
            self._n_at_work[stage.name] -= 1
            if not self._n_at_work[stage.name]:  # nothing will come that the finished rows could wait for
                asyncio.get_running_loop().call_soon(self._flush, stage.name)

    async def _ask_version(
        self, stage: Stage, version: int, batch: Batch, rows: list[int], marks: Marks, message: Message
    ) -> None:
        """Ask for the rows that one version of the step is to do."""
        task = self._task(stage.name, version)
        assert self.asker is not None  # the runner sends no batch before `ready`

        def done(index: int, asked: Asked) -> None:
            self._finish(stage, task, batch, index, asked, message)

        attempts = (
            {index: marks.of(stage.name, batch.ids[index]).attempt for index in rows}
            if marks.attempts
            else {}
        )
        await self.asker.ask_rows(task, batch, rows, done, again=message["again"], attempts=attempts)

    def _task(self, name: str, version: int) -> Task:
        if version == FIRST:
            return self.steps[name]
        if (name, version) not in self._edited:
            step = read_version_steps(self.run, version, [name], self._secrets)[name]
            if not isinstance(step, Task):
                raise TypeError(f"version {version} of {name} is no task")
            self._open_jobs(step)
            _read_prices(step)
            step.load()
            self._edited[name, version] = step
        return self._edited[name, version]

    def _at(self, batch: Batch, index: int, *, finishes: bool) -> AbstractContextManager[None]:
        """Say whose row is rendered or parsed, for the case that it kills this process."""
        return self.vitals.at(*self._places[id(batch)], index, finishes=finishes)

    # --- finished rows ---

    def _finish(
        self, stage: Stage, task: Task, batch: Batch, index: int, asked: Asked, message: Message
    ) -> None:
        flush = self._flush_of(stage, index, message)
        add_asked(flush.outcome, task, batch, index, asked, self.keep)
        flush.n_rows += 1
        if not stage.tells_gone:
            flush.outcome.batch.gone.clear()
        if flush.n_rows >= self._flush_rows(stage):
            self._flush(stage.name)

    def _pass_gone(self, stage: Stage, batch: Batch, index: int, message: Message) -> None:
        flush = self._flush_of(stage, index, message)
        if stage.tells_gone:
            flush.outcome.batch.gone.append(batch.gone_at(index))

    def _flush_of(self, stage: Stage, index: int, message: Message) -> _Flush:
        era = message.get("era", 0)
        flush = self._flushes.get(stage.name)
        if flush is not None and flush.era != era:
            self._flush(stage.name)
            flush = None
        if flush is None:
            flush = self._flushes[stage.name] = _Flush(era=era)
            after_s = FLUSH_LAST_AFTER_S if stage.name in self._last else FLUSH_AFTER_S
            flush.timer = asyncio.get_running_loop().call_later(after_s, self._flush, stage.name)
        flush.took.setdefault(message["batch"], []).append(index)
        return flush

    def _flush_rows(self, stage: Stage) -> int:
        """Return how many finished rows wait at most: those that wait long may not fill the window of the stage."""
        return min(FLUSH_ROWS, stage.window // 4 or FLUSH_ROWS) if stage.name in self._last else FLUSH_ROWS

    def _flush(self, stage: str) -> None:
        flush = self._flushes.pop(stage, None)
        if flush is None:
            return
        if flush.timer:
            flush.timer.cancel()
        self._tell_backups()
        try:
            self.say({**write_outcome(self.run, stage, flush.outcome, flush.took), "era": flush.era})
        except Exception as error:  # noqa: BLE001 - a full disk; the replies are in the cache, the run resumes
            self.say(failed_message(stage, error, traceback.format_exc()))

    async def _drain(self) -> None:
        """Start nothing more, let what is in flight end, write it, and say so."""
        if self.asker:
            self.asker.stop()
        others = self._work - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)
        for name in list(self._flushes):
            self._flush(name)
        self.say({"say": "drained"})


def _read_prices(task: Task) -> None:
    """Read the price list, which would stall the loop at the first reply."""
    for llm in model_of(task).senders():
        price_of(llm)


def add_asked(
    outcome: Outcome, task: Task, batch: Batch, index: int, asked: Asked, keep: KeepFailed | None = None
) -> None:
    """Add what became of one row at a task to the outcome of its stage."""
    name, row_id, order = task.name, batch.ids[index], batch.orders[index]
    expands = task.expands()
    for number, row in enumerate(asked.rows):
        if expands:
            outcome.batch.add(row, f"{row_id}.{number}", [*order, number])
        else:
            outcome.batch.add(row, row_id, order)
    has_ended_well = asked.failure is None
    if asked.failure:
        fail_row(task, batch.rows[index], asked.failure, order, outcome, keep)
    elif asked.partial:
        reason = "; ".join(asked.partial)
        outcome.failures.append(Failure(row_id, name, "Partial", reason, is_partial=True, order=order))
    outcome.count(
        name,
        done=int(has_ended_well),
        made=len(asked.rows),
        asked=asked.n_asked,
        cached=asked.n_cached,
        truncated=sum([reply.is_truncated for reply in asked.replies]),
        input_tokens=asked.input_tokens,
        output_tokens=asked.output_tokens,
        cost_usd=asked.cost_usd or 0.0,
    )
    is_plain = not (
        asked.n_retries or asked.n_reasked or asked.n_stood_in or asked.n_guessed or asked.partial
    )
    if not is_plain or asked.cost_usd is None:
        outcome.count(  # of few rows
            name,
            retries=asked.n_retries,
            reasked=asked.n_reasked,
            stood_in=asked.n_stood_in,
            partial=int(has_ended_well and bool(asked.partial)),
            unpriced=int(asked.cost_usd is None),
            guessed=asked.n_guessed,
        )


if __name__ == "__main__":
    main()

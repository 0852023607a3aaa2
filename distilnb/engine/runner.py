"""The runner: a detached process, one per run, that starts the workers, feeds them and keeps the journal.

One selectors loop, no threads, and none of pydantic, asyncio or pyarrow: it lives as long as the run and stays small.
What a worker reports is committed to the journal, once per turn of the loop, before anything is passed downstream.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
import time
import traceback
from pathlib import Path

from distilnb.engine.crew import Crew, Death
from distilnb.engine.deaths import Deaths
from distilnb.engine.ending import take_space, tell_end
from distilnb.engine.flow import End, Flow, Gather, Job, Pull
from distilnb.engine.journal import Journal, from_ranges
from distilnb.engine.plan import Stage
from distilnb.engine.retrying import Changes, Retrying
from distilnb.engine.roster import Roster
from distilnb.engine.rundir import RunDir
from distilnb.engine.vitals import LastWords
from distilnb.engine.watch import BLOCKED_LIMIT_S, ROW_LIMIT_S, Finding, Watch
from distilnb.engine.wire import Message, decode
from distilnb.engine.workers import Worker
from distilnb.errors import DistilnbError, StoreError

IDLE_LIMIT_S = 3600.0  # without anything to do: the runner writes the state and leaves; `resume` goes on
CHECK_JOURNAL_EVERY_S = 1.0


def main() -> None:
    """Run or resume the run whose directory is the first argument; secrets come as one line on stdin."""
    run = RunDir(Path(sys.argv[1]))
    line = sys.stdin.buffer.readline()
    secrets: dict[str, str] = decode(line)["secrets"] if line.strip() else {}
    try:
        lock = run.lock()
    except DistilnbError as error:
        sys.exit(str(error))
    try:
        try:
            take_space(run)
            runner = Runner(run, secrets)
        except (DistilnbError, sqlite3.Error, OSError) as error:
            tell_end(run, "failed", "runner", str(error))
            raise
        runner.run()
    finally:
        os.close(lock)


class Runner:
    """One run from its first row, or from where the journal says, to its end."""

    def __init__(self, run_dir: RunDir, secrets: dict[str, str]) -> None:
        self.run_dir = run_dir
        self.plan = run_dir.plan()
        self.secrets = secrets
        self.journal = Journal(run_dir.journal)
        self.reader = self.journal.reader()
        self.flow = Flow(self.plan, self._assign)
        self.retrying = Retrying(run_dir, self.plan, self.journal)
        self.roster = Roster(self.plan)
        options = self.plan.options
        watch = Watch(
            blocked_limit_s=options.get("blocked_limit_s", BLOCKED_LIMIT_S),
            row_limit_s=options.get("row_limit_s", ROW_LIMIT_S),
        )
        self.crew = Crew(run_dir, self.roster.names, watch)
        self.deaths = Deaths()
        self.notes: dict[str, str] = {}  # worker → what ails it, for `status`
        self.idle_limit_s: float = options.get("idle_limit_s", IDLE_LIMIT_S)
        self.busy_at = time.monotonic()  # when there last was something to do
        self._journal_checked_at = 0.0
        self.end: tuple[str, str, str] | None = None  # state, reason, error: set when the run is to end
        self.is_stopping = False
        self.stop_reason = ""
        self.failed_step = ""
        self._is_stop_told = False
        self._is_abort = False
        self._told_done: set[str] = set()

    def run(self) -> None:
        """Work until the run is complete, stopped or failed; always leaves a state in the journal."""
        signal.signal(signal.SIGTERM, lambda *_: self._begin_stop("signal"))
        try:
            self._restore()
            for name in self.crew.names:
                self._start_worker(name)
            while self.end is None:
                self._turn()
        except BaseException as error:  # noqa: BLE001 - whatever happened must be told before the process ends
            with contextlib.suppress(OSError):  # the log may be on the full disk too
                traceback.print_exc()
            self.end = ("failed", "runner", f"{type(error).__name__}: {error}")
        self._finish(*self.end)

    # --- a turn ---

    def _turn(self) -> None:
        messages = self.crew.receive()
        for command in self.run_dir.take_commands():
            self._obey(command)
        if messages:
            with self.journal.turn():
                for worker, message in messages:
                    self._hear(worker, message)
        for finding in self.crew.look():
            self._note_finding(finding)
        for death in self.crew.bury_dead():
            self._mourn(death)
        for name in self.crew.due():
            self._start_worker(name)
        if self.end is None:
            self._give_work()
        self.crew.send()
        self._look_around()

    def _give_work(self) -> None:
        if self.is_stopping:
            self._note_stopping()
            if self.crew.is_drained:
                self.end = ("stopped", self.stop_reason, "")
            return
        for work in self.flow.next_work():
            if isinstance(work, Gather) and self.retrying.is_unchanged(work.stage):
                with self.journal.turn():
                    self._note_end(work.stage.name)
                continue
            worker = self.crew.workers[self.flow.holder(work)]
            worker.tell(self._message(work, worker))
        self._note_done_stages()
        if self.flow.all_done():
            self.end = ("finished", "", "")

    def _note_stopping(self) -> None:
        if not self._is_stop_told:
            self._is_stop_told = True
            with self.journal.turn():
                self.journal.set_fact("state", "stopping")
                self.journal.set_fact("reason", self.stop_reason)

    def _assign(self, stage: Stage) -> str | None:
        """Return the worker for a stage's next work; None while it is dead, and its work must stay queued."""
        return self.roster.pick(stage, self.crew.workers, self.flow.load_of, self.flow.has_ended)

    def _look_around(self) -> None:
        """Notice that there is nothing to do for long, or that the journal is not there any more."""
        now = time.monotonic()
        if any(self.flow.busy_stages(name) for name in self.crew.names) or not self.crew.is_idle:
            self.busy_at = now
        elif now - self.busy_at > self.idle_limit_s and self.end is None:
            self.end = ("stopped", "idle", "")
        if now - self._journal_checked_at > CHECK_JOURNAL_EVERY_S:
            self._journal_checked_at = now
            if not self.journal.is_there():  # SQLite would write on into the deleted file
                raise StoreError(f"The journal {str(self.run_dir.journal)!r} was deleted.")

    def _message(self, work: Job | Pull | Gather | End, worker: Worker) -> Message:
        if isinstance(work, Job):
            return {
                "do": "batch",
                "stage": work.stage.name,
                "batch": work.batch.id,
                "path": work.batch.path,
                "input": work.input_index,
                "todo": work.todo,
                "again": work.again and not self.retrying.was_replaced(work.stage),
                **self.retrying.marks(work.stage),
                **self.deaths.orders(self.plan.stages.index(work.stage), work.batch.id),
            }
        if isinstance(work, Pull):
            seen: list[tuple[str, int]] = []
            if work.offset and work.stage.name not in worker.pulled:
                seen = [(batch.path, batch.n_rows) for batch in self.reader.batches(work.stage.name)]
            worker.pulled.add(work.stage.name)
            limit = self.plan.options.get("rows")
            return {
                "do": "pull",
                "stage": work.stage.name,
                "offset": work.offset,
                "limit": limit,
                "seen": seen,
            }
        if isinstance(work, Gather):
            inputs = [[batch.path for batch in self.reader.batches(name)] for name in work.stage.inputs]
            marks = {**self.retrying.marks(work.stage), **self.retrying.gather_marks(work.stage)}
            return {"do": "global", "stage": work.stage.name, "inputs": inputs, **marks}
        return {"do": "end", "stage": work.stage.name, **self.retrying.marks(work.stage)}

    def _note_done_stages(self) -> None:
        new = [name for name in self.flow.done_stages() if name not in self._told_done]
        if new:
            with self.journal.turn():
                for name in new:
                    for step in self.plan.stage(name).steps:
                        self.journal.add_event("step_finished", step)
                self.journal.set_fact("done", sorted({*self._told_done, *new}))
            self._told_done.update(new)

    # --- what workers say ---

    def _hear(self, worker: Worker, message: Message) -> None:
        kind = message["say"]
        if kind == "out":
            self._take(message)
            self.crew.bore_fruit(worker.name)
            self._well(worker.name)
        elif kind == "source_end":
            self._note_end(message["stage"])
        elif kind == "failed":
            self._fail(message)
        elif kind == "budget":
            self._begin_stop("budget", message["reason"])
        elif kind == "drained":
            worker.is_drained = True
        elif kind == "ready":
            worker.is_ready = True
            self._well(worker.name)

    def _take(self, message: Message) -> None:
        """Journal a stage's finished rows and what they were made of, then let them flow on."""
        if self.retrying.is_stale(message):
            self.retrying.count_money(message)
            return
        stage = self.plan.stage(message["stage"])
        out = self.journal.begin_out()
        if stage.kind == "global":
            self._told_done -= self.retrying.make_way(stage, self.flow)
        made = [
            self.journal.add_batch(stage.name, file["path"], file["n_rows"], file["n_gone"])
            for file in message["files"]
        ]
        for batch_id, indices in message["took"]:
            self.journal.acknowledge(batch_id, stage.name, indices)
            self.flow.acknowledged(stage.name, batch_id, indices)
        for step, figures in message["counts"].items():
            self.journal.count(step, figures)
        if message["errors"]:
            self.journal.add_errors(message["errors"])
        self.retrying.heard(stage, out, message)
        for batch in made:
            self.flow.arrived(batch)
        self._change_flow(self.retrying.take_changes())
        if stage.kind == "source":
            self.flow.pulled(stage.name)
        if message.get("is_last"):
            self._note_end(stage.name)

    def _note_end(self, stage: str) -> None:
        """A source has no more rows, or a join or a global step has done its last work."""
        if self.flow.ended(stage):
            self.journal.set_fact(f"ended:{stage}", True)
            self.journal.add_event("stage_ended", stage)

    # --- retries ---

    def _retry(self) -> None:
        """Open the rows again that waiting orders name."""
        with self.journal.turn():
            self._change_flow(self.retrying.take_orders())

    def _change_flow(self, changes: Changes) -> None:
        self._told_done -= changes.touched
        for name, message in self.retrying.tell(self.flow, self.deaths, changes):
            if name in self.crew.workers:
                self.crew.workers[name].tell(message)

    def _fail(self, message: Message) -> None:
        where = f"Step {message['step']!r} failed: " if message["step"] else ""
        sys.stderr.write(message["trace"] + "\n")
        self.failed_step = message["step"]
        self.end = ("failed", message["kind"], f"{where}{message['kind']}: {message['what']}")

    # --- workers ---

    def _start_worker(self, name: str) -> None:
        counts = self.reader.counts()
        first: Message = {
            "do": "secrets",
            "values": self.secrets,
            "spent_cost": sum(figures.get("cost_usd", 0.0) for figures in counts.values()),
            "spent_tokens": int(
                sum(f.get("input_tokens", 0) + f.get("output_tokens", 0) for f in counts.values())
            ),
        }
        worker = self.crew.start(name, first)
        with self.journal.turn():
            self.journal.add_event("worker_started", role=worker.role, name=name, pid=worker.pid)

    def _note_finding(self, finding: Finding) -> None:
        """Tell that a worker is stuck, busy, or well again; the stuck are killed already, and die like others."""
        worker = self.crew.workers[finding.worker]
        at = self._step_at(worker.vitals.words(), worker.name)
        with self.journal.turn():
            if finding.kind == "awake":
                self.journal.add_event("worker_awake", name=finding.worker)
                self._well(finding.worker)
                return
            kind = "worker_busy" if finding.kind == "busy" else "worker_stuck"
            self.journal.add_event(kind, at, name=finding.worker, pid=worker.pid, why=finding.why)
            where = f" with {at!r}" if at else ""
            told = "busy" if finding.kind == "busy" else "stuck"
            end = "" if told == "busy" else "; it is started again"
            self._note(finding.worker, f"worker {finding.worker} is {told}{where}: {finding.why}{end}")

    def _note(self, name: str, text: str) -> None:
        self.notes[name] = text
        self.journal.set_fact("notes", list(self.notes.values()))

    def _well(self, name: str) -> None:
        if self.notes.pop(name, ""):
            self.journal.set_fact("notes", list(self.notes.values()))

    def _step_at(self, words: LastWords | None, name: str) -> str:
        """Return the step that a worker is at, or the only stage it has something to do for, else ""."""
        if words is not None:
            return self.plan.stages[words.stage].steps[words.step]
        busy = self.flow.busy_stages(name)
        return busy[0] if len(busy) == 1 else ""

    def _mourn(self, death: Death) -> None:
        """A worker died: give its rows again to a new one, or end the run when it dies every time."""
        if self.end is not None:
            return
        name, words = death.worker.name, death.words
        with self.journal.turn():
            data = {"role": death.worker.role, "name": name, "exit": death.exit, "how": death.text}
            self.journal.add_event("worker_died", self._step_at(words, name), **data)
        if words is not None:
            self.deaths.note(words, death.text, is_own_doing=death.is_own_doing)
        if death.is_last:
            self.end = ("failed", "worker", self._last_death_text(death))
            self.failed_step = self._step_at(words, name)
            return
        self.flow.lost_worker(name)
        if self.is_stopping:
            self.crew.start_none()

    def _last_death_text(self, death: Death) -> str:
        name, role = death.worker.name, death.worker.role
        if death.words is None:
            what = f"without finishing a row{self._busy_with(name)}"
        else:
            what = (
                f"at one row after the other of step {self._step_at(death.words, name)!r}, and finished none"
            )
        tail = self.run_dir.log_tail(name)
        return f"The {role} worker died {death.n_in_a_row} times ({death.text}) {what}.\n{tail}".rstrip()

    def _busy_with(self, name: str) -> str:
        busy = self.flow.busy_stages(name)
        return f" of {', '.join(map(repr, busy))}" if busy else ""

    # --- commands ---

    def _obey(self, command: str) -> None:
        with self.journal.turn():
            self.journal.add_event("command", name=command)
        if command == "stop":
            self._begin_stop("user")
        elif command == "retry":
            self._retry()
        elif command == "abort":
            self._is_abort = True
            self.end = ("stopped", "user", "")

    def _begin_stop(self, reason: str, detail: str = "") -> None:
        if self.is_stopping:
            return
        self.is_stopping = True
        self.stop_reason = f"{reason}: {detail}" if detail else reason
        self.crew.tell_all({"do": "drain"})
        self.crew.start_none()

    # --- begin and end ---

    def _restore(self) -> None:
        """Take the state of the run from the journal; on the first start that is the spooled rows alone."""
        facts = self.reader.facts()
        is_new = "state" not in facts
        with self.journal.turn():
            if is_new:
                self._add_spooled()
            self.journal.set_fact("state", "running")
            self.journal.set_fact("reason", "")
            self.journal.set_fact("error", "")
            self.journal.set_fact("notes", [])
            if is_new:
                self.journal.set_fact("started_at", time.time())
            self.journal.add_event("started" if is_new else "resumed", pid=os.getpid())
            self.retrying.take_orders()
        facts = self.reader.facts()
        acknowledged = self.reader.acknowledged()
        for batch in self.reader.batches():
            skip = (
                None
                if is_new
                else {
                    stage.name: self.retrying.through(
                        batch.id,
                        stage.name,
                        from_ranges(acknowledged.get((batch.id, stage.name), ())),
                    )
                    for stage in self.plan.consumers(batch.stage)
                }
            )
            self.flow.arrived(batch, skip)
        for stage in self.plan.stages:
            if stage.kind == "spool" or facts.get(f"ended:{stage.name}"):
                self.flow.ended(stage.name)

    def _add_spooled(self) -> None:
        for stage in self.plan.stages:
            if stage.kind == "spool":
                for file in self.plan.options["spooled"][stage.name]:
                    self.journal.add_batch(stage.name, file["path"], file["n_rows"], 0)
                    self.journal.count(stage.name, {"done": file["n_rows"], "made": file["n_rows"]})

    def _finish(self, state: str, reason: str, error: str) -> None:
        """Write the end of the run, where it can be written, then let the workers go."""
        try:
            with self.journal.turn():
                self.journal.set_fact("state", state)
                self.journal.set_fact("reason", reason)
                self.journal.set_fact("error", error)
                self.journal.set_fact("failed_step", self.failed_step)
                self.journal.set_fact("notes", [])
                self.journal.set_fact("ended_at", time.time())
                self.journal.add_event("ended", state=state, reason=reason)
            if not self.journal.is_there():
                raise StoreError("The journal was deleted.")
        except (DistilnbError, sqlite3.Error, OSError) as refused:
            # Nothing that the journal does not hold is finished: the run has failed, whatever it was about to say.
            tell_end(self.run_dir, "failed", "runner", error or str(refused))
        finally:
            self.crew.end(gently=state in ("finished", "stopped") and not self._is_abort)
            with contextlib.suppress(sqlite3.Error):
                self.journal.close()


if __name__ == "__main__":
    main()

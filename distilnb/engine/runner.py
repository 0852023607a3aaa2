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
from typing import Any

from distilnb.engine import events, traffic
from distilnb.engine.admission import Admissions
from distilnb.engine.control import Control, Ending
from distilnb.engine.crew import Crew, Death
from distilnb.engine.deaths import Deaths, last_death_text
from distilnb.engine.ending import deleted_journal, take_space, tell_end
from distilnb.engine.flow import Flow, Gather
from distilnb.engine.intake import Intake
from distilnb.engine.journal import Journal
from distilnb.engine.limits import PER_MODEL
from distilnb.engine.orders import first_order, order_for
from distilnb.engine.parking import Parking
from distilnb.engine.plan import Stage
from distilnb.engine.ranges import listed
from distilnb.engine.restoring import begin_again, refill
from distilnb.engine.retrying import Changes, Retrying
from distilnb.engine.roster import Roster
from distilnb.engine.rundir import Command, RunDir
from distilnb.engine.spawning import Spawned
from distilnb.engine.vitals import LastWords
from distilnb.engine.watch import BLOCKED_LIMIT_S, ROW_LIMIT_S, Finding, Watch
from distilnb.engine.wire import Message, decode
from distilnb.engine.workers import Worker
from distilnb.errors import DistilnbError

IDLE_LIMIT_S = 3600.0  # without anything to do: the runner writes the state and leaves; `resume` goes on
CHECK_JOURNAL_EVERY_S = 1.0


def main(ahead: dict[str, Spawned] | None = None) -> None:
    """Run or resume the run whose directory is the first argument; secrets come as one line on stdin.

    `ahead` are workers that were started already.
    """
    run = RunDir(Path(sys.argv[1]))
    line = sys.stdin.buffer.readline()
    secrets: dict[str, str] = decode(line)["secrets"] if line.strip() else {}
    try:
        lock = run.lock()
    except DistilnbError as error:
        sys.exit(str(error))
    run.sign_lock(lock)
    try:
        try:
            take_space(run)
            runner = Runner(run, secrets, ahead)
        except (DistilnbError, sqlite3.Error, OSError) as error:
            tell_end(run, "failed", "runner", str(error))
            raise
        runner.run()
    finally:
        os.close(lock)


class Runner:
    """One run from its first row, or from where the journal says, to its end."""

    def __init__(
        self, run_dir: RunDir, secrets: dict[str, str], ahead: dict[str, Spawned] | None = None
    ) -> None:
        self.run_dir = run_dir
        self.plan = run_dir.plan()
        self.secrets = secrets
        self.journal = Journal(run_dir.journal)
        self.reader = self.journal.reader()
        self.flow = Flow(self.plan, self._assign)
        self.retrying = Retrying(run_dir, self.plan, self.journal)
        self.roster = Roster(self.plan)
        self.parking = Parking(self.plan)
        self.intake = Intake(run_dir, self.plan)
        self.admissions = Admissions(run_dir, self.journal, self.flow)
        options = self.plan.options
        watch = Watch(
            blocked_limit_s=options.get("blocked_limit_s", BLOCKED_LIMIT_S),
            row_limit_s=options.get("row_limit_s", ROW_LIMIT_S),
        )
        self.crew = Crew(run_dir, self.roster.names, watch, ahead=ahead or {})
        self.deaths = Deaths()
        self.notes: dict[str, str] = {}  # worker → what ails it, for `status`
        self.idle_limit_s: float = options.get("idle_limit_s", IDLE_LIMIT_S)
        self.busy_at = time.monotonic()  # when there last was something to do
        self._journal_checked_at = 0.0
        self.end: tuple[str, str, str] | None = None  # state, reason, error: set when the run is to end
        self.control = Control()
        self.failed_step = ""
        self._is_stop_told = False
        self._is_abort = False
        self._told_done: set[str] = set()

    def run(self) -> None:
        """Work until the run is complete, stopped or failed; always leaves a state in the journal."""
        signal.signal(signal.SIGTERM, lambda *_: self._begin_stop(Ending("stopped", "signal")))
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
        for command in self.run_dir.commands():
            self._obey(command)
            self.run_dir.remove_command(command)  # after it is in the journal: a kill in between loses none
        self._keep_time()
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
        if self.control.ending:
            self._note_stopping(self.control.ending)
            if self.crew.is_drained:
                self.end = self.control.ending[:3]
            return
        if self.control.is_paused:
            return
        self.intake.feed(self.journal, self.flow)
        for work in self.flow.next_work():
            if isinstance(work, Gather) and self.retrying.is_unchanged(work.stage):
                with self.journal.turn():
                    self._note_end(work.stage.name)
                continue
            worker = self.crew.workers[self.flow.holder(work)]
            worker.tell(order_for(work, worker, self.plan, self.reader, self.deaths, self.retrying))
        self.parking.tell(self.flow, self.crew)
        self._note_done_stages()
        self.end = ("finished", "", "") if self.flow.all_done() else self.intake.ending(self.flow)

    def _note_stopping(self, ending: Ending) -> None:
        if not self._is_stop_told:
            self._is_stop_told = True
            self.failed_step = ending.step
            with self.journal.turn():
                self.journal.set_fact("state", "stopping")
                self.journal.set_fact("reason", ending.reason)
                self.journal.set_fact("reached", ending.reached)
                self.journal.add_event(events.Stopping(reason=ending.reason))

    def _assign(self, stage: Stage, maker: str = "") -> str | None:
        """Return the worker for a stage's next work; None while it is dead, and its work must stay queued."""
        return self.roster.pick(stage, self.crew.workers, self.flow.load_of, self.flow.has_ended, maker)

    def _look_around(self) -> None:
        """Notice that there is nothing to do for long, or that the journal is not there any more."""
        now = time.monotonic()
        is_at_work = any(self.flow.busy_stages(name) for name in self.crew.names) or not self.crew.is_idle
        if is_at_work or self.control.is_paused:
            self.busy_at = now
        elif now - self.busy_at > self.idle_limit_s and self.end is None:
            self.end = ("stopped", "idle", "")
        if now - self._journal_checked_at > CHECK_JOURNAL_EVERY_S:
            self._journal_checked_at = now
            if not self.journal.is_there():  # SQLite would write on into the deleted file
                raise deleted_journal(self.run_dir)

    def _note_done_stages(self) -> None:
        new = [name for name in self.flow.done_stages() if name not in self._told_done]
        if new:
            with self.journal.turn():
                for name in new:
                    for step in self.plan.stage(name).steps:
                        self.journal.add_event(events.StepFinished(step=step))
                self.journal.set_fact("done", sorted({*self._told_done, *new}))
            self._told_done.update(new)

    # --- what workers say ---

    def _hear(self, worker: Worker, message: Message) -> None:
        kind = message["say"]
        if kind == "out":
            self._take(message)
            self.crew.bore_fruit(worker.name)
            self._well(worker.name)
        elif kind == "part":
            for admitted in self.admissions.take(worker, message):
                self._hear(worker, admitted)
        elif kind == "source_end" and self.end is None:  # one that has failed has nothing more, and no end
            self._note_end(message["stage"])
        elif kind == "not_ended" and not self.retrying.is_stale(message):
            self.flow.not_ended(message["stage"])
        elif kind == "failed":
            self._fail(message)
        elif kind == "budget":
            self._begin_stop(Ending("stopped", f"budget: {message['reason']}", reached=message["reached"]))
        elif kind in ("limited", "flying"):
            traffic.note(self.journal, self.reader, worker.name, message)
        elif kind == "jobs":
            self.parking.hear(self.journal, message)
        elif kind == "backed_up":
            self._note(*traffic.note_backup(self.journal, message))
        elif kind == "waiting":  # for a local model, which is being loaded; no words: it is
            self._note(worker.name, message["words"])
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
        made = [self.journal.add_batch(stage.name, **file) for file in message["files"]]
        took = {batch_id: listed(ranges) for batch_id, ranges in message["took"]}
        for batch_id, indices in took.items():
            self.journal.acknowledge(batch_id, stage.name, indices)
            self.flow.acknowledged(stage.name, batch_id, indices)
        for step, figures in message["counts"].items():
            self.journal.count(step, figures)
        if message["errors"]:
            self.journal.add_errors(message["errors"])
            self._fail_on_row(message["errors"])
        self.retrying.heard(stage, out, took, message)
        for batch in made:
            self.flow.arrived(batch, maker=message.get("maker", ""))
        self._change_flow(self.retrying.take_changes())
        if stage.kind == "source":
            self.flow.pulled(stage.name)
        if message.get("is_last"):
            self._note_end(stage.name)

    def _note_end(self, stage: str) -> None:
        """A source has no more rows, or a join or a global step has done its last work."""
        if self.flow.has_ended(stage):  # pulls that were under way when a source ended are answered too
            return
        if self.flow.ended(stage):
            self.journal.set_fact(f"ended:{stage}", True)
            self.journal.add_event(events.StageEnded(step=stage))

    def _change_flow(self, changes: Changes) -> None:
        """Let rows that a retry has opened again flow, and workers let go of what it has taken back."""
        self._told_done -= changes.touched
        for name, message in self.retrying.tell(self.flow, self.deaths, changes):
            if name in self.crew.workers:
                self.crew.workers[name].tell(message)

    def _fail_on_row(self, errors: list[dict[str, Any]]) -> None:
        """End the run at the first row that failed, where its user wants that."""
        failed = next((error for error in errors if not error["is_partial"]), None)
        if failed is None or self.plan.options.get("on_error") != "raise":
            return
        row, step = failed["row_id"], failed["step"]
        error = f"Row {row!r} failed at step {step!r}: {failed['kind']}: {failed['reason']}"
        self._begin_stop(Ending("failed", f"row: {row}", error, step))

    def _fail(self, message: Message) -> None:
        where = f"Step {message['step']!r} failed: " if message["step"] else ""
        sys.stderr.write(message["trace"] + "\n")
        if self.end is None:  # else there was an abort, or what came first counts
            self.failed_step = message["step"]
            self.end = ("failed", message["kind"], f"{where}{message['kind']}: {message['what']}")

    # --- workers ---

    def _start_worker(self, name: str) -> None:
        first = first_order(self.secrets, self.reader.counts(), self.control.limits)
        worker = self.crew.start(name, first)
        if self.control.is_paused:
            worker.tell({"do": "pause"})
        with self.journal.turn():
            self.journal.add_event(events.WorkerStarted(role=worker.role, name=name, pid=worker.pid))

    def _note_finding(self, finding: Finding) -> None:
        """Tell that a worker is stuck, busy, or well again; the stuck are killed already, and die like others."""
        worker = self.crew.workers[finding.worker]
        at = self._step_at(worker.vitals.words(), worker.name)
        with self.journal.turn():
            if finding.kind == "awake":
                self.journal.add_event(events.WorkerAwake(name=finding.worker))
                self._well(finding.worker)
                return
            kind = events.WorkerBusy if finding.kind == "busy" else events.WorkerStuck
            self.journal.add_event(kind(name=finding.worker, pid=worker.pid, why=finding.why, step=at))
            where = f" with {at!r}" if at else ""
            told = "busy" if finding.kind == "busy" else "stuck"
            end = "" if told == "busy" else "; it is started again"
            self._note(finding.worker, f"worker {finding.worker} is {told}{where}: {finding.why}{end}")

    def _note(self, name: str, text: str) -> None:
        self.notes[name] = text
        self.journal.set_fact("notes", list(filter(None, self.notes.values())))

    def _well(self, name: str) -> None:
        if self.notes.pop(name, ""):
            self.journal.set_fact("notes", list(filter(None, self.notes.values())))

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
            at = self._step_at(words, name)
            died = events.WorkerDied(
                role=death.worker.role, name=name, exit=death.exit, how=death.text, step=at
            )
            self.journal.add_event(died)
        if words is not None:
            self.deaths.note(words, death.text, is_own_doing=death.is_own_doing)
        if death.is_last:
            self.end = ("failed", "worker", self._last_death_text(death))
            self.failed_step = self._step_at(words, name)
            return
        self.flow.lost_worker(name)
        if self.control.is_stopping:
            self.crew.start_none()

    def _last_death_text(self, death: Death) -> str:
        name = death.worker.name
        at = self._step_at(death.words, name) if death.words else None
        busy = self.flow.busy_stages(name)
        return last_death_text(
            death.worker.role, death.text, death.n_in_a_row, at, busy, self.run_dir.log_tail(name)
        )

    # --- commands ---

    def _obey(self, command: Command) -> None:
        with self.journal.turn():
            self.journal.add_event(events.CommandTaken(name=command.name))
            if command.name == "adjust":
                self._adjust(command.payload)
            elif command.name == "retry":
                self._change_flow(self.retrying.take_orders())
            elif command.name == "pause" and self.control.pause():
                self._tell_state("paused", events.Paused(), {"do": "pause"})
            elif command.name == "resume" and self.control.resume():
                self._tell_state("running", events.Resumed(pid=os.getpid(), was="paused"), {"do": "resume"})
        if command.name == "stop":
            self._begin_stop(Ending("stopped", "user"))
        elif command.name == "abort":
            self._is_abort = True
            self.end = ("stopped", "user", "")

    def _tell_state(self, state: str, event: events.Event, message: Message) -> None:
        self.journal.set_fact("state", state)
        self.journal.add_event(event)
        self.crew.tell_all(message)

    def _adjust(self, payload: dict[str, Any]) -> None:
        """Put changed limits in force: in the journal for the next runner, in the windows, in the workers."""
        limits = self.control.limits = self.control.limits.changed(payload)
        changes = payload.get("changes", {})
        of_models = [name for name in payload.get("steps", ()) if any(key in PER_MODEL for key in changes)]
        self.journal.set_fact("limits", limits.to_json())
        self.journal.add_event(events.Adjusted(steps=of_models, changes=changes))
        self._set_windows()
        self.crew.tell_all({"do": "adjust", "limits": limits.to_json()})

    def _set_windows(self) -> None:
        for stage, window in self.control.limits.windows(self.plan).items():
            self.flow.set_window(stage, window)

    def _begin_stop(self, ending: Ending) -> None:
        if self.control.stop(ending):
            self.crew.tell_all({"do": "drain"})
            self.crew.start_none()

    def _keep_time(self) -> None:
        """Count the running time, and end a run whose time, or whose pause, is over."""
        ending = self.control.tick()
        if ending is not None:
            self._begin_stop(ending)
        if self.control.must_note_ran():
            with self.journal.turn():
                self.journal.set_fact("ran_s", self.control.ran_s)

    # --- begin and end ---

    def _restore(self) -> None:
        """Take the state of the run from the journal; on the first start there is none."""
        is_new = begin_again(self.plan, self.journal, self.retrying, self.control)
        self._set_windows()
        refill(self.flow, self.plan, self.reader, self.retrying, self.intake, is_new=is_new)

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
                self.journal.set_fact("ran_s", self.control.ran_s)
                self.journal.add_event(events.Ended(state=state, reason=reason))
            if not self.journal.is_there():
                raise deleted_journal(self.run_dir)
        except (DistilnbError, sqlite3.Error, OSError) as refused:
            # Nothing that the journal does not hold is finished: the run has failed, whatever it was about to say.
            tell_end(self.run_dir, "failed", "runner", error or str(refused))
        finally:
            is_gentle = (state != "failed" or self.crew.is_drained) and not self._is_abort
            self.crew.end(gently=is_gentle, is_hurried=self.run_dir.is_told_to_abort)
            with contextlib.suppress(sqlite3.Error):
                self.journal.close()


if __name__ == "__main__":
    main()

"""Retry, on the runner's side: failed rows are opened again, and what followed from their failure is taken back.

A failed row's entry (its place in the batch that its stage took it from) gets a row in `redo`: though acknowledged, it
is to be done again. If the stage told that the row is lost, that word is withdrawn, and so is every word that passed
it on; at a join, the partners that were used up with it wait again. Above a global step, the step gathers again when
its rows have changed, and its new output replaces the old and everything below, in one commit. The journal holds it
all, so a kill at any moment leaves a retry either ordered or carried out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from distilnb.engine import events
from distilnb.engine.deaths import Deaths
from distilnb.engine.flow import Flow
from distilnb.engine.journal import BatchRef, Journal
from distilnb.engine.lineage import MONEY, Attempt, Lineage, StoredError
from distilnb.engine.plan import Plan, Stage
from distilnb.engine.retry_orders import RetryOrder, read_orders
from distilnb.engine.rundir import RunDir
from distilnb.engine.tracing import WENT_ON, Trace, went_on_facts
from distilnb.engine.wire import Message
from distilnb.ids import is_below


@dataclass
class Changes:
    """What the flow must be told after the journal has changed."""

    revived: dict[tuple[str, int], set[int]] = field(default_factory=dict)  # (stage, batch) → entries
    withdrawn: list[tuple[int, int]] = field(default_factory=list)  # (batch, entry)
    touched: set[str] = field(default_factory=set)  # stages of which more rows will come

    def __bool__(self) -> bool:
        return bool(self.revived or self.withdrawn)


class Retrying:
    """The runner's bookkeeping of retries; all methods that write are called inside a turn of the journal."""

    def __init__(self, run_dir: RunDir, plan: Plan, journal: Journal) -> None:
        self._run_dir = run_dir
        self._plan = plan
        self._journal = journal
        self._reader = journal.reader()
        self._lineage = Lineage(journal.connection)
        facts = self._reader.facts()
        self._went_on = went_on_facts(facts)
        self._trace = Trace(run_dir, plan, self._lineage, self._went_on)
        self._open: dict[tuple[str, int], set[int]] = {}
        for stage, batch, entry in self._lineage.open_entries():
            self._open.setdefault((stage, batch), set()).add(entry)
        self._withdrawn = self._lineage.withdrawn()
        self._retried_steps = self._lineage.retried_steps()
        self._eras: dict[str, int] = {}
        self._gathering: dict[str, list[int]] = {}
        self._replaced = {name.partition(":")[2] for name in facts if name.startswith("replaced:")}
        self._changes = Changes()

    # --- orders ---

    def take_orders(self) -> Changes:
        """Carry out the orders that wait and return what changed."""
        known = self._lineage.orders()
        for order in read_orders(self._run_dir):
            if order.name not in known:
                n_rows = self._carry_out(order)
                self._lineage.carry_out(order.name, n_rows)
                self._journal.add_event(events.Retried(rows=n_rows, order=order.name))
        return self.take_changes()

    def _carry_out(self, order: RetryOrder) -> int:
        n_rows = 0
        opened_before = {key: set(entries) for key, entries in self._open.items()}
        for error in self._lineage.open_errors(order.errors):
            n_rows += self._open_again(error, order.versions.get(error.step), opened_before)
        return n_rows

    def _open_again(
        self,
        error: StoredError,
        version: int | None,
        opened_before: Mapping[tuple[str, int], set[int]],
    ) -> bool:
        """Let a failed row be done again.

        False when it cannot be found, when a sister of it is under way, or when a join let its partners go on.
        """
        stage = self._plan.stage_of(error.step)
        if self._trace.went_on(stage, error.out, error.row_id):
            return False
        entries = [
            (batch, entry)
            for batch, entry, name in self._trace.entries(stage, error.out)
            if is_below(error.row_id, name)
        ]
        if not entries or any(entry in opened_before.get((stage.name, b), ()) for b, entry in entries):
            return False
        before = self._lineage.attempt(error.step, error.row_id)
        if version is None or version == before.version:
            attempt = Attempt(before.attempt + 1, before.version)
        else:  # the edited step looks at the replies that are there before it asks anew
            attempt = Attempt(before.attempt, version)
        self._set_attempt(error.step, error.row_id, attempt)
        self._reopen_error(stage, error, entries)
        return True

    def _reopen_error(self, stage: Stage, error: StoredError, entries: Iterable[tuple[int, int]]) -> None:
        self._lineage.take_up(error)
        self._journal.count(error.step, {"failed": -1})
        for batch, entry in entries:
            self._redo(stage, batch, entry, error.step, error.row_id)
        self._take_back(stage, error.out, error.row_id)

    def _set_attempt(self, step: str, row_id: str, attempt: Attempt) -> None:
        self._lineage.set_attempt(step, row_id, attempt)
        self._retried_steps.add(step)

    def _redo(self, stage: Stage, batch: int, entry: int, step: str, row_id: str) -> None:
        self._lineage.redo(stage.name, batch, entry, step, row_id)
        self._open.setdefault((stage.name, batch), set()).add(entry)
        self._changes.revived.setdefault((stage.name, batch), set()).add(entry)
        self._changes.touched.add(stage.name)

    # --- what followed from a failure ---

    def _take_back(self, stage: Stage, out: int, row_id: str) -> None:
        """Withdraw the word of a stage that a row is lost."""
        for batch in self._lineage.made(stage.name, out):
            withdrawn = self._withdrawn.get(batch.id, {})
            words = [
                entry for entry in self._trace.names_in(batch).gone.get(row_id, ()) if entry not in withdrawn
            ]
            if words:
                self._withdraw(batch, words[0], row_id)
                return

    def _withdraw(self, batch: BatchRef, entry: int, row_id: str) -> None:
        self._lineage.withdraw(batch.id, entry, row_id)
        self._withdrawn.setdefault(batch.id, {})[entry] = row_id
        self._changes.withdrawn.append((batch.id, entry))
        for stage in self._plan.consumers(batch.stage):
            if stage.kind == "global":
                continue  # it reads its inputs anew when they have changed
            if entry in self._open.get((stage.name, batch.id), ()):
                self._close(stage.name, batch.id, entry)
                continue
            out = self._lineage.out_that_took(stage.name, batch.id, entry)
            if out is not None:
                self._follow(stage, out, row_id)

    def _follow(self, stage: Stage, out: int, row_id: str) -> None:
        """Undo what a stage has made of the word that a row is lost."""
        if stage.kind == "join":
            self._part(stage, out, row_id)
        else:
            self._take_back(stage, out, row_id)

    def _part(self, join: Stage, out: int, row_id: str) -> None:
        """Let the partners of a row that did not come wait again at a join."""
        errors = {e.row_id: e for e in self._lineage.open_errors_of(join.steps, out)}
        partners: dict[str, list[tuple[int, int]]] = {}
        for batch, entry, name in self._trace.entries(join, out):
            if is_below(name, row_id) and entry not in self._withdrawn.get(batch, {}):
                partners.setdefault(name, []).append((batch, entry))
        kept = self._trace.rows_made(join, out).intersection({row_id, *partners})
        if kept:  # it had joined them when this was ordered; the row that comes yet must not wait there
            self._went_on.setdefault(join.name, set()).update(kept)
            self._journal.set_fact(f"{WENT_ON}{join.name}", sorted(self._went_on[join.name]))
        for name in sorted({row_id, *partners} - kept):
            entries = partners.get(name, [])
            if name in errors:
                self._reopen_error(join, errors[name], entries)
            else:
                for batch, entry in entries:
                    self._redo(join, batch, entry, join.name, name)
                self._take_back(join, out, name)

    # --- what workers are told, and say ---

    def was_replaced(self, stage: Stage) -> bool:
        """Whether a stage does rows again whose replies this run has paid for and counted before."""
        return stage.name in self._replaced

    @property
    def has_taken_back(self) -> bool:
        """Whether some word of a lost row counts no more: joins may still speak of it."""
        return bool(self._withdrawn)

    def marks(self, stage: Stage) -> Message:
        """Return what a message for a stage says of retries: the stage's era, and whether to look them up."""
        marks: Message = {"era": self._eras.get(stage.name, 0)}
        if self._retried_steps.intersection(stage.steps):
            marks["retried"] = True
        if self._went_on.get(stage.name):
            marks["went_on"] = sorted(self._went_on[stage.name])
        return marks

    def is_stale(self, message: Message) -> bool:
        """Whether a worker speaks of rows that a global step has replaced meanwhile."""
        return bool(message.get("era", 0) != self._eras.get(message["stage"], 0))

    def count_money(self, message: Message) -> None:
        """Count of a stale message what was spent: that stays true."""
        for step, figures in message["counts"].items():
            self._journal.count(step, {name: value for name, value in figures.items() if name in MONEY})

    def heard(self, stage: Stage, out: int, took: Mapping[int, Sequence[int]], message: Message) -> None:
        """Close what was done again, and follow up what came of words that were withdrawn meanwhile.

        `took` has the entries that the message acknowledges, by batch.
        Call it when all of the message is in the journal.
        """
        if not self._open and not self._withdrawn:
            return
        failed = {(e["step"], e["row_id"]) for e in message["errors"] if not e["is_partial"]}
        for batch, entries in took.items():
            for entry in self._open.get((stage.name, batch), set()).intersection(entries):
                for step, row_id in self._close(stage.name, batch, entry):
                    if (step, row_id) not in failed:
                        self._lineage.mend(step, row_id)
        # After all is closed: this message may open entries again that it has taken itself.
        for batch, entries in took.items():
            withdrawn = self._withdrawn.get(batch, {})
            for entry in withdrawn.keys() & set(entries):
                self._follow(stage, out, withdrawn[entry])

    def _close(self, stage: str, batch: int, entry: int) -> list[tuple[str, str]]:
        entries = self._open[stage, batch]
        entries.discard(entry)
        if not entries:
            del self._open[stage, batch]
        self._changes.revived.get((stage, batch), set()).discard(entry)
        return self._lineage.redone(stage, batch, entry)

    # --- global steps ---

    def gather_marks(self, stage: Stage) -> Message:
        """Return which entries a global step must leave out, by path, and note what it is about to read."""
        self._gathering[stage.name] = self._input_of(stage)
        without = {
            batch.path: sorted(self._withdrawn[batch.id])
            for name in stage.inputs
            for batch in self._reader.batches(name)
            if batch.id in self._withdrawn
        }
        return {"without": without}

    def is_unchanged(self, stage: Stage) -> bool:
        """Whether a global step has already made its rows of just these inputs."""
        return self._reader.facts().get(f"gathered:{stage.name}") == self._input_of(stage)

    def _input_of(self, stage: Stage) -> list[int]:
        """Return what tells one state of a global step's inputs from a later one."""
        batches = [batch for name in stage.inputs for batch in self._reader.batches(name) if batch.n_rows]
        return [len(batches), sum(batch.n_rows for batch in batches), max((b.id for b in batches), default=0)]

    def make_way(self, stage: Stage, flow: Flow) -> set[str]:
        """Forget what was made of a global step's old rows, before its new ones; returns the stages that had some."""
        replaced: list[str] = []
        known = self._reader.facts().get(f"gathered:{stage.name}")
        if known is not None or self._reader.batches(stage.name):
            replaced = [stage.name, *self._plan.downstream(stage.name)]
            self._forget(replaced)
            self._refill(flow, replaced)
        self._journal.set_fact(f"gathered:{stage.name}", self._gathering.get(stage.name, []))
        return set(replaced)

    def _forget(self, stages: list[str]) -> None:
        dropped = {batch.id for name in stages for batch in self._reader.batches(name)}
        steps = [step for name in stages for step in self._plan.stage(name).steps]
        self._lineage.drop(stages, steps)
        for name in stages[1:]:
            self._journal.set_fact(f"ended:{name}", False)
            self._journal.set_fact(f"gathered:{name}", None)
            self._journal.set_fact(f"replaced:{name}", True)
            if self._went_on.pop(name, None):
                self._journal.set_fact(f"{WENT_ON}{name}", None)
            self._eras[name] = self._eras.get(name, 0) + 1
            self._replaced.add(name)
        self._open = {
            key: entries
            for key, entries in self._open.items()
            if key[0] not in stages and key[1] not in dropped
        }
        for batch in dropped:
            self._withdrawn.pop(batch, None)

    # --- the flow ---

    def through(self, batch: int, stage: str, acknowledged: set[int]) -> set[int]:
        """Return the entries of a batch with which a stage is through, retries considered."""
        taken_back = self._withdrawn.get(batch, {}).keys()
        return (acknowledged - self._open.get((stage, batch), set())) | taken_back

    def take_changes(self) -> Changes:
        """Return what changed since the last call, with the stages below opened again in the journal."""
        changes, self._changes = self._changes, Changes()
        self._trace.forget()
        if not changes:
            return changes
        changes.touched |= {name for stage in changes.touched for name in self._plan.downstream(stage)}
        for name in changes.touched:
            if self._plan.stage(name).kind in ("join", "global"):
                self._journal.set_fact(f"ended:{name}", False)
        done = set(self._reader.facts().get("done", ()))
        self._journal.set_fact("done", sorted(done - changes.touched))
        return changes

    def tell(self, flow: Flow, deaths: Deaths, changes: Changes) -> list[tuple[str, Message]]:
        """Tell a living flow; returns messages for workers by name: what their joins must let go of."""
        for name in changes.touched:
            if self._plan.stage(name).kind in ("join", "global"):
                flow.reopened(name)
        messages: list[tuple[str, Message]] = []
        for batch_id, entry in changes.withdrawn:
            batch = self._lineage.batch(batch_id)
            if batch is not None:
                for join, worker in flow.withdrawn(batch, entry):
                    what = {"do": "forget", "stage": join.name, "batch": batch_id, "entry": entry}
                    messages.append((worker, {**what, **self.marks(join)}))
        for (stage, batch_id), entries in changes.revived.items():
            batch = self._lineage.batch(batch_id)
            if batch is not None and entries:
                deaths.forgive(self._plan.stages.index(self._plan.stage(stage)), batch_id, entries)
                flow.revived(stage, batch, entries)
        return messages

    def _refill(self, flow: Flow, names: list[str]) -> None:
        """Begin the stages below a global step anew, with what flows into them from elsewhere."""
        flow.replaced(names[1:])  # the global step itself may have been opened again meanwhile, and must know
        outside = {before for name in names[1:] for before in self._plan.stage(name).inputs} - set(names)
        for before in outside:
            for batch in self._reader.batches(before):
                for stage in self._plan.consumers(before):
                    if stage.name in names and stage.kind != "global":
                        skip = self._withdrawn.get(batch.id, {})
                        entries = set(range(batch.n_entries)) - skip.keys()
                        flow.revived(stage.name, batch, entries, is_urgent=False)

"""Reading a run from its directory: how it stands, its rows, its errors. Read-only, and nothing is unpickled."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distilnb.engine.ending import read_end, what_ails
from distilnb.engine.events import Event
from distilnb.engine.failures import unpack_failure
from distilnb.engine.journal import JournalReader
from distilnb.engine.left_jobs import jobs_of
from distilnb.engine.limits import RunLimits
from distilnb.engine.lineage import Lineage
from distilnb.engine.plan import Plan, Stage
from distilnb.engine.ranges import from_ranges
from distilnb.engine.status import (
    COUNTED,
    ENDED,
    GOING,
    ROUTED,
    RunState,
    RunStatus,
    StepStatus,
)
from distilnb.engine.tracing import Trace, went_on_facts
from distilnb.engine.traffic import in_flight, refusals
from distilnb.engine.versions import FIRST, folder_of, names_in, read_versions
from distilnb.engine.window import Window, reading
from distilnb.errors import InputError, RunError, UnknownStepError, did_you_mean
from distilnb.rows import Batch, read_batch, root_id
from distilnb.spec.files import PipelineFile, load, read_data
from distilnb.spec.registry import KINDS
from distilnb.spec.step import Step, stand_in

if TYPE_CHECKING:
    from distilnb.engine.story import Story

_RATE_WINDOW_S = 3.0  # how far back the shown rate looks
_DROPPED = "dropped:"
_OF_EARLIER_RUNS: dict[str, Any] = {  # columns that a journal of an earlier version lacks
    "row": None,
    "texts": None,
    "state": "open",
    "version": FIRST,
    "mended_by": None,
}


@dataclass
class RunReader(Window):
    """A window on one run; remembers what it saw to tell rates."""

    plan: Plan = field(init=False)
    _seen: dict[str, list[tuple[float, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plan = self.run.plan()

    @reading
    def events(self, after: int = 0) -> list[Event]:
        """Return what happened since the event of that number."""
        journal = self.journal()
        return journal.events(after) if journal else []

    @reading
    def errors(self, *, with_texts: bool = False) -> list[dict[str, Any]]:
        """Return the quarantined and partial rows; `row` is the ordinal in the source where it can be told.

        Prompts and replies that are long are read from their files only `with_texts`. `state` is "kept" of what went
        on: a partial row, and one whose partners a join let go on without it.
        """
        journal = self.journal()
        errors = [{**_OF_EARLIER_RUNS, **error} for error in journal.errors()] if journal else []
        for error in errors:
            if error["is_partial"]:
                error["state"] = "kept"
        if journal:
            self._find_ordinals(errors, journal)
            self._find_kept(errors, journal)
        return [unpack_failure(error, self.run.path) for error in errors] if with_texts else errors

    def _find_kept(self, errors: list[dict[str, Any]], journal: JournalReader) -> None:
        joins = set(self.plan.options.get("keeping_joins", ()))
        lineage = self._lineage() if joins else None
        if lineage is None:
            return
        trace = Trace(self.run, self.plan, lineage, went_on_facts(journal.facts()))
        for error in errors:
            stage = self.plan.stage_of(error["step"])
            is_above = error["state"] == "open" and not joins.isdisjoint(self.plan.downstream(stage.name))
            if is_above and trace.went_on(stage, error["out"], error["row_id"]):
                error["state"] = "kept"

    def _find_ordinals(self, errors: list[dict[str, Any]], journal: JournalReader) -> None:
        """Below a global step the order key counts that step's rows: there the id tells the source's row."""
        globals_ = [stage.name for stage in self.plan.stages if stage.kind == "global"]
        below = {name for one in globals_ for name in (one, *self.plan.downstream(one))}
        for source in [stage for stage in self.plan.stages if not stage.inputs] if below else ():
            start = f"{source.name}:"
            lost = [
                e
                for e in errors
                if self.plan.stage_of(e["step"]).name in below and e["row_id"].startswith(start)
            ]
            if lost:
                batch = self._read([ref.path for ref in journal.batches(source.name)])
                ordinals = {row_id: order[0] for row_id, order in zip(batch.ids, batch.orders, strict=True)}
                for error in lost:
                    error["row"] = ordinals.get(root_id(error["row_id"]))

    @reading
    def orders(self) -> dict[str, int]:
        """Return the retries that the runner has taken up, with the number of rows that each opened again."""
        lineage = self._lineage()
        return lineage.orders() if lineage else {}

    def _lineage(self) -> Lineage | None:
        """Return what is known of retries; None in a journal of an earlier version, which had none."""
        journal = self.journal()
        lineage = Lineage(journal.connection) if journal else None
        return lineage if lineage and lineage.is_kept() else None

    @reading
    def versions(self) -> list[dict[str, Any]]:
        """Return for each version that a retry has added and each step of it: digest, time, and rows made by it."""
        lineage = self._lineage()
        undone = lineage.open_rows() if lineage else set()
        undone |= {(e["step"], e["row_id"]) for e in self.errors() if _is_lost(e)}
        found = []
        for version in read_versions(self.run):
            for step, digest in version.steps.items():
                known = lineage.attempts(step) if lineage else {}
                ids = [row_id for row_id, attempt in known.items() if attempt.version == version.number]
                made = [row_id for row_id in ids if (step, row_id) not in undone]
                found.append(
                    {
                        "step": step,
                        "version": version.number,
                        "digest": digest,
                        "at": version.at,
                        "row_ids": made,
                    }
                )
        return found

    # --- status ---

    @reading
    def status(self) -> RunStatus:
        """Return how the run stands now."""
        options = self.plan.options
        common: dict[str, Any] = {
            "id": self.run.run_id,
            "pipeline": self.plan.pipeline,
            "is_rehearsed": bool(options.get("is_rehearsed")),
        }
        is_starting = self.run.was_just_started()  # before the lock, which it takes then
        is_alive = self.run.is_locked()  # before the facts: a run that ends in between is read as ended
        journal = self.journal()
        facts = journal.facts() if journal else {}
        common["limits"] = self._limits(facts)
        if journal is None or "state" not in facts:
            if is_alive or is_starting:
                return RunStatus(state="starting", steps=self._steps({}, {}), **common)
            state, error = self._end_of_the_dead()
            return RunStatus(state=state, error=error, steps=self._steps({}, {}), **common)
        state, error = facts["state"], facts.get("error", "")
        notes = tuple(facts.get("notes", ())) if state in GOING and is_alive else ()
        if state in GOING and not is_alive and not is_starting:
            state, error = self._end_of_the_dead()
        elif state in ("running", "paused"):
            state = self._told(state)
        elif state in ENDED and self._was_resumed_after(facts.get("ended_at", 0.0)):
            state, error = "starting", ""
        return RunStatus(
            state=state,
            reason=facts.get("reason", ""),
            error=error,
            started_at=facts.get("started_at", 0.0),
            ended_at=facts.get("ended_at") if state not in GOING else None,
            steps=self._steps(facts, journal.counts()),
            notes=notes,
            ran_s=facts.get("ran_s", 0.0),
            refusals=refusals(facts),
            jobs=jobs_of(facts, state),
            **common,
        )

    def _told(self, state: RunState) -> RunState:
        """Return the state that a running or paused run has once it has taken the commands that wait."""
        for command in self.run.commands():
            if command.name in ("stop", "abort"):
                return "stopping"
            told: dict[str, RunState] = {"pause": "paused", "resume": "running"}
            state = told.get(command.name, state)
        return state

    def _end_of_the_dead(self) -> tuple[RunState, str]:
        """Return state and error of a run whose runner is gone and whose journal does not say that it ended."""
        end = read_end(self.run)
        if end is not None:
            return ("stopped" if end.state == "stopped" else "failed"), end.error
        ails = what_ails(self.run)
        return ("failed", f"{ails} {self._lost_text()}") if ails else ("lost", self._lost_text())

    @reading
    def limits(self) -> RunLimits:
        """Return the limits in force, with changes that no runner has taken yet."""
        journal = self.journal()
        return self._limits(journal.facts() if journal else {})

    def _limits(self, facts: dict[str, Any]) -> RunLimits:
        waiting = [command.payload for command in self.run.commands() if command.name == "adjust"]
        return RunLimits.of(self.plan, facts.get("limits"), waiting)

    @reading
    def limits_reached(self) -> list[str]:
        """Return the limits that stopped the run and were not raised since, as text: "max_cost 2"."""
        journal = self.journal()
        facts = journal.facts() if journal else {}
        reached = facts.get("reached", {})
        return [f"{name} {reached[name]:g}" for name in self._limits(facts).not_raised(reached)]

    def _was_resumed_after(self, ended_at: float) -> bool:
        """Whether a runner was started since the run ended, and has not written anything yet."""
        try:
            started_at = (self.run.path / "runner.json").stat().st_mtime
        except OSError:
            return False
        return started_at > ended_at and self.run.is_alive()

    def _lost_text(self) -> str:
        tail = self.run.log_tail("runner")
        return "The runner is gone. " + (f"The end of its log:\n{tail}" if tail else "It can be resumed.")

    def _steps(self, facts: dict[str, Any], counts: dict[str, dict[str, float]]) -> tuple[StepStatus, ...]:
        done = set(facts.get("done", ()))
        expected: dict[str, float | None] = {}  # rows that will have left each stage, as far as can be told
        below_routes: set[str] = set()
        statuses = []
        for stage in self.plan.stages:
            if self._is_below_route(stage, below_routes):
                below_routes.add(stage.name)
                total = self._routed_total(stage, expected, counts, done)
            else:
                total = self._total(stage, expected)
            for step in stage.steps:
                figures = counts.get(step, {})
                ended = int(sum(figures.get(name, 0) for name in ("done", "failed", "dropped")))
                if stage.name in done:
                    total = ended
                statuses.append(self._step(step, stage, figures, total, done, facts))
                left = max(0, total - ended) if total is not None else None
                total = int(figures.get("made", 0)) + left if left is not None else None
            expected[stage.name] = total
        return tuple(statuses)

    def _is_below_route(self, stage: Stage, below: set[str]) -> bool:
        return any(name in below or self.plan.stage(name).is_route for name in stage.inputs)

    def _routed_total(
        self,
        stage: Stage,
        expected: dict[str, float | None],
        counts: dict[str, dict[str, float]],
        done: set[str],
    ) -> int | None:
        """Return how many rows come to a stage of a branch: known once the route has decided on all."""
        before = stage.inputs[0]
        if len(stage.inputs) > 1:  # branches that meet: nobody knows how many rows took several
            return None
        if self.plan.stage(before).is_route:
            routed = counts.get(before, {}).get(f"{ROUTED}{stage.steps[0]}", 0)
            return int(routed) if before in done else None
        return None if expected[before] is None else int(expected[before] or 0)

    def _total(self, stage: Stage, expected: dict[str, float | None]) -> int | None:
        if stage.inputs:
            known = [expected[before] for before in stage.inputs]
            total = (
                known[0] if stage.kind == "join" else None if None in known else sum(n or 0 for n in known)
            )
        elif stage.kind == "spool":
            total = sum(file["n_rows"] for file in self.plan.options["spooled"][stage.name])
        else:
            limit = self.plan.options.get("rows")
            total = stage.expected_rows
            total = limit if total is None else min(total, limit or total)
        return None if total is None else int(total)

    def _step(
        self,
        step: str,
        stage: Stage,
        figures: dict[str, float],
        total: int | None,
        done: set[str],
        facts: dict[str, Any],
    ) -> StepStatus:
        ended = int(sum(figures.get(name, 0) for name in ("done", "failed", "dropped")))
        state = "finished" if stage.name in done else "running" if figures else "waiting"
        if facts.get("state") == "failed" and facts.get("failed_step") == step:
            state = "failed"
        return StepStatus(
            name=step,
            kind=self.plan.options.get("kinds", {}).get(step, ""),
            state=state,  # type: ignore[arg-type]
            total=total,
            cost_usd=None if figures.get("unpriced") else figures.get("cost_usd", 0.0),
            drop_reasons={
                name.removeprefix(_DROPPED): int(value)
                for name, value in figures.items()
                if name.startswith(_DROPPED)
            },
            rows_per_s=self._rate(step, ended, facts) if state == "running" else 0.0,
            in_flight=in_flight(facts, step) if state == "running" and facts.get("state") in GOING else 0,
            **{name: int(figures.get(name, 0)) for name in COUNTED},
        )

    def _rate(self, step: str, ended: int, facts: dict[str, Any]) -> float:
        now = time.time()
        seen = self._seen.setdefault(step, [(facts.get("started_at", now), 0)])
        seen.append((now, ended))
        while len(seen) > 2 and now - seen[1][0] > _RATE_WINDOW_S:
            del seen[0]
        (then, before), elapsed = seen[0], now - seen[0][0]
        return (ended - before) / elapsed if elapsed > 0 and then else 0.0

    # --- rows ---

    @reading
    def rows(self, step: str) -> Batch:
        """Return the finished rows of a step in their order, while the run goes on or after it."""
        if not any(step in stage.steps for stage in self.plan.stages):
            known = [name for stage in self.plan.stages for name in stage.steps]
            raise UnknownStepError(
                f"There is no step {step!r}; the run has {known}.", did_you_mean(step, known)
            )
        stage = self.plan.stage_of(step)
        journal = self.journal()
        if journal is None:
            return Batch()
        if step == stage.name:
            return self._read([batch.path for batch in journal.batches(stage.name)]).in_order()
        return self._rows_inside(stage, step, journal)

    @reading
    def newest(self, stage: str, n: int) -> Batch:
        """Return the last n rows that a stage has finished, in the order in which they were, reading few files."""
        journal = self.journal()
        whole = Batch()
        refs = [ref for ref in journal.batches(stage) if ref.n_rows] if journal else []
        for n_files in range(1, len(refs) + 1):
            whole = self._read([ref.path for ref in refs[-n_files:]])
            if len(whole) >= n:
                break
        return whole.select(range(max(0, len(whole) - n), len(whole)))

    @reading
    def story(self, row: int | str) -> Story:
        """Return what happened to a row, by its ordinal in the source or its id; raises InputError."""
        from distilnb.engine.story import StoryTeller

        journal = self.journal()
        if journal is None:
            raise InputError(f"Run {self.run.run_id!r} has no rows yet.", "Wait for its first rows.")
        return StoryTeller(self.run, self.plan, journal, self.errors(), self._known_step).tell(row)

    def _known_step(self, stage: Stage, name: str, version: int) -> Step | None:
        try:
            return self._plain_step(stage, name, name, version)
        except RunError:  # it holds code of the user
            return None

    def _rows_inside(self, stage: Stage, step: str, journal: JournalReader) -> Batch:
        """Make the rows in the middle of fused steps again: the steps are cheap, so only their end is kept."""
        from distilnb.engine.apply import KeepFailed, Outcome, apply_step
        from distilnb.engine.redoing import Marks, apply_versions

        names = stage.steps[: stage.steps.index(step) + 1]
        lineage = self._lineage()
        marks = Marks(attempts={name: lineage.attempts(name) for name in names} if lineage else {})
        versions = {FIRST, *(attempt.version for of in marks.attempts.values() for attempt in of.values())}
        steps = {
            (name, version): self._plain_step(stage, step, name, version)
            for name in names
            for version in versions
        }
        acknowledged = journal.acknowledged()
        taken = Batch()
        for ref in journal.batches(stage.inputs[0]):
            through = sorted(from_ranges(acknowledged.get((ref.id, stage.name), ())))
            batch = read_batch(self.run.path / ref.path)
            batch = batch.select(index for index in through if index < ref.n_rows)
            _extend(taken, batch.taken_by(stage.steps[0]))
        keep = KeepFailed.of(self.plan.options)

        def apply(step: Step, batch: Batch) -> Outcome:
            return apply_step(step, batch, keep=keep)

        return apply_versions(names, lambda *key: steps[key], taken, marks, apply).batch.in_order()

    def _plain_step(self, stage: Stage, step: str, name: str, version: int) -> Step:
        """Build a step that holds no code of the user, as a version has it; the plan's where it has not."""
        from distilnb.engine.building import read_plain_steps

        folder = self.run.path if version == FIRST else folder_of(self.run, version)
        if version != FIRST and name not in names_in(folder):
            return self._plain_step(stage, step, name, FIRST)
        steps = read_plain_steps(folder, [name])
        if not steps:
            raise RunError(
                f"The rows of step {step!r} were not kept: it ran together with {stage.name!r}, "
                "and user code is never run to read a run.",
                f"Read run.rows({stage.name!r}), or preview the step.",
            )
        return steps[name]

    def _read(self, paths: list[str]) -> Batch:
        whole = Batch()
        for path in paths:
            _extend(whole, read_batch(self.run.path / path))
        return whole

    def pipeline_file(self) -> PipelineFile:
        """Return the pipeline as it was started; classes of the user stand in it by name only."""
        path = self.run.path / "pipeline.yaml"
        kinds = self.plan.options.get("kinds")
        if kinds is None:  # a run of an earlier version
            steps = read_data(path.read_text(encoding="utf-8"))["steps"]
            kinds = {step["name"]: str(step["kind"]) for step in steps}
        unknown = {*kinds.values()} - KINDS.keys()
        return load(path, classes={kind: stand_in(kind) for kind in unknown})


def _extend(whole: Batch, more: Batch) -> None:
    whole.rows += more.rows
    whole.ids += more.ids
    whole.orders += more.orders


def _is_lost(error: dict[str, Any]) -> bool:
    """Whether a failure has cost its row, which no retry has made since."""
    return not error["is_partial"] and error["state"] in ("open", "kept")

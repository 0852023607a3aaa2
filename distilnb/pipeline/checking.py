"""The Sample as a regression set: what a pipeline makes of the pinned rows now, against what was accepted."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from distilnb.engine.accepted import Accepted, Outcome, Text, read_accepted, write_accepted
from distilnb.engine.preview import StepResult, preview_graph
from distilnb.pipeline.measure import Owners, Quote, of_step, quote_of, rating_columns, read_first
from distilnb.pipeline.timing import Timed
from distilnb.pipeline.versions import Reference, number_all, number_tasks, prompt_steps, tasks_of
from distilnb.rows import Batch, root_id
from distilnb.spec.check import check_graph
from distilnb.spec.digest import digest_of
from distilnb.spec.graph import Graph
from distilnb.spec.step import GeneratorStep, GlobalStep
from distilnb.view.check import CheckData, CheckedRow, Finding, Verdict, check_bundle

if TYPE_CHECKING:
    import pandas as pd

_KEPT = 4_000  # characters of a text that are kept to be shown; all of it counts


class Check:
    """What became of the pinned rows: the repr tells what got worse, then what is other than it was.

    `quote` is what is not asked yet, where nothing was to be asked.
    """

    def __init__(self, data: CheckData, now: Accepted, quote: Quote) -> None:
        self._data = data
        self._now = now
        self.quote = quote

    @property
    def asked(self) -> int:
        """Requests that were sent."""
        return self._data.asked

    @property
    def reused(self) -> int:
        """Requests that the reply cache answered."""
        return self._data.reused

    @property
    def worse(self) -> list[int]:
        """The numbers of the rows that got worse."""
        return self._rows("worse")

    @property
    def better(self) -> list[int]:
        """The numbers of the rows that got better, and worse nowhere."""
        return self._rows("better")

    @property
    def changed(self) -> list[int]:
        """The numbers of the rows whose texts are other than they were, neither worse nor better."""
        return self._rows("changed")

    def _rows(self, verdict: str) -> list[int]:
        return [row.ordinal for row in self._data.rows if row.verdict == verdict]

    def to_pandas(self) -> pd.DataFrame:
        """Return what was found: row, row_id, step, verdict (worse, better, changed, new), reason, was, now."""
        import pandas as pd

        columns = ["row", "row_id", "step", "verdict", "reason", "was", "now"]
        records = [
            (row.ordinal, row.row_id, one.step, one.verdict, one.reason, one.was, one.now)
            for row in self._data.rows
            for one in row.findings
        ]
        return pd.DataFrame(records, columns=columns)

    def __repr__(self) -> str:
        return check_bundle(self._data)["text/plain"]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return dict(check_bundle(self._data))


def accept(pipeline: str, graph: Graph, samples: Mapping[str, Batch]) -> Check:
    """Measure later versions by what a pipeline makes now of the pinned rows; return what it asked for that."""
    found = make_check(pipeline, graph, samples, ask=True)
    write_accepted(pipeline, found._now)
    same = make_check(pipeline, graph, samples, ask=False)
    asked = found._data
    told = replace(
        same._data,
        asked=asked.asked,
        retries=asked.retries,
        reused=asked.reused,
        cost_usd=asked.cost_usd,
    )
    return Check(told, found._now, Quote())


def make_check(pipeline: str, graph: Graph, samples: Mapping[str, Batch], *, ask: bool) -> Check:
    """Run a pipeline on the pinned rows, asking what is missing if it may be, and compare with what was accepted."""
    check_graph(graph)
    timed = Timed(pipeline, graph, number_tasks(pipeline, graph))
    results: dict[str, StepResult] = {}
    for result in preview_graph(graph, samples, asks=ask):
        results[result.name] = result
        timed.note(result)
    now = Accepted(time.time(), number_all(pipeline, graph), _outcomes(graph, results))
    before = read_accepted(pipeline)
    costs = [result.counts.get("cost_usd", 0.0) if result.is_priced else None for result in results.values()]
    data = CheckData(
        pipeline=pipeline,
        rows=tuple(_rows(samples, before, now, _read(graph))),
        against=_names(before) if before else "",
        accepted_at=before.at if before else None,
        version=_names(now),
        asked=int(sum(result.counts.get("asked", 0) for result in results.values())),
        retries=int(sum(result.counts.get("retries", 0) for result in results.values())),
        reused=int(sum(result.counts.get("cached", 0) for result in results.values())),
        cost_usd=None if None in costs else sum(cost or 0.0 for cost in costs),
        n_missing=len({row_id for result in results.values() for row_id in result.missing}),
    )
    return Check(data, now, Quote() if ask else quote_of(graph, results))


def _names(accepted: Accepted) -> str:
    return ", ".join(str(Reference(step, number)) for step, number in accepted.versions.items())


# --- what became of each row ------------------------------------------------------


def _outcomes(graph: Graph, results: Mapping[str, StepResult]) -> dict[str, dict[str, Outcome]]:
    """Return what each step did with each row that came to it; steps that see all rows at once are left out."""
    found: dict[str, dict[str, Outcome]] = {}
    prompts = prompt_steps(graph)
    branches = {task for name, tasks in prompts.items() for task in tasks if task != name}
    for name, result in results.items():
        step = graph.steps[name]
        if isinstance(step, (GeneratorStep, GlobalStep)) or name in branches:
            continue
        found[name] = _of_prompt(graph, name, results) if name in prompts else _of_row_step(result)
    return found


def _of_prompt(graph: Graph, name: str, results: Mapping[str, StepResult]) -> dict[str, Outcome]:
    measured = of_step(graph, name, results)
    missing = {row_id for task in prompt_steps(graph)[name] for row_id in results[task].missing}
    owners = Owners(measured.incoming.ids)
    columns = rating_columns(tasks_of(graph, name)[0])
    ratings: dict[str, list[float]] = {}
    outgoing = results[name].outgoing
    for row, row_id in zip(outgoing.rows, outgoing.ids, strict=True):
        for column in columns:
            value = row.get(column)
            values = value if isinstance(value, list) else [value]
            numbers = [float(one) for one in values if isinstance(one, (int, float))]
            ratings.setdefault(owners.of(row_id), []).extend(numbers)
    found = {}
    for row_id in measured.incoming.ids:
        if row_id in missing:
            continue
        rated = ratings.get(row_id) or []
        texts = {} if columns else {key: _text(text) for key, text in measured.texts.get(row_id, {}).items()}
        found[row_id] = Outcome(
            failure=measured.failures.get(row_id, ""),
            partial=measured.partial.get(row_id, ""),
            is_cut_off=row_id in measured.cut_off,
            rating=sum(rated) / len(rated) if rated else None,
            texts=texts,
        )
    return found


def _of_row_step(result: StepResult) -> dict[str, Outcome]:
    owners = Owners(result.incoming.ids)
    arrived = {owners.of(row_id) for row_id in result.outgoing.ids}
    failed = {owners.of(f.row_id): f.reason for f in result.failures if not f.is_partial}
    reason = ", ".join(result.drop_reasons) or "no row came out"
    return {
        row_id: Outcome(
            failure=failed.get(row_id, ""),
            left_out="" if row_id in arrived or row_id in failed else reason,
        )
        for row_id in result.incoming.ids
    }


def _text(text: str) -> Text:
    return Text(text[:_KEPT], digest_of(text, size_bytes=8))


# --- against what was accepted ----------------------------------------------------


def _read(graph: Graph) -> list[str]:
    """Return the columns that prompts read, in the order of their steps."""
    return [name for step in prompt_steps(graph) for task in tasks_of(graph, step) for name in task.needed()]


def _rows(
    samples: Mapping[str, Batch], before: Accepted | None, now: Accepted, reads: Collection[str]
) -> list[CheckedRow]:
    findings: dict[str, list[Finding]] = {}
    for step, outcomes in now.outcomes.items():
        known = before.outcomes.get(step, {}) if before else {}
        is_same = before is None or before.versions.get(step) == now.versions.get(step)
        for row_id, outcome in outcomes.items():
            # Ratings by another wording of the judge are on another scale.
            measured = outcome if is_same else replace(outcome, rating=None)
            found = _compared(step, known.get(row_id), measured)
            findings.setdefault(root_id(row_id), []).extend(found)
    return [
        CheckedRow(order[0], row_id, tuple(findings.get(row_id, ())), read_first(row, reads))
        for batch in samples.values()
        for row, row_id, order in zip(batch.rows, batch.ids, batch.orders, strict=True)
    ]


def _compared(step: str, was: Outcome | None, now: Outcome) -> list[Finding]:
    """Return what is worse, better or otherwise other at a step; of a row that is new there, its faults."""
    known = was or Outcome()
    worse = _faults(now, known)
    better = _faults(known, now) if was else []
    verdict: Verdict = "worse" if worse else "better"
    reasons = worse or better
    if was is None:
        return [Finding(step, "new", reason) for reason in worse or [""]]
    names = dict.fromkeys([*known.texts, *now.texts])
    texts = []
    for name in names:
        old, new = known.texts.get(name), now.texts.get(name)
        if old != new:
            of = name if len(names) > 1 else ""
            texts.append(Finding(step, "changed", "", old.text if old else "", new.text if new else "", of))
    if reasons:
        told = "; ".join(_told(reason, known, now) for reason in reasons)
        first = texts[0] if texts else Finding(step, verdict)
        return [first._replace(verdict=verdict, reason=told), *texts[1:]]
    return texts


def _faults(now: Outcome, was: Outcome) -> list[str]:
    """Return what is wrong with one outcome that is not with the other."""
    found = [
        name for name in ("failure", "left_out", "partial") if getattr(now, name) and not getattr(was, name)
    ]
    if now.is_cut_off and not was.is_cut_off:
        found.append("cut off")
    if now.rating is not None and was.rating is not None and now.rating < was.rating:
        found.append("rating")
    return found


def _told(reason: str, was: Outcome, now: Outcome) -> str:
    if reason == "rating":
        return f"rated {now.rating:.3g}, was {was.rating:.3g}"
    if reason == "cut off":
        return "cut off at the token limit" if now.is_cut_off else "no longer cut off"
    words = {"failure": "failed", "left_out": "left out", "partial": "partial"}[reason]
    text = getattr(now, reason)
    return f"{words}: {text}" if text else f"no longer {words}"

"""Votes by a judge: of two answers the better one, asked in both orders, or the one that is rated higher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from distilnb.engine.history import Vote
from distilnb.engine.preview import preview_graph
from distilnb.errors import SpecError
from distilnb.llms.base import LLM
from distilnb.llms.catalog import as_llm
from distilnb.pipeline.candidates import Candidate
from distilnb.pipeline.measure import NOT_ASKED, Measured, Quote, judges_of, quote_missing, rating_columns
from distilnb.pipeline.versions import tasks_of
from distilnb.rows import Batch, Row
from distilnb.spec.draft import drafting
from distilnb.spec.graph import Graph
from distilnb.spec.inline import Inline
from distilnb.steps.sources import LoadDataFromDicts
from distilnb.tasks.base import Task
from distilnb.tasks.prometheus import PrometheusEval
from distilnb.view.figures import plural
from distilnb.view.text import value_text

_PAIRS, _JUDGE = "pairs", "judge"
_Pair = tuple[str, str, str]  # a row, and the candidates that answered it


class Judge(NamedTuple):
    """Who votes. A `step` of the pipeline or a task that rates sees one answer, a pairwise task two.

    `models` are the labels of all models that it asks.
    """

    name: str
    step: str = ""
    task: Task | None = None
    is_pairwise: bool = False
    models: frozenset[str] = frozenset()


class Verdicts(NamedTuple):
    """What a judge said: its votes, how often it chose by the place, how often it failed, and what that cost."""

    votes: list[Vote]
    n_swayed: int = 0  # pairs where the other order brought the other winner; they count as ties
    n_failed: int = 0
    n_alike: int = 0  # pairs of equal answers; they are ties, and nobody is asked
    asked: int = 0
    retries: int = 0  # of those asked
    reused: int = 0
    cost_usd: float | None = 0.0
    quote: Quote = Quote()


def find_judge(graph: Graph, step: str, judge: LLM | Task | str) -> Judge:
    """Return who is meant: a judge step behind the step compared, a task, or a model.

    Raises SpecError for a task that neither rates nor compares.
    """
    if isinstance(judge, str) and judge in graph.steps:
        if judge not in judges_of(graph, step):
            raise SpecError(
                f"Step {judge!r} does not rate what {step!r} makes.",
                f"These do: {list(judges_of(graph, step))}; or name a model.",
            )
        return Judge(judge, step=judge, models=_labels(*tasks_of(graph, judge)))
    if isinstance(judge, Task):
        name, models = f"{judge.kind()} {_label(judge)}", _labels(judge)
        if isinstance(judge, PrometheusEval) and judge.mode == "relative":
            return Judge(name, task=judge, is_pairwise=True, models=models)
        if not rating_columns(judge):
            raise SpecError(
                f"{judge.kind()} makes {judge.made()}, which are no ratings.",
                "Give a task that rates (UltraFeedback, PrometheusEval), or a model.",
            )
        return Judge(name, task=judge, models=models)
    llm = as_llm(judge)
    with drafting(None):
        pairwise = PrometheusEval(mode="relative", rubric="helpfulness", llm=llm)
    return Judge(llm.label, task=pairwise, is_pairwise=True, models=_labels(pairwise))


def _label(task: Task) -> str:
    return task.llm.label if task.llm is not None else ""


def _labels(*tasks: Task) -> frozenset[str]:
    return frozenset(llm.label for task in tasks if task.llm is not None for llm in _all_of(task.llm))


def _all_of(llm: LLM) -> list[LLM]:
    return [llm, *llm.senders()]


def notes_on(
    judge: Judge, verdicts: Verdicts, candidates: Sequence[Candidate], *, was_blind: bool
) -> list[str]:
    """Return what a reader of the votes of a judge must know."""
    notes = []
    if was_blind:
        notes.append("a judge is never told names, so nothing is hidden here; without one, people vote blind")
    if verdicts.n_swayed:
        notes.append(
            f"in {plural(verdicts.n_swayed, 'pair')} the judge chose by the place of the answer: ties"
        )
    if verdicts.n_alike:
        notes.append(f"in {plural(verdicts.n_alike, 'pair')} both answers are the same: ties, without asking")
    if verdicts.n_failed:
        notes.append(f"of {plural(verdicts.n_failed, 'pair')} the judge said nothing that can be used")
    if judge.models & {one.label for candidate in candidates for one in _all_of(candidate.llm)}:
        notes.append("the judge is one of the models compared; it may prefer its own answers")
    return notes


def with_judge(candidate: Candidate, step: str, judge: Judge | None) -> Graph:
    """Return the graph of a candidate in which a judge that rates stands behind the step."""
    if judge is None or judge.task is None or judge.is_pairwise:
        return candidate.graph
    with drafting(None):
        task = judge.task.updated(name=_free(candidate.graph))
    return candidate.graph.appending(task, [step])


def judge_step(judge: Judge | None, graph: Graph) -> list[str]:
    """Return the step whose ratings count in the graph that `with_judge` made; none where nobody rates."""
    if judge is None or judge.is_pairwise:
        return []
    return [judge.step or list(graph.steps)[-1]]


def by_rating(judge: Judge, measured: Mapping[str, Measured]) -> Verdicts:
    """Let the higher rating of a row win, and equal ones tie."""
    votes = []
    for one, other in combinations(measured, 2):
        ratings = measured[one].ratings, measured[other].ratings
        for row_id in ratings[0]:
            if row_id in ratings[1]:
                first, second = ratings[0][row_id], ratings[1][row_id]
                winner = one if first > second else other if second > first else ""
                votes.append(Vote(row_id, one, other, winner, judge.name))
    return Verdicts(votes)


def by_pairs(
    judge: Judge, candidates: Sequence[Candidate], step: str, measured: Mapping[str, Measured], *, asks: bool
) -> Verdicts:
    """Show each pair of answers to a judge in both orders; who wins in both has won, else it is a tie."""
    assert judge.task is not None
    rows, ids, pairs, alike = _rows(candidates, step, measured)
    votes = [Vote(*pair, "", judge.name) for pair in alike]
    n_waiting = _n_waiting(candidates, measured)
    if not rows:
        task = judge.task
        return Verdicts(votes, n_alike=len(alike), quote=quote_missing(task, {}, [], 2 * n_waiting))
    with drafting(None):
        source = LoadDataFromDicts(data=Inline.of(rows[:1]), name=_PAIRS)
        task = judge.task.updated(name=_JUDGE)
    graph = Graph({_PAIRS: source, _JUDGE: task}, ((_PAIRS, _JUDGE),))
    samples = {_PAIRS: Batch(rows, ids, [[i] for i in range(len(rows))])}
    result = list(preview_graph(graph, samples, asks=asks))[-1]
    column = task.output_mappings.get("result", "result")
    said = {
        row_id: row.get(column) for row, row_id in zip(result.outgoing.rows, result.outgoing.ids, strict=True)
    }
    n_swayed = n_failed = 0
    for number, (row_id, one, other) in enumerate(pairs):
        winners = (
            {"A": one, "B": other}.get(str(said.get(f"{number}+"))),
            {"A": other, "B": one}.get(str(said.get(f"{number}-"))),
        )
        if None in winners:
            n_failed += 1
            continue
        n_swayed += winners[0] != winners[1]
        votes.append(
            Vote(row_id, one, other, str(winners[0]) if winners[0] == winners[1] else "", judge.name)
        )
    counts = result.counts
    return Verdicts(
        votes,
        n_swayed,
        n_failed,
        len(alike),
        int(counts.get("asked", 0)),
        int(counts.get("retries", 0)),
        int(counts.get("cached", 0)),
        float(counts.get("cost_usd", 0.0)) if result.is_priced else None,
        Quote()
        if asks
        else quote_missing(task, result.missing, list(result.messages.values()), 2 * n_waiting),
    )


def _rows(
    candidates: Sequence[Candidate], step: str, measured: Mapping[str, Measured]
) -> tuple[list[Row], list[str], list[_Pair], list[_Pair]]:
    """Return what the judge is shown, with ids, and of which pairs; and the pairs whose answers are the same."""
    rows: list[Row] = []
    ids: list[str] = []
    pairs: list[_Pair] = []
    alike: list[_Pair] = []
    needed = [dict.fromkeys(tasks_of(candidate.graph, step)[0].needed()) for candidate in candidates]
    columns = list(dict.fromkeys(name for names in needed for name in names))
    incoming = measured[candidates[0].key].incoming
    for row, row_id in zip(incoming.rows, incoming.ids, strict=True):
        question = _question(row, columns)
        for one, other in combinations([candidate.key for candidate in candidates], 2):
            texts = [_answer(measured[key].texts.get(row_id)) for key in (one, other)]
            if all(texts) and texts[0] == texts[1]:
                alike.append((row_id, one, other))
            elif all(texts):
                number = len(pairs)
                pairs.append((row_id, one, other))
                rows += [
                    {"instruction": question, "generations": texts},
                    {"instruction": question, "generations": texts[::-1]},
                ]
                ids += [f"{number}+", f"{number}-"]
    return rows, ids, pairs, alike


def _n_waiting(candidates: Sequence[Candidate], measured: Mapping[str, Measured]) -> int:
    """Return how many pairs of answers are not there yet."""
    missing = {
        candidate.key: {row for row, why in measured[candidate.key].failures.items() if why == NOT_ASKED}
        for candidate in candidates
    }
    return sum(len(missing[one] | missing[other]) for one, other in combinations(missing, 2))


def _question(row: Row, columns: Sequence[str]) -> str:
    """Return what a row asks: its one column that prompts read, or all of them by name."""
    there = [name for name in columns if row.get(name) is not None]
    if len(there) == 1:
        return value_text(row[there[0]])
    return "\n".join(f"{name}: {value_text(row[name])}" for name in there)


def _answer(texts: Mapping[str, str] | None) -> str:
    if not texts:
        return ""
    if len(texts) == 1:
        return next(iter(texts.values()))
    return "\n\n".join(f"{name}:\n{text}" for name, text in texts.items())


def _free(graph: Graph) -> str:
    name, number = _JUDGE, 1
    while name in graph.steps:
        number += 1
        name = f"{_JUDGE}_{number}"
    return name

"""What a run would ask, as the reply cache tells it: which replies are there, which miss, which rows wait behind those.

The steps run on all rows, in this process, and nothing is asked. Of a row that lacks a reply nobody knows what follows:
it is *open* at every later step, and the rows that came through are the measure for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import NamedTuple

from distilnb.engine.preview import StepResult, preview_graph
from distilnb.engine.rendering import model_of
from distilnb.llms.base import LLM
from distilnb.llms.groups import requests_that_brought
from distilnb.llms.images import shown
from distilnb.llms.parts import Ask
from distilnb.llms.request import Message
from distilnb.llms.usage import Usage, image_tokens, usages_of
from distilnb.rows import Batch, root_id
from distilnb.spec.graph import Graph
from distilnb.spec.step import GlobalStep, Step
from distilnb.steps.filter import FilterRows
from distilnb.steps.function import MapRows
from distilnb.steps.route import RouteRows
from distilnb.tasks.base import Task

CHARACTERS_PER_TOKEN = 4  # of English, where a provider does not count


class Unsent(NamedTuple):
    """Replies of a row that a run will ask for: the length of its messages, and how many requests that takes."""

    n_characters: int
    n_replies: int
    n_requests: int = 1


class Answered(NamedTuple):
    """A row whose replies are in the cache; what was asked again for it is added up."""

    n_characters: int  # of the first request
    n_replies: int
    input_tokens: int
    output_tokens: int
    n_requests: int = 1
    n_first: int = 1  # of those, the ones that would have done if nothing had been asked again


class Use(NamedTuple):
    """What one row of the source comes to at one task."""

    n_requests: float = 0
    input_tokens: float = 0
    output_tokens: float = 0


@dataclass
class Outlook:
    """What is known of one task before a run.

    `per_row` has one entry for each row of the source that is known as far as here and comparable to the `n_open`
    ones; `scale` says for how many rows of the run each row that was looked at stands.
    """

    n_cached: float = 0
    unsent: list[Unsent] = field(default_factory=list)
    n_open: int = 0
    answered: list[Answered] = field(default_factory=list)
    per_row: list[Use] = field(default_factory=list)
    is_sieved: bool = False  # on the way to here steps may leave rows out on purpose
    scale: float = 1.0
    shares: list[tuple[LLM, Outlook]] = field(default_factory=list)  # of several models, what each is asked
    n_sendings: int = 1  # for one request that is counted: a conversation is asked for message by message


class RowsToRun(NamedTuple):
    """The rows of a source that are looked at, and how many a run would take."""

    batch: Batch
    n_rows: int


def foresee(
    graph: Graph,
    sampled: Mapping[str, StepResult],
    rows: Mapping[str, RowsToRun],
    *,
    too_slow: Collection[str] = (),
) -> dict[str, Outlook]:
    """Return the outlook of each task.

    `sampled` is what a preview made of the Sample. Steps that are `too_slow` for all rows, and those that need the
    replies to all rows at once, are not run: from there on the Sample is the only measure.
    """
    samples = {name: sampled[name].outgoing for name in rows}
    outside = {
        row_id
        for name, batch in samples.items()
        for row_id in set(batch.ids).difference(rows[name].batch.ids)
    }
    part = _part_to_run(graph, too_slow)
    together = {name: _with_sample(rows[name].batch, samples[name]) for name in rows if name in part.steps}
    looked = {result.name: result for result in preview_graph(part, together, asks=False)}
    found = {}
    for name, step in graph.steps.items():
        if isinstance(step, Task):
            of_sources = [rows[source] for source in rows if source in graph.ancestors(name)]
            scale = sum(r.n_rows for r in of_sources) / sum(len(r.batch) for r in of_sources)
            found[name] = _outlook(graph, name, looked, sampled, outside, scale)
            llm = model_of(step)
            for sender in {id(one): one for one in llm.senders()}.values() if llm.members else ():
                of_it = [
                    {**results, name: _share(results[name], sender)} if name in results else results
                    for results in (looked, sampled)
                ]
                share = _outlook(graph, name, of_it[0], of_it[1], outside, scale)
                found[name].shares.append((sender, share))
    return found


def _share(result: StepResult, llm: LLM) -> StepResult:
    """Return what one of a step's models has to do with its result, as if the step had asked it alone."""
    share = StepResult(result.name, result.kind, result.incoming, result.outgoing)
    for row_id, asks in result.brought_by.items():
        its = [place for place, ask in enumerate(asks) if ask.llm is llm]
        share.brought[row_id] = share.replies[row_id] = tuple(result.brought[row_id][place] for place in its)
        share.brought_by[row_id] = tuple(asks[place] for place in its)
        requests = {id(asks[place].request): asks[place].request for place in its}
        share.messages[row_id] = tuple(message for one in requests.values() for message in one.messages)
    for row_id, missing in result.missing.items():
        if found := [one for one in missing if one.llm is llm]:
            share.missing[row_id] = found
    return share


def _part_to_run(graph: Graph, too_slow: Collection[str]) -> Graph:
    """Return the steps that can be run on all rows without asking, and lead to a task."""
    tasks = {name for name, step in graph.steps.items() if isinstance(step, Task)}
    cut = {
        name
        for name, step in graph.steps.items()
        if name in too_slow or (isinstance(step, GlobalStep) and tasks & graph.ancestors(name))
    }
    leading = tasks.union(*(graph.ancestors(name) for name in tasks))
    return graph.keeping(name for name in leading if name not in cut and not cut & graph.ancestors(name))


def _with_sample(batch: Batch, sample: Batch) -> Batch:
    """Return the rows of a run and those of the Sample that are not among them, which are evidence too."""
    known = set(batch.ids)
    more = sample.select([index for index, row_id in enumerate(sample.ids) if row_id not in known])
    if not more:
        return batch
    together = Batch([*batch.rows, *more.rows], [*batch.ids, *more.ids], [*batch.orders, *more.orders])
    return together.in_order()


def _outlook(
    graph: Graph,
    name: str,
    looked: Mapping[str, StepResult],
    sampled: Mapping[str, StepResult],
    outside: Collection[str],
    scale: float,
) -> Outlook:
    before = graph.ancestors(name)
    path = {*before, name}
    tasks = [step for step in looked if step in before and isinstance(graph.steps[step], Task)]
    edges = [a for a, b in graph.edges if a in looked and b in path and b not in looked]
    # Rows that came so far that what follows depends on a reply, or on a step that was not run on all of them.
    reached = _roots(row_id for step in tasks for row_id in looked[step].incoming.ids)
    reached |= _roots(row_id for step in edges for row_id in looked[step].outgoing.ids)
    results = looked if name in looked else sampled
    result = results[name]
    is_open = _roots(row_id for step in before if step in results for row_id in results[step].missing)
    if name not in looked:
        is_open |= _roots(result.missing)
        is_open |= reached - _roots(row_id for step in before for row_id in sampled[step].outgoing.ids)
    # Rows whose request is made of replies that miss: what came to that in others is the measure.
    made_of = _roots(row_id for row_id, missing in result.missing.items() if not all(m.keys for m in missing))
    if made_of:
        reached |= _roots(result.incoming.ids)
        is_open |= made_of
    uses = _uses(result)
    closed = reached - is_open - _roots(result.missing)
    unsent, n_repeated = _unsent(result, {*is_open, *outside})
    known = [row_id for row_id, replies in result.brought.items() if replies]
    known = [row_id for row_id in known if root_id(row_id) not in is_open and root_id(row_id) not in outside]
    return Outlook(
        n_cached=sum(_n_requests(result, row_id) for row_id in known) + n_repeated,
        unsent=unsent,
        n_open=len((reached & is_open).difference(outside)),
        answered=_answered(result),
        per_row=_per_row(uses, reached, closed),
        is_sieved=_is_sieved(graph, before, {*tasks, *edges}, looked),
        scale=scale,
        n_sendings=task.sendings_per_reply if isinstance(task := graph.steps[name], Task) else 1,
    )


def _unsent(result: StepResult, left_out: Collection[str]) -> tuple[list[Unsent], int]:
    """Return the requests that miss replies, and how many of them an equal one makes needless."""
    unsent: dict[bytes, Unsent] = {}
    n_repeated = 0
    for row_id, missing in result.missing.items():
        for llm, request, keys, n_requests in missing if root_id(row_id) not in left_out else ():
            if keys:
                n_repeated += keys[0] in unsent
                length = _length(request.messages, llm)
                unsent[keys[0]] = Unsent(length, len(keys), n_requests)
    return list(unsent.values()), n_repeated


def _per_row(uses: Mapping[str, Use], reached: Collection[str], closed: Collection[str]) -> list[Use]:
    """Return what each closed row came to; where rows were made by a global step, one that stands for all."""
    made = [use for root, use in uses.items() if root not in reached]
    if not made or not closed:
        return [uses.get(root, Use()) for root in closed]
    return [Use(*(sum(figures) / len(closed) for figures in zip(*made, strict=True)))]


def _is_sieved(
    graph: Graph, before: Collection[str], frontier: Collection[str], looked: Collection[str]
) -> bool:
    """Whether a step behind the last that is known may leave rows out on purpose."""
    behind = [name for name in before if name not in looked or graph.ancestors(name) & set(frontier)]
    return any(_may_leave_out(graph.steps[name]) for name in behind)


def _may_leave_out(step: Step) -> bool:
    if isinstance(step, (Task, MapRows)):
        return False
    is_ours = type(step).__module__.startswith("distilnb.")
    return not is_ours or step.runs_user_code or isinstance(step, (FilterRows, RouteRows, GlobalStep))


def _roots(row_ids: Iterable[str]) -> set[str]:
    return {root_id(row_id) for row_id in row_ids}


def _uses(result: StepResult) -> dict[str, Use]:
    """Return what each row of the source came to, of those that have replies here."""
    uses: dict[str, Use] = defaultdict(Use)
    for row_id, replies in result.brought.items():
        if replies:
            use, now = uses[root_id(row_id)], _use(result, row_id)
            uses[root_id(row_id)] = Use(*map(sum, zip(use, now, strict=True)))
    return dict(uses)


def _use(result: StepResult, row_id: str) -> Use:
    usages = [usage for _, usage in usages_of(result.brought[row_id], result.brought_by[row_id])]
    used = reduce(Usage.plus, usages, Usage())
    n_reasks = len(result.brought[row_id]) - len({id(ask) for ask in result.brought_by[row_id]})
    return Use(_n_first(result, row_id) + n_reasks, used.input_tokens, used.output_tokens)


def _n_requests(result: StepResult, row_id: str) -> int:
    """Return how many requests the replies of a row are from, re-asks aside."""
    return len({(id(ask.llm), id(ask.request)) for ask in result.brought_by[row_id]})


def _n_first(result: StepResult, row_id: str) -> int:
    """Return how many requests the replies of a row take at least."""
    asks: dict[tuple[int, int], list[Ask[LLM]]] = {}
    for ask in result.brought_by[row_id]:
        asks.setdefault((id(ask.llm), id(ask.request)), []).append(ask)
    return sum(map(requests_that_brought, asks.values()))


def _answered(result: StepResult) -> list[Answered]:
    found = []
    for row_id, replies in result.replies.items():
        if replies:
            use = _use(result, row_id)
            length = _length(result.messages[row_id], result.brought_by[row_id][0].llm)
            found.append(
                Answered(
                    length,
                    len(replies),
                    int(use.input_tokens),
                    int(use.output_tokens),
                    int(use.n_requests),
                    _n_first(result, row_id),
                )
            )
    return found


def _length(messages: Sequence[Message], llm: LLM) -> int:
    """Return how long messages are; an image is as long as a text of as many tokens."""
    n_characters = sum(len(shown(message.get("content"))) for message in messages)
    return n_characters + CHARACTERS_PER_TOKEN * image_tokens(llm, messages)

"""One version of a step on a few rows: what it made, what that took, and what the judges behind it say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import NamedTuple

from distilnb.engine.asked import Missing, cost_usd
from distilnb.engine.budget import DRAWN_TOKENS, USUAL_REPLY_TOKENS
from distilnb.engine.foresee import CHARACTERS_PER_TOKEN
from distilnb.engine.preview import StepResult, preview_graph
from distilnb.engine.rendering import model_of
from distilnb.llms.base import LLM
from distilnb.llms.images import shown
from distilnb.llms.prices import Price, price_of
from distilnb.llms.request import Message, Reply
from distilnb.llms.usage import image_tokens
from distilnb.pipeline.timing import Timed
from distilnb.pipeline.versions import prompt_steps, tasks_of
from distilnb.rows import Batch, Row
from distilnb.spec.graph import Graph
from distilnb.tasks.base import Task
from distilnb.view.text import value_text

_RATINGS = ("ratings", "rating", "result", "results", "score", "scores")
NOT_ASKED = "not asked yet"
_WHOLE = 1 << 40  # characters: a value is never cut before it is compared


class Quote(NamedTuple):
    """Requests that are still to be sent, and about what they cost in USD; None where a price is unknown."""

    requests: int = 0
    cost_usd: float | None = 0.0

    def plus(self, other: Quote) -> Quote:
        """Return both together."""
        costs = (self.cost_usd, other.cost_usd)
        return Quote(self.requests + other.requests, None if None in costs else sum(c or 0.0 for c in costs))


class Expense(NamedTuple):
    """Tokens (None where no reply tells them) and USD (None where a price is unknown)."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = 0.0

    def plus(self, replies: Sequence[Reply], cost: float | None) -> Expense:
        """Return it with further replies, and what these cost."""
        n_in, n_out = self.input_tokens, self.output_tokens
        if any(reply.output_tokens is not None for reply in replies):
            n_in = (n_in or 0) + sum(reply.input_tokens or 0 for reply in replies)
            n_out = (n_out or 0) + sum(reply.output_tokens or 0 for reply in replies)
        return Expense(n_in, n_out, None if cost is None or self.cost_usd is None else self.cost_usd + cost)


@dataclass
class Measured:
    """What a step did with rows. Mappings are by the id of the row that came in."""

    incoming: Batch = field(default_factory=Batch)
    texts: dict[str, dict[str, str]] = field(default_factory=dict)  # by row, then by column and place
    failures: dict[str, str] = field(default_factory=dict)  # why a row failed, or its replies are not known
    messages: dict[str, tuple[Message, ...]] = field(default_factory=dict)
    replies: dict[str, tuple[Reply, ...]] = field(default_factory=dict)
    cut_off: set[str] = field(default_factory=set)  # rows with a reply that hit the token limit
    partial: dict[str, str] = field(default_factory=dict)
    ratings: dict[str, float] = field(default_factory=dict)  # the mean of what judges say of a row
    n_missing: int = 0  # rows whose replies nobody has asked for
    asked: int = 0
    retries: int = 0  # of those asked
    reused: int = 0
    cost_usd: float | None = 0.0  # of what was asked now
    quote: Quote = field(default_factory=Quote)
    brought: list[StepResult] = field(default_factory=list)  # the steps, for what their replies took

    @property
    def answered(self) -> set[str]:
        """The rows that have all their replies, and did not fail."""
        return {row_id for row_id in self.replies if row_id not in self.failures}

    def used(self, rows: Collection[str]) -> Expense:
        """Return what the replies of these rows took, whenever they were paid for."""
        total = Expense()
        for result in self.brought:
            replies = [
                reply for row_id in result.brought if row_id in rows for reply in result.brought[row_id]
            ]
            by = [ask for row_id in result.brought if row_id in rows for ask in result.brought_by[row_id]]
            total = total.plus(replies, cost_usd(replies, by))
        return total

    def rating(self, rows: Collection[str]) -> float | None:
        """Return the mean rating of these rows; None where none has one."""
        found = [rating for row_id, rating in self.ratings.items() if row_id in rows]
        return mean(found) if found else None


def measure(
    graph: Graph,
    step: str,
    samples: Mapping[str, Batch],
    *,
    asks: bool = True,
    judges: bool | Collection[str] = True,
    timed: Timed | None = None,
) -> Measured:
    """Run the graph up to a step, and the judges that read what it makes (all, none, or these), on these rows.

    Unless it `asks`, what the reply cache does not hold is missing, and quoted. `timed` keeps how long requests took.
    """
    watching = judges_of(graph, step) if judges else {}
    if not isinstance(judges, bool):
        watching = {name: columns for name, columns in watching.items() if name in judges}
    wanted = {step, *watching}
    wanted |= set().union(*(graph.ancestors(name) for name in wanted))
    results = {}
    for result in preview_graph(graph.keeping(wanted), samples, asks=asks):
        results[result.name] = result
        if timed:
            timed.note(result)
    measured = of_step(graph, step, results)
    if not asks:
        measured.quote = quote_of(graph, results)
    owners = Owners(measured.incoming.ids)
    ratings: dict[str, list[float]] = defaultdict(list)
    for judge, columns in watching.items():
        batch = results[judge].outgoing
        for row, row_id in zip(batch.rows, batch.ids, strict=True):
            for column in columns:
                ratings[owners.of(row_id)] += _numbers(row.get(column))
    measured.ratings = {row_id: mean(found) for row_id, found in ratings.items() if found and row_id}
    for result in results.values():
        measured.asked += int(result.counts.get("asked", 0))
        measured.retries += int(result.counts.get("retries", 0))
        measured.reused += int(result.counts.get("cached", 0))
        cost = result.counts.get("cost_usd", 0.0) if result.is_priced else None
        measured.cost_usd = (
            None if cost is None or measured.cost_usd is None else measured.cost_usd + float(cost)
        )
    return measured


def judges_of(graph: Graph, step: str) -> dict[str, list[str]]:
    """Return the tasks behind a step that rate what comes to them, each with the columns of its ratings."""
    found: dict[str, list[str]] = {}
    for name, task in graph.steps.items():
        if isinstance(task, Task) and step in graph.ancestors(name) and (columns := rating_columns(task)):
            found[name] = columns
    return found


def rating_columns(task: Task) -> list[str]:
    """Return the columns of a task that hold ratings, as they are called downstream."""
    return [task.output_mappings.get(name, name) for name in task.outputs if name in _RATINGS]


def text_columns(graph: Graph, step: str) -> list[str]:
    """Return the columns that a step makes of replies, without those that name the model."""
    task = tasks_of(graph, step)[0]
    model = task.output_mappings.get("model_name", "model_name")
    return [name for name in task.made() if name != model]


def read_first(row: Row, columns: Collection[str]) -> Row:
    """Return a row with these columns before the others: what prompts read tells a reader which row it is."""
    return {**{name: row[name] for name in columns if name in row}, **row}


class Owners:
    """Finds the row that came in for the id of one that was made of it: the same, or with child indices behind it."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._ids = set(ids)

    def of(self, row_id: str) -> str:
        """Return that row's id, "" where none is known."""
        while row_id and row_id not in self._ids:
            row_id = row_id.rpartition(".")[0]
        return row_id


def of_step(graph: Graph, step: str, results: Mapping[str, StepResult]) -> Measured:
    """Return what a step did, of the results of a preview that went as far as it."""
    names = prompt_steps(graph)[step]
    parts = [results[name] for name in names]
    measured = Measured(incoming=parts[0].incoming)
    owners = Owners(measured.incoming.ids)
    columns = text_columns(graph, step)
    outgoing = results[step].outgoing
    for row, row_id in zip(outgoing.rows, outgoing.ids, strict=True):
        texts = measured.texts.setdefault(owners.of(row_id), {})
        texts.update(_texts_of(row, columns, len(texts)))
    for result in [*parts, *([] if step in names else [results[step]])]:
        for failure in result.failures:
            kept = measured.partial if failure.is_partial else measured.failures
            kept.setdefault(owners.of(failure.row_id), failure.reason)
        for row_id in result.missing:
            measured.failures.setdefault(row_id, NOT_ASKED)
    measured.n_missing = len(set().union(*(result.missing for result in parts)))
    _add_replies(measured, parts)
    return measured


def _texts_of(row: Row, columns: Sequence[str], n_before: int) -> dict[str, str]:
    """Return the texts of a row, by column and by the place in a list; `n_before` are there of rows made beside it."""
    found: dict[str, str] = {}
    for column in columns:
        value = row.get(column)
        name = column if not n_before else f"{column} ({n_before + 1})"
        if isinstance(value, list) and len(value) != 1:
            found.update({f"{name}[{i}]": value_text(item, _WHOLE) for i, item in enumerate(value)})
        else:
            found[name] = value_text(value[0] if isinstance(value, list) else value, _WHOLE)
    return found


def _add_replies(measured: Measured, parts: Sequence[StepResult]) -> None:
    measured.brought = list(parts)
    for result in parts:
        for row_id, replies in result.replies.items():
            if not replies:
                continue
            measured.messages.setdefault(row_id, result.messages[row_id])
            measured.replies[row_id] = (*measured.replies.get(row_id, ()), *replies)
            if any(reply.is_truncated for reply in replies):
                measured.cut_off.add(row_id)


def _numbers(value: object) -> list[float]:
    values = value if isinstance(value, list) else [value]
    return [float(one) for one in values if isinstance(one, (int, float)) and not isinstance(one, bool)]


# --- what is still to be asked ----------------------------------------------------


def quote_of(graph: Graph, results: Mapping[str, StepResult]) -> Quote:
    """Return what the steps still ask: each lacking row once, also where it waits for a step before."""
    total = Quote()
    for name, result in results.items():
        task = graph.steps[name]
        if isinstance(task, Task):
            before = graph.ancestors(name)
            waiting = {row for step in before if step in results for row in results[step].missing}
            replies = [reply for found in result.brought.values() for reply in found]
            sent = list(result.messages.values())
            total = total.plus(quote_missing(task, result.missing, sent, len(waiting), replies))
    return total


def quote_missing(
    task: Task,
    missing: Mapping[str, Sequence[Missing]],
    sent: Sequence[tuple[Message, ...]],
    n_waiting: int,
    replies: Sequence[Reply] = (),
) -> Quote:
    """Return the quote for requests of a task: those that are `missing`, and `n_waiting` that cannot be told yet.

    What was sent and answered already is the measure for the length of what is not.
    """
    lacking = [one for of_row in missing.values() for one in of_row]
    llms = [one.llm for one in lacking] or [*model_of(task).senders()]
    n_each = -(-task.num_generations // (llms[0].max_n or task.num_generations))
    n_missing = sum(
        -(-len(one.keys) // (one.llm.max_n or len(one.keys))) if one.keys else 1 for one in lacking
    )
    n_requests = n_missing + n_waiting * n_each
    prices = [price for llm in llms if (price := price_of(llm)) is not None]
    if not n_requests or len(prices) < len(llms):
        return Quote(n_requests, None if n_requests else 0.0)
    # Of several models about their share, as far as the requests that are known tell it.
    price = Price(*map(mean, zip(*prices, strict=True)))
    known_out = [reply.output_tokens for reply in replies if reply.output_tokens is not None]
    is_drawn = task.asks_for == "image"
    usual = DRAWN_TOKENS if is_drawn else USUAL_REPLY_TOKENS
    out_each = (mean(known_out) if known_out else usual) * task.num_generations / n_each
    texts = [one.request.messages for one in lacking] or list(sent)
    by = [one.llm for one in lacking] or [llms[0]] * len(sent)
    in_each = mean(map(_tokens, texts, by)) if texts else USUAL_REPLY_TOKENS
    n_drawn = n_requests * is_drawn * task.num_generations / n_each
    return Quote(n_requests, price.cost_usd(in_each * n_requests, out_each * n_requests, n_requests, n_drawn))


def _tokens(messages: Sequence[Message], llm: LLM) -> float:
    """Return about how many tokens messages come to: by bytes, as a character of Chinese is more than a letter."""
    n_bytes = sum(len(shown(message.get("content")).encode("utf-8", "replace")) for message in messages)
    return n_bytes / CHARACTERS_PER_TOKEN + image_tokens(llm, messages)

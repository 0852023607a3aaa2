"""The preview: the pipeline's steps on a few rows, asked from the kernel, with the replies that a run will reuse.

It runs in an event loop of its own thread, so that it works where a loop is running already, and an interrupt
reaches the caller at once.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import functools
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from distilnb.engine.apply import Failure, Outcome, append, apply_step
from distilnb.engine.apply_global import apply_global
from distilnb.engine.ask import Asker
from distilnb.engine.ask_worker import add_asked
from distilnb.engine.asked import Asked, FatalModelError, Missing
from distilnb.engine.budget import Budget
from distilnb.engine.cache import ReplyCache
from distilnb.engine.join import Joiner
from distilnb.engine.models import Models
from distilnb.engine.rendering import model_of
from distilnb.engine.repeats import Repeats
from distilnb.engine.routing import route_rows
from distilnb.engine.row_cache import RowCache
from distilnb.llms.base import LLM
from distilnb.llms.parts import Ask
from distilnb.llms.request import Message, Reply
from distilnb.rows import Batch, IdMaker
from distilnb.spec.graph import Graph
from distilnb.spec.step import GeneratorStep, GlobalStep, Step
from distilnb.steps.route import RouteRows
from distilnb.tasks.base import Task

T = TypeVar("T")

WORDS_EVERY_S = 0.5


@dataclass
class StepResult:
    """What one step did with the sample."""

    name: str
    kind: str
    incoming: Batch = field(default_factory=Batch)
    outgoing: Batch = field(default_factory=Batch)
    failures: list[Failure] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)
    drop_reasons: dict[str, int] = field(default_factory=dict)
    messages: dict[str, tuple[Message, ...]] = field(default_factory=dict)  # by id of the incoming row
    replies: dict[str, tuple[Reply, ...]] = field(default_factory=dict)
    brought: dict[str, tuple[Reply, ...]] = field(
        default_factory=dict
    )  # replies, and those that re-asks replaced
    brought_by: dict[str, tuple[Ask[LLM], ...]] = field(
        default_factory=dict
    )  # the request that brought each of these
    # What a look at the cache alone found missing, by id of the incoming row.
    missing: dict[str, list[Missing]] = field(default_factory=dict)
    why_stood_in: str = ""  # what kept a model from giving a reply that its backup gave
    seconds: float = 0.0
    is_priced: bool = True
    words: str = ""  # what its model is at ("loading …"), while rows wait for it


OnRow = Callable[[StepResult], None]  # called as each row of a task ends, with the result so far


def preview_graph(
    graph: Graph, samples: Mapping[str, Batch], *, on_row: OnRow | None = None, asks: bool = True
) -> Iterator[StepResult]:
    """Run the steps on the sample rows of each source and yield each step's result as it is complete.

    Unless it `asks`, rows whose replies the cache does not hold stay at their task: they are `missing` there.

    Raises what ends a run too: a refused key, a failing `load`, a cache that cannot be written.
    """
    results: dict[str, StepResult] = {}
    repeats = Repeats()
    try:
        for name in graph.order():
            result = results[name] = StepResult(name, graph.steps[name].kind())
            began = time.perf_counter()
            inputs = [results[before].outgoing for before in graph.predecessors(name)]
            if not graph.is_join(name):  # a join tells itself which rows were routed past it
                inputs = [batch.taken_by(name) for batch in inputs]
            _run_step(graph, graph.steps[name], result, inputs, samples, repeats, on_row, asks)
            result.seconds = time.perf_counter() - began
            yield result
    finally:
        repeats.close()


def _run_step(
    graph: Graph,
    step: Step,
    result: StepResult,
    inputs: list[Batch],
    samples: Mapping[str, Batch],
    repeats: Repeats,
    on_row: OnRow | None,
    asks: bool,
) -> None:
    if isinstance(step, GeneratorStep):
        result.outgoing = samples[step.name]
        result.counts = {"made": len(result.outgoing)}
        return
    step = step.model_copy()  # `load` puts live things into the copy, never into the user's object
    step.load()
    try:
        if isinstance(step, Task):
            _ask(step, result, inputs[0], repeats, on_row, asks)
        elif isinstance(step, GlobalStep):
            _take(result, inputs[0], apply_global(step, inputs, IdMaker(step.name).make))
        elif graph.is_join(step.name):
            columns = [known.names for known in graph.columns_before(step.name)]
            _take(result, inputs[0].taken_by(step.name), _join(step, inputs, columns))
        else:
            _take(result, inputs[0], _apply(step, inputs[0]))
    finally:
        step.unload()


def _apply(step: Step, batch: Batch) -> Outcome:
    if isinstance(step, RouteRows):
        return route_rows(step, batch)
    if not step.cache:
        return apply_step(step, batch)
    results = RowCache()
    try:
        return results.apply(step, batch, apply_step)
    finally:
        results.close()


def _join(step: Step, inputs: list[Batch], columns: Sequence[Sequence[str]]) -> Outcome:
    joiner = Joiner(step, columns, inputs.__getitem__)
    for index, batch in enumerate(inputs):
        joiner.add(index, index, range(len(batch) + len(batch.gone)))
    total = Outcome()
    for outcome, _ in joiner.release_rest():  # all are there: complete or not, nothing more comes
        append(total, outcome)
    return total


def _take(result: StepResult, incoming: Batch, outcome: Outcome) -> None:
    result.incoming, result.outgoing = incoming, outcome.batch.in_order()
    result.failures = outcome.failures
    result.counts = outcome.counts.get(result.name, {})
    result.drop_reasons = outcome.drop_reasons.get(result.name, {})


def _ask(
    task: Task, result: StepResult, incoming: Batch, repeats: Repeats, on_row: OnRow | None, asks: bool
) -> None:
    outcome = Outcome()
    outcome.batch.gone = list(incoming.gone)

    def done(index: int, asked: Asked) -> None:
        row_id = incoming.ids[index]
        add_asked(outcome, task, incoming, index, asked)
        result.messages[row_id], result.replies[row_id] = asked.messages, asked.replies
        result.brought[row_id], result.brought_by[row_id] = asked.brought, asked.brought_by
        result.why_stood_in = result.why_stood_in or asked.why_stood_in
        result.is_priced = result.is_priced and asked.cost_usd is not None
        if on_row:
            _take(result, incoming, outcome)
            on_row(result)

    def miss(index: int, missing: Sequence[Missing]) -> None:
        result.missing[incoming.ids[index]] = list(missing)

    async def tell_words(models: Models) -> None:
        assert on_row is not None
        while True:
            await asyncio.sleep(WORDS_EVERY_S)
            if result.words != (words := _words(models, task)):
                result.words = words
                on_row(result)

    async def ask() -> None:
        if asks:  # models outlive a preview; what a key or a server lacked may be there now
            _models().try_again()
        asker = Asker(_cache(), _models(), Budget(), repeats, probes=asks)
        telling = asyncio.ensure_future(tell_words(asker.models)) if on_row else None
        rows = range(len(incoming.rows))
        try:
            await asker.ask_rows(task, incoming, rows, done, on_missing=None if asks else miss)
        finally:
            if telling:
                telling.cancel()

    _take(result, incoming, outcome)
    try:
        run_in_loop(ask())
    except FatalModelError as fatal:
        raise fatal.error from fatal
    result.words = ""
    _take(result, incoming, outcome)


def _words(models: Models, task: Task) -> str:
    """Return what the requests of a task wait for; "" when it is nothing but its models."""
    return "; ".join(filter(None, (models.words(llm) for llm in model_of(task).senders())))


# --- one event loop a process, kept for warm connections ------------------------


@functools.lru_cache(maxsize=1)
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="distilnb-preview", daemon=True).start()
    return loop


@functools.lru_cache(maxsize=1)
def _models() -> Models:
    models = Models()
    # aiohttp complains at the end of the process about connections that nobody closed.
    atexit.register(lambda: run_in_loop(models.close()))
    return models


def reply_seconds(llm: LLM) -> list[float]:
    """Return how long a model took for each of its last answers in this process, in seconds."""
    return [seconds for one in llm.senders() for seconds in _models().reply_seconds(one)]


def _cache() -> ReplyCache:
    return _open_cache(str(ReplyCache.default_path()))


@functools.lru_cache(maxsize=1)
def _open_cache(path: str) -> ReplyCache:  # keyed by path: DISTILNB_HOME may change in a process
    return ReplyCache()


def run_in_loop(work: Awaitable[T]) -> T:
    """Run a coroutine in the preview's loop and wait for it; Ctrl-C cancels it."""

    async def wrapped() -> T:
        return await work

    future = asyncio.run_coroutine_threadsafe(wrapped(), _loop())
    try:
        while True:
            try:
                # In short waits: a wait without end cannot be interrupted on every platform.
                return future.result(timeout=0.2)
            except concurrent.futures.TimeoutError:
                if future.done():
                    raise
    except KeyboardInterrupt:
        future.cancel()
        raise


def warm_up() -> None:
    """Import ahead, in a thread, what the first preview needs."""

    def load() -> None:
        import aiohttp  # noqa: F401
        import jinja2.sandbox  # noqa: F401

        _loop()

    threading.Thread(target=load, name="distilnb-warm-up", daemon=True).start()

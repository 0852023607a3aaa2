"""How a pipeline stands before a run: which replies are there already, and which steps were edited since the last look.

It is for a repr: nothing is asked, no code of the user runs, no source is read that may be large, and what takes too
long is left out. The reply cache tells what is there; where it cannot, for want of the rows that will come, what the
last preview noted does. Digests tell beside the noted ones whether a step, or something before it, has changed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from distilnb.engine.preview import StepResult, preview_graph
from distilnb.engine.sample import draw_rows, stored_sample
from distilnb.errors import DistilnbError
from distilnb.home import folder_name, home, private_folder
from distilnb.rows import Batch, dump_json, load_json, write_text
from distilnb.spec.digest import digest_of
from distilnb.spec.graph import Graph
from distilnb.spec.inline import named_by_number
from distilnb.spec.registry import user_code
from distilnb.spec.step import GeneratorStep, GlobalStep, Step
from distilnb.tasks.base import Task

MAX_ROWS = 500  # of a source that is looked at as a whole; of a larger one the Sample is
MAX_CHARACTERS = 2_000_000  # of those rows, as far as their first ones tell
PATIENCE_S = 0.25
_FILE = "standing.json"
_FORMAT = 1


@dataclass(frozen=True)
class Standing:
    """How one step stands. Of a step that asks a model, `cached` of `looked_at` rows have their replies."""

    n_rows: int | None = None  # of a source, where it tells
    asks: bool = False
    looked_at: int | None = None  # None: nobody knows yet which rows will come
    cached: int = 0
    failed: int = 0  # of those, rows whose reply cannot be used; of another step, in the last preview
    total: int | None = None  # rows that will come, where each row of the source does
    is_of_sample: bool = False  # the rows looked at are the Sample's
    is_edited: bool = False  # the step is another one than at the last preview or start
    is_stale: bool = False  # it, or something before it, is
    spent_usd: float = 0.0  # by previews of just this


class _Noted(NamedTuple):
    """What was noted of a step last: digests of itself and of all up to it, rows that came and failed, USD spent."""

    own: str
    chain: str
    n_rows: int = 0
    n_failed: int = 0
    spent_usd: float = 0.0


def standing(pipeline: str, graph: Graph) -> dict[str, Standing]:
    """Return how each step stands, as far as it can be told in about `PATIENCE_S`. Never raises."""
    try:
        known = _compared(graph, _read(pipeline))
    except Exception:  # noqa: BLE001 - a repr shows a wrong pipeline too: that is when one looks
        return {}
    try:
        return {**known, **_looked_up(pipeline, graph, known)}
    except Exception:  # noqa: BLE001 - a missing key, a damaged cache: who asks is told, who looks is not
        return known


def note(pipeline: str, graph: Graph, results: Iterable[StepResult] = ()) -> None:
    """Note that the user has seen these results, or ordered this graph's: later changes are told from here.

    Many rows that are given in the program are told by their number, so that nobody waits for their digest.
    """
    noted = _read(pipeline)
    by_name = {result.name: result for result in results}
    for name, now in _digests(graph).items():
        before, result = noted.get(name), by_name.get(name)
        is_same = before is not None and before.chain == now.chain
        if result is not None:
            spent = result.counts.get("cost_usd", 0.0) + (before.spent_usd if before and is_same else 0.0)
            n_failed = sum(not failure.is_partial for failure in result.failures)
            noted[name] = now._replace(n_rows=len(result.incoming), n_failed=n_failed, spent_usd=spent)
        elif not is_same:
            noted[name] = now
    try:
        folder = private_folder("pipelines", folder_name(pipeline))
        write_text(folder / _FILE, dump_json({"format": _FORMAT, "steps": noted}))
    except (OSError, DistilnbError):  # it only marks what has changed
        pass


# --- what has changed -------------------------------------------------------------------------------------------------


def _compared(graph: Graph, noted: Mapping[str, _Noted]) -> dict[str, Standing]:
    found = {}
    for name, now in _digests(graph).items():
        step, before = graph.steps[name], noted.get(name)
        asks = isinstance(step, Task)
        found[name] = Standing(
            n_rows=step.n_rows() if isinstance(step, GeneratorStep) else None,
            asks=asks,
            is_edited=bool(before and before.own != now.own),
            is_stale=bool(before and before.chain != now.chain),
        )
        if before and before.chain == now.chain:
            n_rows = before.n_rows if asks and before.n_rows else None
            found[name] = replace(
                found[name],
                looked_at=n_rows,
                cached=n_rows or 0,
                failed=before.n_failed,
                is_of_sample=True,
                spent_usd=before.spent_usd,
            )
    return found


def _digests(graph: Graph) -> dict[str, _Noted]:
    found: dict[str, _Noted] = {}
    with named_by_number():
        for name in graph.order():
            step = graph.steps[name]
            before = [found[one].chain for one in graph.predecessors(name)]
            content = step.fingerprint() if isinstance(step, GeneratorStep) else ""
            found[name] = _Noted(step.digest, digest_of([step.digest, content, before]))
    return found


def _read(pipeline: str) -> dict[str, _Noted]:
    path = home() / "pipelines" / folder_name(pipeline) / _FILE
    try:
        data: Any = load_json(path.read_text(encoding="utf-8"))
        steps = data["steps"] if data["format"] == _FORMAT else {}
        return {name: _Noted(*fields) for name, fields in steps.items()}
    except (OSError, KeyError, TypeError, ValueError, AttributeError, DistilnbError):
        return {}  # none yet, or damaged: it is noted anew


# --- what is there ----------------------------------------------------------------------------------------------------


def _looked_up(pipeline: str, graph: Graph, known: Mapping[str, Standing]) -> dict[str, Standing]:
    """Return the standing of the tasks that the reply cache can tell of."""
    if not (home() / "cache").is_dir():  # a look makes no files, and then nothing is there
        return {}
    sources = [step for step in graph.steps.values() if isinstance(step, GeneratorStep)]
    is_of_sample = not all(_is_small(source) for source in sources)
    rows = {}
    for source in sources:
        rows[source.name] = (
            stored_sample(pipeline, source) if is_of_sample else draw_rows(source, MAX_ROWS)[0]
        )
    part = _part(graph, {name for name, batch in rows.items() if batch})
    deadline = time.monotonic() + PATIENCE_S
    found = {}
    for result in preview_graph(part, rows, asks=False):
        if isinstance(part.steps[result.name], Task):
            n_in = len(result.incoming)
            found[result.name] = replace(
                known[result.name],
                looked_at=n_in,
                cached=n_in - len(result.missing),
                failed=sum(not failure.is_partial for failure in result.failures),
                total=None if is_of_sample else _total(graph, result.name, rows),
                is_of_sample=is_of_sample,
            )
        if time.monotonic() > deadline:
            break
    return found


def _is_small(source: GeneratorStep) -> bool:
    n_rows = source.n_rows()
    if user_code(source) or n_rows is None or n_rows > MAX_ROWS:
        return False
    first = source.peek(20) if hasattr(source, "peek") else []
    return sum(len(str(row)) for row in first) / max(1, len(first)) * n_rows <= MAX_CHARACTERS


def _part(graph: Graph, sources: Iterable[str]) -> Graph:
    """Return the steps that can be run on rows of these sources at no risk: ours, cheap, without code of the user."""
    fit = set(sources)
    for name in graph.order():
        before = graph.predecessors(name)
        if before and fit.issuperset(before) and _is_harmless(graph.steps[name]):
            fit.add(name)
    return graph.keeping(fit)


def _is_harmless(step: Step) -> bool:
    is_row_step = not isinstance(step, (GlobalStep, GeneratorStep)) and not step.cache
    return is_row_step and not user_code(step)


def _total(graph: Graph, name: str, rows: Mapping[str, Batch]) -> int | None:
    """Return how many rows will come, where nothing before makes more or fewer of them."""
    before = graph.ancestors(name)
    between = [graph.steps[one] for one in before if one not in rows]
    sources = [one for one in before if one in rows]
    is_plain = all(isinstance(step, Task) and not step.expands() for step in between)
    return len(rows[sources[0]]) if is_plain and len(sources) == 1 else None

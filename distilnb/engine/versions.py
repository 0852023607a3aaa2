"""Versions of steps in a run: the plan's own is 1, each `retry(using=...)` that edits steps adds the next.

<run directory>/versions/<number>/
steps.json       the edited steps alone
code.pkl         the code that they need
pipeline.yaml    the edited pipeline as its user wrote it
version.json     when, the digest of each step, where its literal keys belong, where the others are from
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from distilnb.engine.building import literal_secrets, read_steps, write_steps
from distilnb.engine.keys import key_sources, secrets_to_send
from distilnb.engine.plan import Plan
from distilnb.engine.rundir import RunDir
from distilnb.errors import RunError, UnknownStepError
from distilnb.rows import write_text
from distilnb.spec.graph import Graph
from distilnb.spec.step import GeneratorStep, GlobalStep, Step
from distilnb.tasks.base import Task

_FOLDER = "versions"
FIRST = 1  # the plan's own steps


class Edited(NamedTuple):
    """A version of some steps: its number, their digests, where its keys belong, and when it was first used."""

    number: int
    steps: dict[str, str]  # name → digest
    secrets: list[str]  # places of literal keys, as `versions/<number>/<step>.<field>`
    at: float  # seconds since the epoch
    keys: Mapping[str, str] = MappingProxyType({})  # place → where the key is from; none for literal ones


def folder_of(run: RunDir, number: int) -> Path:
    """Return the folder of a version."""
    return run.path / _FOLDER / str(number)


def names_in(folder: Path) -> list[str]:
    """Return the steps that a folder holds."""
    return list(_dumps(folder))


def read_versions(run: RunDir) -> list[Edited]:
    """Return the versions that retries have added, oldest first."""
    found = [
        Edited(**json.loads(path.read_text("utf-8"))) for path in run.path.glob(f"{_FOLDER}/*/version.json")
    ]
    return sorted(found)


def read_version_steps(
    run: RunDir, number: int, names: Iterable[str], secrets: Mapping[str, str]
) -> dict[str, Step]:
    """Build the edited steps of a version in a worker; this runs the user's code."""
    start = f"{_FOLDER}/{number}/"
    own = {path.removeprefix(start): key for path, key in secrets.items() if path.startswith(start)}
    return read_steps(folder_of(run, number), names, own)


def plan_secrets(secrets: Mapping[str, str]) -> dict[str, str]:
    """Return the keys that belong to the plan's own steps."""
    return {path: key for path, key in secrets.items() if not path.startswith(f"{_FOLDER}/")}


# --- a new version --------------------------------------------------------------


def check_upstream(plan: Plan, graph: Graph, failed: Iterable[str]) -> None:
    """Raise RunError when a failed step of the run has other steps before it in `graph`, naming the first of them."""
    known: dict[str, str] | None = plan.options.get("digests")
    if known is None:
        raise RunError(
            "This run was started by an earlier version of distilnb, which kept no digests of its steps.",
            "Start the edited pipeline: what is unchanged comes from the reply cache.",
        )
    before = {name: list(names) for name, names in plan.options["before"].items()}
    for name in failed:
        if name not in graph.steps:
            raise UnknownStepError(
                f"Step {name!r} has failed rows, but the pipeline given has no such step; it has {list(graph.steps)}.",
                "Name the step to retry: run.retry(step=..., using=...).",
            )
        _check_same_before(name, graph, known, before)


def _check_same_before(
    name: str, graph: Graph, known: Mapping[str, str], before: Mapping[str, Sequence[str]]
) -> None:
    upstream = {name, *_reach(name, before), *graph.ancestors(name)}
    for step in [step for step in (*graph.order(), *known) if step in upstream]:
        if step != name and (step not in known or step not in graph.steps):
            where = "the run" if step in known else "the pipeline given"
            raise _differs(name, f"step {step!r} is in {where} only")
        if list(before[step]) != graph.predecessors(step):
            raise _differs(
                name,
                f"step {step!r} reads {graph.predecessors(step)} there, and {list(before[step])} in the run",
            )
        if step != name and known[step] != graph.steps[step].digest:
            raise _differs(name, f"step {step!r} is another there")


def _reach(name: str, before: Mapping[str, Sequence[str]]) -> set[str]:
    found: set[str] = set()
    todo = list(before.get(name, ()))
    while todo:
        current = todo.pop()
        if current not in found:
            found.add(current)
            todo += before[current]
    return found


def _differs(name: str, what: str) -> RunError:
    return RunError(
        f"The failed rows of step {name!r} came by other steps than those of the pipeline given: {what}.",
        "Upstream of a failed step nothing may differ. Retry one step at a time (step=...), "
        "or start the edited pipeline: what is unchanged comes from the reply cache.",
    )


def add_version(
    run: RunDir,
    plan: Plan,
    graph: Graph,
    failed: Sequence[str],
    *,
    text: str,
    held_keys: Mapping[str, str] | None,
) -> dict[str, int]:
    """Write the edited ones among the failed steps; returns the version that is to do each failed step's rows.

    `held_keys` are the literal keys that a living runner holds, None when a new runner will be given all.
    """
    versions = read_versions(run)
    sources = run_key_sources(run, plan)
    dumps = {FIRST: _dumps(run.path), **{v.number: _dumps(folder_of(run, v.number)) for v in versions}}
    chosen: dict[str, int] = {}
    new: list[str] = []
    for name in failed:
        step = graph.steps[name]
        _check_kind(plan, step)
        dump = json.loads(json.dumps(step.dump(), ensure_ascii=False))
        equal = [number for number, steps in dumps.items() if steps.get(name) == dump]
        part = graph.keeping([name])
        secret = secrets_to_send(part)
        found = {} if literal_secrets(part) else sources
        if (equal and not secret) or (equal and _has_keys(max(equal), secret, held_keys, found)):
            chosen[name] = max(equal)
        else:
            new.append(name)
    if new:
        part = graph.keeping(new)
        if held_keys is not None and secrets_to_send(part):
            raise RunError(
                f"The edited steps {new} hold keys that the workers cannot find by themselves (given literally, or "
                "from Colab's secrets or the keyring); a run that is going takes none.",
                "Stop it first: run.stop(), then run.retry(...); or let the key come from the environment.",
            )
        number = _write_version(run, part, text)
        chosen.update(dict.fromkeys(new, number))
    return chosen


def version_secrets(graph: Graph, versions: Mapping[str, int]) -> dict[str, str]:
    """Return the keys of edited steps that workers cannot find by themselves, each under its place in the run."""
    found: dict[str, str] = {}
    for name, number in versions.items():
        start = "" if number == FIRST else f"{_FOLDER}/{number}/"
        for path, key in secrets_to_send(graph.keeping([name])).items():
            found[start + path] = key
    return found


def run_key_sources(run: RunDir, plan: Plan) -> dict[str, str]:
    """Return where the keys of a run are from, by their place: those of its plan, and of the versions of its steps."""
    found = dict(plan.options.get("keys", {}))
    for version in read_versions(run):
        found.update(version.keys)
    return found


def _has_keys(
    number: int, secrets: Mapping[str, str], held: Mapping[str, str] | None, found: Mapping[str, str]
) -> bool:
    """Whether a version can be used with these keys: by a new runner always, by a living one that holds them.

    Those at the places in `found` a living one was given when it was started, or its workers found them.
    """
    start = "" if number == FIRST else f"{_FOLDER}/{number}/"
    return held is None or all(
        start + path in found or held.get(start + path) == key for path, key in secrets.items()
    )


def _check_kind(plan: Plan, step: Step) -> None:
    """Raise when rows could not go through the run as those before them did."""
    is_same = isinstance(step, Task) == (plan.stage_of(step.name).kind == "ask")
    if not is_same or isinstance(step, (GlobalStep, GeneratorStep)):
        raise RunError(
            f"Step {step.name!r} is a {step.kind()} in the pipeline given, and a "
            f"{plan.options['kinds'][step.name]} in the run.",
            "Start the edited pipeline: what is unchanged comes from the reply cache.",
        )
    from distilnb.steps.route import RouteRows  # workers read versions too, and have no use for it

    if isinstance(step, RouteRows):
        there = [stage.steps[0] for stage in plan.consumers(plan.stage_of(step.name).name)]
        unknown = sorted({name for names in step.branches.values() for name in names}.difference(there))
        if unknown:
            raise RunError(
                f"Route {step.name!r} sends rows to {unknown} in the pipeline given; in the run {there} follow it.",
                "Start the edited pipeline: what is unchanged comes from the reply cache.",
            )
    was = plan.options["expands"].get(step.name, False)
    if was != step.expands():
        raise RunError(
            f"Step {step.name!r} makes {'one row' if was else 'several rows'} of one in the pipeline given, "
            f"and {'several' if was else 'one'} in the run.",
            "Start the edited pipeline: what is unchanged comes from the reply cache.",
        )


def _dumps(folder: Path) -> dict[str, Any]:
    steps = json.loads((folder / "steps.json").read_text(encoding="utf-8"))
    return {step["name"]: step for step in steps}


def _write_version(run: RunDir, graph: Graph, text: str) -> int:
    """Write a version under the next number; it appears whole or not at all."""
    parent = run.path / _FOLDER
    parent.mkdir(mode=0o700, exist_ok=True)
    draft = parent / f".{os.getpid()}-{time.time_ns()}"
    draft.mkdir(mode=0o700)
    try:
        write_steps(draft, graph)
        write_text(draft / "pipeline.yaml", text)
        number = FIRST + 1
        while True:
            version = Edited(
                number,
                {name: step.digest for name, step in graph.steps.items()},
                [f"{_FOLDER}/{number}/{path}" for path in sorted(literal_secrets(graph))],
                time.time(),
                {f"{_FOLDER}/{number}/{path}": source for path, source in key_sources(graph).items()},
            )
            write_text(draft / "version.json", json.dumps(version._asdict(), ensure_ascii=False))
            try:
                draft.rename(parent / str(number))  # fails when it is there, for a folder is never empty
                return number
            except OSError:
                if not (parent / str(number)).exists():
                    raise
                number += 1
    finally:
        shutil.rmtree(draft, ignore_errors=True)

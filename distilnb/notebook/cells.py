"""Cells that make a step: the body of `prompt` is a prompt, that of `judge` a rubric, that of `step` a function."""

from __future__ import annotations

import ast
from argparse import Namespace
from typing import TYPE_CHECKING, Any, TypeAlias

from IPython.core.error import UsageError

from distilnb.notebook.look import preview_when_confirmed
from distilnb.notebook.options import (
    AFTER,
    GENERATIONS,
    INTO,
    LIKE,
    LLM,
    NO_PREVIEW,
    PIPELINE,
    ROWS,
    YES,
    Command,
    argument,
)
from distilnb.notebook.session import Session, Target
from distilnb.notebook.waiting import Waiting

if TYPE_CHECKING:
    from distilnb.pipeline import Pipeline, Preview, StepView
    from distilnb.spec.step import Step

    Shown: TypeAlias = Preview | Waiting[Preview] | StepView

NAME = argument(
    "name", metavar="NAME", help="of the step; the step of that name is replaced", completes="step"
)


_ONE_JUDGE = "%%distil judge: a judge has one model; make a judge for each."


def prompt(session: Session, options: Namespace, body: str) -> Shown:
    """Make a generation step of a prompt, or replace the one of that name, and preview it.

    The body is the prompt, a Jinja template: {{ column }}. A line that is only system:, user: or assistant:
    starts a message.
    """
    target = session.pipeline(options.pipeline)
    said = {"k": options.generations, "into": options.into, "llm": session.models(options.llm)}
    said = {name: value for name, value in said.items() if value is not None}
    settings = {**_prompt_like(session, target, options.like), **said}
    changed = target.pipeline.generate(options.name, body, after=options.after or "", **settings)
    return _keep(session, target, changed, options)


def _prompt_like(session: Session, target: Target, like: str | None) -> dict[str, Any]:
    """Return k, column and models of another prompt step."""
    from distilnb.tasks.generation import TextGeneration

    if not like:
        return {}
    tasks = [task for task in _tasks_of(session, target, like) if isinstance(task, TextGeneration)]
    if not tasks:
        raise UsageError(f"%%distil prompt: --like {like}: that is no prompt step.")
    settings: dict[str, Any] = {"k": tasks[0].num_generations, "into": tasks[0].made()[0]}
    models = [task.llm for task in tasks if task.llm is not None]
    return {**settings, "llm": models if len(models) > 1 else models[0]} if models else settings


def _tasks_of(session: Session, target: Target, like: str) -> list[Step]:
    """Return the step of that name; of one that joins several models, the step of each."""
    source = session.target(like, target.variable)
    graph = source.pipeline.graph
    is_one = source.step and not graph.is_join(source.step)
    names = [source.step] if is_one else graph.predecessors(source.step)
    return [graph.steps[name] for name in names]


def judge(session: Session, options: Namespace, body: str) -> Shown:
    """Make a judge of a rubric, or replace the one of that name, and preview it.

    The body is the rubric: what is asked of each text, and what each rating from 1 to 5 means. It is sent as it is.
    """
    target = session.pipeline(options.pipeline)
    said = {"mode": options.mode, "over": options.over, "llm": session.one_model(options.llm, _ONE_JUDGE)}
    settings = {**_judge_like(session, target, options.like), **{k: v for k, v in said.items() if v}}
    told = settings.pop("kind", "ultrafeedback")
    kind = options.kind or told
    if "mode" in settings and kind != "prometheus":
        raise UsageError(f"%%distil judge: --mode goes with --kind prometheus, not with {kind}.")
    rubric = body.strip("\n")
    own = (
        {"rubric": options.name, "rubrics": {options.name: rubric}}
        if kind == "prometheus"
        else {"rubric": rubric}
    )
    changed = target.pipeline.judge(kind, name=options.name, after=options.after or "", **own, **settings)
    return _keep(session, target, changed, options)


def _judge_like(session: Session, target: Target, like: str | None) -> dict[str, Any]:
    """Return kind, mode, judged column and model of another judge."""
    from distilnb.pipeline.wiring import JUDGES
    from distilnb.tasks.base import Task

    if not like:
        return {}
    task = next(iter(_tasks_of(session, target, like)), None)
    kind = next((name for name, cls in JUDGES.items() if type(task) is cls), None)
    if kind is None or not isinstance(task, Task):
        raise UsageError(f"%%distil judge: --like {like}: that is no judge.")
    found = {"kind": kind, "mode": getattr(task, "mode", None), "llm": task.llm}
    found["over"] = task.input_mappings.get("generations")
    return {name: value for name, value in found.items() if value}


def step(session: Session, options: Namespace, body: str) -> Shown:
    """Make a step of a function, or replace the one of that name, and preview it.

    The body is one def; its parameters are the columns that it reads (row: the whole row, rows: a batch).
    """
    target = session.pipeline(options.pipeline)
    function = _define(session, body)
    changed = target.pipeline.then(function, name=options.name, after=options.after or "")
    return _keep(session, target, changed, options)


def _define(session: Session, body: str) -> Any:
    """Run the body in the user's namespace, where its source can be found later, and return the function."""
    filename = session.shell.compile.cache(body, session.shell.execution_count)
    tree = ast.parse(body, filename)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    others = [
        node for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.Import, ast.ImportFrom))
    ]
    if len(functions) != 1 or others:
        raise UsageError("%%distil step: the body is one `def` (imports may stand before it).")
    exec(compile(tree, filename, "exec", dont_inherit=True), session.namespace)
    return session.namespace[functions[0].name]


def _keep(session: Session, target: Target, changed: Pipeline, options: Namespace) -> Shown:
    """Keep the new pipeline in its variable, say what was made of the cell, and preview the step."""
    said = _change(target.pipeline, changed, options.name, is_tried=not options.no_preview)
    session.assign(target.variable, changed)
    view = changed[options.name]
    session.say(
        f"{target.variable} · {said} · reads {_listed(view.step.needed())} · makes {_listed(view.step.made())}"
    )
    if options.no_preview:
        return view
    return preview_when_confirmed(session, Target(target.variable, changed, options.name), options)


def _change(before: Pipeline, after: Pipeline, name: str, *, is_tried: bool) -> str:
    """Say what became of a step, with its prompt's versions where they have numbers: "answer@2 replaces answer@1"."""
    is_there = name in before.graph.steps
    old = _with_version(before, name, is_tried=False) if is_there else ""
    new = _with_version(after, name, is_tried=is_tried)
    if not is_there:
        return f"{new} added after {', '.join(after.graph.predecessors(name))}"
    if new == name or old == name:
        return f"{new} replaced"
    return f"{new} again" if old == new else f"{new} replaces {old}"


def _with_version(pipeline: Pipeline, name: str, *, is_tried: bool) -> str:
    """Return `answer@2`, or the bare name of a step without a prompt, or with one that nobody has tried."""
    from distilnb.pipeline.versions import known_versions, number_all, wordings

    graph = pipeline.graph.keeping({name, *pipeline.graph.ancestors(name)})  # what the preview will number
    wording = wordings(graph).get(name)
    if wording is None:
        return name
    if is_tried:
        return f"{name}@{number_all(pipeline.name, graph)[name]}"
    known = {version.wording.digest: version.number for version in known_versions(pipeline.name, name)}
    return f"{name}@{known[wording.digest]}" if wording.digest in known else name


def _listed(columns: list[str]) -> str:
    return ", ".join(columns) or "–"


COMMANDS = (
    Command(
        "prompt",
        prompt,
        (
            NAME,
            GENERATIONS,
            INTO,
            LLM,
            AFTER,
            LIKE,
            ROWS,
            NO_PREVIEW,
            YES,
            PIPELINE,
        ),
        is_cell=True,
    ),
    Command(
        "judge",
        judge,
        (
            NAME,
            argument(
                "--kind", metavar="KIND", help="ultrafeedback (ratings) or prometheus", completes="judge"
            ),
            argument(
                "--mode", choices=("absolute", "relative"), help="of prometheus: a score, or the better"
            ),
            argument("--over", metavar="COLUMN", help="the column that is judged", completes="column"),
            LLM,
            AFTER,
            LIKE,
            ROWS,
            NO_PREVIEW,
            YES,
            PIPELINE,
        ),
        is_cell=True,
    ),
    Command("step", step, (NAME, AFTER, ROWS, NO_PREVIEW, YES, PIPELINE), is_cell=True),
)

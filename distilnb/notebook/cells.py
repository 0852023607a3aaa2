"""Cells: the body of `%%distil prompt NAME` is a prompt, that of `%%distil step NAME` a function."""

from __future__ import annotations

import ast
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from distilnb.notebook.options import (
    AFTER,
    GENERATIONS,
    INTO,
    LLM,
    NO_PREVIEW,
    PIPELINE,
    ROWS,
    Command,
    argument,
)
from distilnb.notebook.session import Session, Target

if TYPE_CHECKING:
    from distilnb.pipeline import Pipeline, Preview, StepView

NAME = argument(
    "name", metavar="NAME", help="of the step; the step of that name is replaced", completes="step"
)


def prompt(session: Session, options: Namespace, body: str) -> Preview | StepView:
    """Make a generation step of a prompt, or replace the one of that name, and preview it.

    The body is the prompt, a Jinja template: {{ column }}. A line that is only system:, user: or assistant:
    starts a message.
    """
    target = session.pipeline(options.pipeline)
    said = {"k": options.generations, "into": options.into, "llm": session.models(options.llm)}
    said = {name: value for name, value in said.items() if value is not None}
    settings = {**_settings_like(session, target, options.like), **said}
    changed = target.pipeline.generate(options.name, body, after=options.after or "", **settings)
    return _keep(session, target, changed, options)


def _settings_like(session: Session, target: Target, like: str | None) -> dict[str, Any]:
    """Return k, column and models of another prompt step."""
    from distilnb.tasks.generation import TextGeneration

    if not like:
        return {}
    source = session.target(like, target.variable)
    graph = source.pipeline.graph
    names = (
        [source.step] if source.step and not graph.is_join(source.step) else graph.predecessors(source.step)
    )
    tasks = [task for name in names if isinstance(task := graph.steps[name], TextGeneration)]
    if not tasks:
        raise UsageError(f"%%distil prompt: --like {like}: that is no prompt step.")
    settings: dict[str, Any] = {"k": tasks[0].num_generations, "into": tasks[0].made()[0]}
    models = [task.llm for task in tasks if task.llm is not None]
    return {**settings, "llm": models if len(models) > 1 else models[0]} if models else settings


def step(session: Session, options: Namespace, body: str) -> Preview | StepView:
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


def _keep(session: Session, target: Target, changed: Pipeline, options: Namespace) -> Preview | StepView:
    """Keep the new pipeline in its variable, say what was made of the cell, and preview the step."""
    was_there = options.name in target.pipeline.graph.steps
    session.assign(target.variable, changed)
    graph, view = changed.graph, changed[options.name]
    said = "replaced" if was_there else f"added after {', '.join(graph.predecessors(options.name))}"
    session.say(
        f"{target.variable} · {options.name} {said} · reads {_listed(view.step.needed())}"
        f" · makes {_listed(view.step.made())}"
    )
    return view if options.no_preview else view.preview(options.rows, show=True)


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
            argument("--like", metavar="STEP", help="take what is not said from that step", completes="step"),
            ROWS,
            NO_PREVIEW,
            PIPELINE,
        ),
        is_cell=True,
    ),
    Command("step", step, (NAME, AFTER, ROWS, NO_PREVIEW, PIPELINE), is_cell=True),
)

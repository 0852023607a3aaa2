"""Sub-commands about files and the Hub: `save`, `open`, `push`; and the cell `yaml`."""

from __future__ import annotations

import builtins
import keyword
import re
from argparse import Namespace
from typing import TYPE_CHECKING

from IPython.core.error import UsageError

from distilnb.notebook.options import PIPELINE, Command, argument
from distilnb.notebook.session import Session

if TYPE_CHECKING:
    from pathlib import Path

    from distilnb.pipeline import Pipeline

TRUST = argument("--trust-code", action="store_true", help="run the code that it holds, which is shown first")
ALLOW = argument(
    "--allow",
    action="append",
    default=[],
    metavar="PLACE",
    help="a file, folder or host beside the usual; may be repeated",
    completes="path",
)


def save(session: Session, options: Namespace) -> Path:
    """Write a pipeline to a file: a Python script for .py, JSON for .json, else YAML."""
    target = session.pipeline(options.pipeline)
    path = target.pipeline.save(options.file)
    session.say(f"{target.variable} is written to {path}.")
    return path


def open_file(session: Session, options: Namespace) -> Pipeline:
    """Open a pipeline that was saved as YAML or JSON, or hf://datasets/owner/name, in a variable of its name.

    Functions and classes in the file run with --trust-code only, and are shown before.
    """
    from distilnb.pipeline.opening import fetch, open_pipeline
    from distilnb.spec.files import read_text

    if options.file.endswith(".py"):
        raise UsageError(f"%distil open: a script is run, not opened: %run {options.file}")
    if options.trust_code:
        _show_code(session, read_text(fetch(options.file)))
    opened = open_pipeline(options.file, trust_code=options.trust_code, allow=options.allow)
    return _keep(session, opened, options.name)


def yaml(session: Session, options: Namespace, body: str) -> Pipeline:
    """Make a pipeline of YAML, as `%distil save` writes it, in a variable of its name.

    It may do what a pipeline from a file may: functions and classes in it run with --trust-code only.
    """
    from distilnb.pipeline.opening import pipeline_from_text

    if options.trust_code:
        _show_code(session, body)
    made = pipeline_from_text(body, trust_code=options.trust_code, allow=options.allow)
    return _keep(session, made, options.name)


def _show_code(session: Session, text: str) -> None:
    from distilnb.spec.files import code_in

    for source in code_in(text):
        session.say(source.rstrip("\n") + "\n")


def _keep(session: Session, pipeline: Pipeline, name: str | None) -> Pipeline:
    if name and not is_variable(name):
        raise UsageError(f"{name!r} is no name for a variable.")
    return session.assign(name or _own_variable(session, pipeline.name), pipeline)


def _own_variable(session: Session, name: str) -> str:
    """Return the variable for a pipeline of that name, which its author chose: it may be that of something else here.

    Raises UsageError where the variable holds no pipeline, or is a builtin.
    """
    variable = variable_of(name)
    held = session.namespace.get(variable)
    if hasattr(builtins, variable) or not (held is None or variable in session.pipelines()):
        kind = type(held).__name__ if held is not None else "builtin"
        raise UsageError(
            f"The pipeline is called {name!r}, and {variable} is a {kind} here. Name a variable for it."
        )
    return variable


def is_variable(name: str) -> bool:
    """Whether a word can be the name of a variable that magics find again."""
    return name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_")


def variable_of(name: str) -> str:
    """Return the variable for a pipeline of that name.

    >>> variable_of("prefs"), variable_of("my prefs-2"), variable_of("2nd"), variable_of("偏好")
    ('prefs', 'my_prefs_2', 'p_2nd', '偏好')
    """
    word = re.sub(r"\W+", "_", name).strip("_") or "pipeline"
    return word if is_variable(word) else f"p_{word}"


def push(session: Session, options: Namespace) -> str:
    """Push the finished result of a run to the Hugging Face Hub, with its pipeline and card; returns the address."""
    distiset = session.run(options.run).distiset()
    address = distiset.push_to_hub(options.repo, private=options.private or None)
    session.say(f"{session.run_id} is at {address}")
    return address


COMMANDS = (
    Command(
        "save",
        save,
        (
            argument("file", metavar="FILE", help="name.py, name.yaml or name.json", completes="path"),
            PIPELINE,
        ),
    ),
    Command(
        "open",
        open_file,
        (
            argument("file", metavar="FILE", help="a file, or hf://datasets/owner/name", completes="path"),
            argument("name", nargs="?", metavar="NAME", help="the variable; else of the pipeline's name"),
            TRUST,
            ALLOW,
        ),
    ),
    Command(
        "push",
        push,
        (
            argument("repo", metavar="REPO", help="owner/name on the Hub"),
            argument(
                "run",
                nargs="?",
                metavar="RUN",
                help="id, variable or pipeline; else the current one",
                completes="run",
            ),
            argument("--private", action="store_true", help="make the repository private"),
        ),
    ),
)
CELLS = (
    Command(
        "yaml",
        yaml,
        (
            argument("name", nargs="?", metavar="NAME", help="the variable; else of the pipeline's name"),
            TRUST,
            ALLOW,
        ),
        is_cell=True,
    ),
)

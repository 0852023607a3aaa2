"""Sub-commands that look: `preview`, `prompt`, `rows`, `why`, `models`."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from distilnb.notebook.options import PARAM, PIPELINE, ROWS, YES, Command, argument
from distilnb.notebook.session import ROWS as ROW_NUMBERS
from distilnb.notebook.session import Session, Target
from distilnb.notebook.waiting import Waiting, ask_when_confirmed
from distilnb.spec.parameters import with_parameters

if TYPE_CHECKING:
    import pandas as pd

    from distilnb.pipeline import Preview
    from distilnb.pipeline.preview import Prompt
    from distilnb.view.models import ModelTable
    from distilnb.view.story import RowStory

OF_RUN = argument("--run", metavar="RUN", help="id or variable; else the current run", completes="run")


def preview(session: Session, options: Namespace) -> Preview | Waiting[Preview]:
    """Run a pipeline, or one up to a step, on a few pinned rows; a run will use the same replies."""
    target = session.target(options.target, options.pipeline)
    return preview_when_confirmed(session, target, options, session.parameters(options.param))


def preview_when_confirmed(
    session: Session, target: Target, options: Namespace, parameters: Mapping[str, Any] | None = None
) -> Preview | Waiting[Preview]:
    """Preview a pipeline, or one up to a step, or let it wait because of its cost."""
    pipeline, n = target.pipeline, options.rows or session.settings.rows
    previewed = pipeline[target.step] if target.step else pipeline
    do = partial(previewed.preview, n, parameters=parameters, show=True)
    if options.yes:
        return do()
    graph = with_parameters(pipeline.graph, parameters)
    if target.step:
        graph = graph.keeping({target.step, *graph.ancestors(target.step)})
    return ask_when_confirmed(session, pipeline.name, graph, n, do, ("preview", target.step))


def prompt(session: Session, options: Namespace) -> Prompt:
    """Show the messages that a step would send for a row; nothing is sent."""
    target = session.target(options.step, options.pipeline)
    if not target.step:
        raise UsageError(
            f"%distil prompt: name a step; {target.variable} has {list(target.pipeline.graph.steps)}."
        )
    return target.pipeline[target.step].prompt(_row(options.row))


def why(session: Session, options: Namespace) -> RowStory:
    """Tell the story of a row of a run: what came in at each step, what was asked and answered, what was made of it."""
    return session.run(options.run).why(_row(options.row))


def _row(word: str) -> int | str:
    return int(word) if word and word.isdecimal() else word


def rows(session: Session, options: Namespace) -> pd.DataFrame:
    """Show the finished rows of a step of a run, while it goes on too; 17, 3:8 or an id are rows of the source."""
    words = list(options.words)
    chosen = next((word for word in words if ":" in word or word.isdecimal()), "")
    steps = [word for word in words if word != chosen]
    run = session.run(options.run)
    step = steps[0].rpartition(".")[2] if steps else run.pipeline_file().graph.leaves()[-1]
    if len(steps) > 1:
        raise UsageError(f"%distil rows: one step at a time, not {steps}.")
    return run.rows(step, _source_rows(chosen))


def _source_rows(word: str) -> int | str | range | None:
    """Return what a word means: a number, a range of numbers, or a row id."""
    found = ROW_NUMBERS.fullmatch(word)
    if found is None:
        return word or None
    if found["first"] is not None:
        return int(word)
    return range(int(found["start"] or 0), int(found["stop"] or sys.maxsize))


def models(session: Session, options: Namespace) -> ModelTable:
    """List the models that can be asked from here: keys that are found, local servers and their models."""
    from distilnb.llms.inventory import forget_names
    from distilnb.view.models import models as find_models

    forget_names()
    return find_models()


COMMANDS = (
    Command("models", models),
    Command(
        "preview",
        preview,
        (
            argument("target", nargs="?", metavar="TARGET", help="pipeline or step", completes="target"),
            ROWS,
            PARAM,
            YES,
            PIPELINE,
        ),
    ),
    Command(
        "prompt",
        prompt,
        (
            argument("step", metavar="STEP", completes="step"),
            argument("row", nargs="?", metavar="ROW", help="number or id of a row of the source"),
            PIPELINE,
        ),
    ),
    Command(
        "rows",
        rows,
        (
            argument(
                "words",
                nargs="*",
                metavar="STEP|ROWS",
                help="a step, and rows of the source: 17, 3:8 or an id",
                completes="step",
            ),
            OF_RUN,
        ),
    ),
    Command(
        "why",
        why,
        (argument("row", metavar="ROW", help="number in the source, or id, of a row"), OF_RUN),
    ),
)

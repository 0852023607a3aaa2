"""Sub-commands about versions of prompts: `versions`, `diff`."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from IPython.core.error import UsageError

from distilnb.notebook.asking import may_spend
from distilnb.notebook.options import PIPELINE, ROWS, YES, Command, argument
from distilnb.notebook.session import Session, Target

if TYPE_CHECKING:
    from distilnb.pipeline.difference import Diff
    from distilnb.pipeline.version_list import Versions


def versions(session: Session, options: Namespace) -> Versions:
    """List the versions of a step's prompt: what each changed, who saw it, tokens, cost, latency, ratings."""
    target = _step(session, options.step, options, "versions")
    return target.pipeline[target.step].versions


def diff(session: Session, options: Namespace) -> Diff:
    """Show two versions of a prompt on the same pinned rows: diff answer@1 answer@3; one is compared with the current.

    What was not answered yet is asked; above confirm_cost_over it is quoted first.
    """
    target = _step(session, options.left, options, "diff")
    whole = session.pipeline(target.variable).pipeline
    words = [_bare(target, word) for word in (options.left, options.right) if word]
    how = {"n": options.rows, "judge": not options.no_judge}
    found = whole.diff(*words, ask=False, **how)
    if not found.quote.requests or not may_spend(session, found.quote, is_confirmed=options.yes):
        return found
    return whole.diff(*words, **how)


def _step(session: Session, word: str, options: Namespace, command: str) -> Target:
    """Return the step that a word names, which must have a prompt."""
    target = session.target(word, options.pipeline)
    if not target.step:
        raise UsageError(
            f"%distil {command}: name a step; {target.variable} has {list(target.pipeline.graph.steps)}."
        )
    return target


def _bare(target: Target, word: str) -> str:
    """Return a word without the variable before its dot."""
    return word.removeprefix(f"{target.variable}.")


STEP = argument("step", metavar="STEP", completes="step")

COMMANDS = (
    Command("versions", versions, (STEP, PIPELINE)),
    Command(
        "diff",
        diff,
        (
            argument("left", metavar="STEP@N", help="a version", completes="version"),
            argument("right", nargs="?", metavar="STEP@M", help="else the current one", completes="version"),
            ROWS,
            argument("--no-judge", action="store_true", help="leave out the judges behind the step"),
            YES,
            PIPELINE,
        ),
    ),
)

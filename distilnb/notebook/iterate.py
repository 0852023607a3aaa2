"""Sub-commands about versions of prompts: `versions`, `diff`, `compare`, `sample`."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from distilnb.notebook.asking import as_key, quoted_when_dear
from distilnb.notebook.options import LLM, PIPELINE, ROWS, YES, Command, argument
from distilnb.notebook.session import Session, Target
from distilnb.notebook.waiting import Waiting
from distilnb.view.display import Output

if TYPE_CHECKING:
    from distilnb.pipeline.checking import Check
    from distilnb.pipeline.comparison import Comparison
    from distilnb.pipeline.difference import Diff
    from distilnb.pipeline.sampled import PinnedSample
    from distilnb.pipeline.version_list import Versions


def versions(session: Session, options: Namespace) -> Versions:
    """List the versions of a step's prompt: what each changed, who saw it, tokens, cost, latency, ratings."""
    target = _step(session, options.step, options, "versions")
    return target.pipeline[target.step].versions


def diff(session: Session, options: Namespace) -> Diff | Waiting[Diff]:
    """Show two versions of a prompt on the same pinned rows: diff answer@1 answer@3; one is compared with the current.

    What was not answered yet is asked; above confirm_cost_over it is quoted first.
    """
    target = _step(session, options.left, options, "diff")
    whole = session.pipeline(target.variable).pipeline
    words = [_bare(target, word) for word in (options.left, options.right) if word]
    how = {"n": options.rows, "judge": not options.no_judge}
    do = partial(whole.diff, *words, **how)
    if options.yes:
        return do()
    quote = do(ask=False).quote
    key = ("diff", whole.digest, *words, *how.values())
    n_rows = options.rows or len(whole.sample)
    return quoted_when_dear(session, key, f"A diff of {' and '.join(words)}", quote, n_rows, do)


def compare(session: Session, options: Namespace) -> Comparison | Waiting[Comparison]:
    """Ask versions of a prompt, of several models, on the same pinned rows: who wins, and how sure that is.

    What was not answered yet is asked; above confirm_cost_over it is quoted first. Without --judge there are buttons to
    vote with, or vote by .vote(row, name); at the end, buttons make a candidate the step.
    """
    target = _step(session, options.versions[0], options, "compare")
    whole = session.pipeline(target.variable).pipeline
    words = [_bare(target, word) for word in options.versions]
    llms = session.models(options.llm)
    how = {"llms": llms if isinstance(llms, list) or llms is None else [llms], "n": options.rows}
    how |= {"judge": _judge(session, options.judge), "blind": options.blind, "seed": options.seed}
    do = partial(whole.compare, *words, **how)

    def show(compared: Comparison, at: Output | None = None) -> bool:
        ballot = compared.ballot(on_use=lambda name: session.assign(target.variable, compared.use(name)))
        return ballot.show(at, with_row=False)

    found: Comparison | Waiting[Comparison]
    if options.yes:
        found = do()
    else:
        quote = do(ask=False).quote
        key = ("compare", whole.digest, *words, *map(as_key, how.values()))
        n_rows = options.rows or len(whole.sample)
        found = quoted_when_dear(session, key, f"A comparison of {', '.join(words)}", quote, n_rows, do, show)
    if not isinstance(found, Waiting) and show(found):
        found.leave_to_ballot()
    return found


def sample(session: Session, options: Namespace) -> PinnedSample | Check | Waiting[Check]:
    """Show the pinned rows, pin further ones (add 17 203), drop some, check what got worse, or accept how it is.

    What was not answered yet is asked by check and accept; above confirm_cost_over it is quoted first.
    """
    target = session.pipeline(options.pipeline)
    pinned = target.pipeline.sample
    rows = [int(word) if word.isdecimal() else word for word in options.rows]
    if options.what in ("add", "drop"):
        if not rows:
            raise UsageError(f"%distil sample {options.what}: name rows, by number or id.")
        return pinned.add(*rows) if options.what == "add" else pinned.drop(*rows)
    if rows:
        raise UsageError(f"%distil sample {options.what}: takes no rows; it is of all that are pinned.")
    if options.what == "show":
        return pinned
    do = pinned.accept if options.what == "accept" else pinned.check
    if options.yes:
        return do()
    quote = pinned.check(ask=False).quote
    key = ("sample", options.what, target.pipeline.digest, tuple(pinned.to_pandas().index))
    return quoted_when_dear(session, key, "A check of the Sample", quote, len(pinned), do)


def _judge(session: Session, word: str | None) -> Any:
    """Return who is to judge: a variable that holds a task or a model, a step, or provider:model."""
    from distilnb.tasks.base import Task

    value = session.namespace.get(word or "")
    return value if isinstance(value, Task) else session.models(word)


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
    Command(
        "compare",
        compare,
        (
            argument("versions", nargs="+", metavar="STEP@N", help="versions", completes="version"),
            LLM,
            ROWS,
            argument("--judge", metavar="X", help="a model, a judge step, or a task", completes="model"),
            argument("--blind", action="store_true", help="hide the names until all rows have a vote"),
            argument("--seed", type=int, default=0, metavar="N", help="of the order in which answers stand"),
            YES,
            PIPELINE,
        ),
    ),
    Command(
        "sample",
        sample,
        (
            argument(
                "what",
                nargs="?",
                metavar="WHAT",
                choices=("show", "add", "drop", "check", "accept"),
                default="show",
                help="show, add ROW…, drop ROW…, check, accept",
                completes="sample",
            ),
            argument("rows", nargs="*", metavar="ROW", help="number in the source, or id"),
            YES,
            PIPELINE,
        ),
    ),
)

"""Sub-commands about runs: `estimate`, `run`, `ps`, `attach`, `pause`, `resume`, `stop`, `errors`, `retry`."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from typing import TYPE_CHECKING

from distilnb.notebook.options import (
    MAX_COST,
    MAX_TOKENS,
    PARAM,
    PIPELINE,
    ROWS,
    WAIT,
    YES,
    Command,
    argument,
)
from distilnb.notebook.session import Session
from distilnb.notebook.waiting import (
    Waiting,
    ask_when_confirmed,
    resume_when_confirmed,
    retry_when_confirmed,
    start_when_confirmed,
)
from distilnb.spec.parameters import with_parameters
from distilnb.view.figures import plural

if TYPE_CHECKING:
    import pandas as pd

    from distilnb.pipeline.estimate import Estimate
    from distilnb.run import Run, RunList

_IN_MAGICS = {"new=True": "--new", "run.resume()": "%distil resume"}  # what a note of the API calls them
SAMPLE_ROWS = 5  # that an estimate previews

RUN = argument(
    "run", nargs="?", metavar="RUN", help="id, variable or pipeline; else the current one", completes="run"
)


def estimate(session: Session, options: Namespace) -> Estimate | Waiting[Estimate]:
    """Quote a run: requests, tokens, money and time of each step; the Sample is previewed first, which it tells."""
    pipeline = session.target(options.target, options.pipeline).pipeline
    parameters = session.parameters(options.param)
    do = partial(pipeline.estimate, options.rows, parameters=parameters, ask=not options.no_ask)
    if options.yes or options.no_ask:
        return do()
    graph = with_parameters(pipeline.graph, parameters)
    return ask_when_confirmed(session, pipeline.name, graph, SAMPLE_ROWS, do, ("estimate", options.rows))


def start(session: Session, options: Namespace) -> Run | Waiting[Run]:
    """Start a run in the background and show its panel; an equal run that is going is shown instead."""
    pipeline = session.target(options.target, options.pipeline).pipeline
    parameters = session.parameters(options.param)
    limits = {"rows": options.rows, "max_cost": options.max_cost, "max_tokens": options.max_tokens}
    do = partial(pipeline.start, parameters=parameters, new=options.new, **limits)
    run = do() if options.yes else start_when_confirmed(session, pipeline, do)
    return _shown(session, run, wait=options.wait)


def _shown(session: Session, run: Run | Waiting[Run], *, wait: bool) -> Run | Waiting[Run]:
    """Show a run that goes, and perhaps wait for it; one that waits itself is shown already."""
    if isinstance(run, Waiting):
        return run
    for api, magic in _IN_MAGICS.items():
        run.note = run.note.replace(api, magic)
    session.show_run(run)
    if wait:
        session.wait_for(run)
    return run


def ps(session: Session, options: Namespace) -> RunList:
    """List all runs, newest first."""
    from distilnb.run import runs

    return runs()


def attach(session: Session, options: Namespace) -> Run:
    """Find a run again and show its panel."""
    run = session.run(options.run)
    session.show_run(run)
    return run


def stop(session: Session, options: Namespace) -> Run:
    """Stop a run: what is in flight ends, everything finished is kept, `run.resume()` goes on."""
    run = session.run(options.run)
    was_ended = run.stop().is_ended
    session.say(f"{run.id} has ended already." if was_ended else f"{run.id} is told to stop.")
    if options.wait:
        session.wait_for(run)
    return run


def pause(session: Session, options: Namespace) -> Run:
    """Pause a run: nothing new is started until `%distil resume`; after an hour it stops."""
    run = session.run(options.run)
    was_ended = run.pause().is_ended
    session.say(f"{run.id} has ended already." if was_ended else f"{run.id} is told to pause.")
    return run


def resume(session: Session, options: Namespace) -> Run | Waiting[Run]:
    """Go on with a run that is paused, stopped, failed or was lost, and show its panel.

    What the rest may cost is told first, above confirm_cost_over; `max_cost` counts over a run's whole life.
    """
    run = session.run(options.run)
    again = run.resume() if options.yes else resume_when_confirmed(session, run, run.resume)
    return _shown(session, again, wait=options.wait)


def errors(session: Session, options: Namespace) -> pd.DataFrame:
    """Show the rows that failed: the reason, the prompt that was sent, the raw reply."""
    run = session.run(options.run)
    found = run.errors()
    n_failed = int((~found["is_partial"]).sum())
    session.say(f"{run.id} · {plural(n_failed, 'row')} failed, {len(found) - n_failed} partial")
    return found


def retry(session: Session, options: Namespace) -> Run | Waiting[Run]:
    """Do the failed rows of a run again, all or those of a step, and show its panel.

    With --using an edited pipeline does them.
    """
    run = session.run(options.run)
    using = session.pipeline(options.using).pipeline if options.using else None
    parameters = session.parameters(options.param)
    do = partial(run.retry, options.step, using=using, parameters=parameters)
    edited = None if using is None else with_parameters(using.graph, parameters)
    again = do() if options.yes else retry_when_confirmed(session, run, do, options.step, edited)
    if not isinstance(again, Waiting):
        session.say(again.note)
    return _shown(session, again, wait=options.wait)


COMMANDS = (
    Command(
        "estimate",
        estimate,
        (
            argument("target", nargs="?", metavar="PIPELINE", completes="pipeline"),
            ROWS,
            PARAM,
            argument("--no-ask", action="store_true", help="ask nothing: tell what the reply cache tells"),
            YES,
            PIPELINE,
        ),
    ),
    Command(
        "run",
        start,
        (
            argument("target", nargs="?", metavar="PIPELINE", completes="pipeline"),
            ROWS,
            MAX_COST,
            MAX_TOKENS,
            PARAM,
            argument("--new", action="store_true", help="start another one although an equal run is going"),
            WAIT,
            YES,
            PIPELINE,
        ),
    ),
    Command("ps", ps),
    Command("attach", attach, (RUN,)),
    Command("pause", pause, (RUN,)),
    Command("resume", resume, (RUN, WAIT, YES)),
    Command("stop", stop, (RUN, WAIT)),
    Command("errors", errors, (RUN,)),
    Command(
        "retry",
        retry,
        (
            RUN,
            argument("--step", metavar="STEP", help="only its rows", completes="step"),
            argument("--using", metavar="PIPELINE", help="do them by this edited one", completes="pipeline"),
            PARAM,
            WAIT,
            YES,
        ),
    ),
)

"""Sub-commands about runs: `estimate`, `run`, `ps`, `attach`, `pause`, `resume`, `stop`, `errors`, `retry`."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from distilnb.notebook.options import MAX_COST, MAX_TOKENS, PARAM, PIPELINE, ROWS, WAIT, Command, argument
from distilnb.notebook.session import Session
from distilnb.view.figures import plural

if TYPE_CHECKING:
    import pandas as pd

    from distilnb.pipeline.estimate import Estimate
    from distilnb.run import Run, RunList

RUN = argument(
    "run", nargs="?", metavar="RUN", help="id, variable or pipeline; else the current one", completes="run"
)


def estimate(session: Session, options: Namespace) -> Estimate:
    """Quote a run: requests, tokens, money and time of each step; the Sample is previewed first, which it tells."""
    pipeline = session.target(options.target, options.pipeline).pipeline
    return pipeline.estimate(
        options.rows, parameters=session.parameters(options.param), ask=not options.no_ask
    )


def start(session: Session, options: Namespace) -> Run:
    """Start a run in the background and show its panel; an equal run that is going is shown instead."""
    pipeline = session.target(options.target, options.pipeline).pipeline
    parameters = session.parameters(options.param)
    limits = {"rows": options.rows, "max_cost": options.max_cost, "max_tokens": options.max_tokens}
    run = pipeline.start(parameters=parameters, new=options.new, **limits)
    session.show_run(run)
    if options.wait:
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
    return run


def pause(session: Session, options: Namespace) -> Run:
    """Pause a run: nothing new is started until `%distil resume`; after an hour it stops."""
    run = session.run(options.run)
    was_ended = run.pause().is_ended
    session.say(f"{run.id} has ended already." if was_ended else f"{run.id} is told to pause.")
    return run


def resume(session: Session, options: Namespace) -> Run:
    """Go on with a run that is paused, stopped, failed or was lost, and show its panel."""
    run = session.run(options.run).resume()
    session.show_run(run)
    return run


def errors(session: Session, options: Namespace) -> pd.DataFrame:
    """Show the rows that failed: the reason, the prompt that was sent, the raw reply."""
    run = session.run(options.run)
    found = run.errors()
    n_failed = int((~found["is_partial"]).sum())
    session.say(f"{run.id} · {plural(n_failed, 'row')} failed, {len(found) - n_failed} partial")
    return found


def retry(session: Session, options: Namespace) -> Run:
    """Do the failed rows of a run again, all or those of a step, and show its panel."""
    run = session.run(options.run).retry(options.step)
    session.say(run.note)
    session.show_run(run)
    return run


COMMANDS = (
    Command(
        "estimate",
        estimate,
        (
            argument("target", nargs="?", metavar="PIPELINE", completes="pipeline"),
            ROWS,
            PARAM,
            argument("--no-ask", action="store_true", help="ask nothing: tell what the reply cache tells"),
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
            PIPELINE,
        ),
    ),
    Command("ps", ps),
    Command("attach", attach, (RUN,)),
    Command("pause", pause, (RUN,)),
    Command("resume", resume, (RUN,)),
    Command("stop", stop, (RUN,)),
    Command("errors", errors, (RUN,)),
    Command(
        "retry", retry, (RUN, argument("--step", metavar="STEP", help="only its rows", completes="step"))
    ),
)

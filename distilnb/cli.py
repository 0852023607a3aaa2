"""The command `distilnb`: the demo, runs, and pipelines from files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distilnb.errors import DistilnbError

if TYPE_CHECKING:
    from distilnb.pipeline import Pipeline
    from distilnb.run import Run

app = typer.Typer(
    name="distilnb",
    help="Synthetic data and AI feedback: run pipelines, look after runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
pipelines = typer.Typer(no_args_is_help=True, help="Pipelines from files.")
app.add_typer(pipelines, name="pipeline")

RunId = Annotated[str, typer.Argument(metavar="ID", help="The run's id; `distilnb runs` lists them.")]
Config = Annotated[
    str, typer.Option("--config", help="A pipeline file, YAML or JSON; or hf://datasets/<owner>/<name>.")
]
Params = Annotated[
    list[str], typer.Option("--param", metavar="STEP.FIELD=VALUE", help="A parameter; may be repeated.")
]
TrustCode = Annotated[bool, typer.Option("--trust-code", help="Run the functions that the file carries.")]


def main() -> None:
    """Run the command; an error of distilnb is one message on stderr and exit status 1."""
    try:
        app()
    except DistilnbError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(1)


@app.command()
def demo(
    llm: Annotated[str, typer.Option(help="provider:model, or two with a comma; else it rehearses.")] = "",
    rows: Annotated[int | None, typer.Option(help="How many instructions.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the result [distilnb-demo].")] = None,
) -> None:
    """Make a preference dataset of the instructions that ship with distilnb."""
    from distilnb.demo import demo as run_demo

    run_demo(llm or None, rows, out)


@app.command()
def runs() -> None:
    """List all runs, newest first."""
    from distilnb.run import runs as all_runs

    print(all_runs())


@app.command()
def attach(run_id: RunId) -> None:
    """Follow a run; Ctrl-C leaves it running."""
    run = _run(run_id)
    try:
        _follow(run)
    except KeyboardInterrupt:
        print(f"\ndetached; {run.id} goes on. End it with: distilnb stop {run.id}")


@app.command()
def status(run_id: RunId) -> None:
    """Show how a run stands, step by step."""
    print(repr(_run(run_id)))


@app.command()
def stop(
    run_id: RunId,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for what is in flight.")] = False,
) -> None:
    """Stop a run; `distilnb resume` goes on with it."""
    run = _run(run_id)
    if run.status().is_ended:
        print(run.line())
        return
    if now:
        run.abort()
    else:
        run.stop()
    run.wait()
    print(run.line())


@app.command()
def resume(run_id: RunId) -> None:
    """Go on with a run that stopped, failed or was lost; Ctrl-C stops it again, a second one at once."""
    run = _run(run_id).resume()
    _wait(run)
    print(repr(run))


@app.command()
def errors(run_id: RunId) -> None:
    """List the rows that failed: step, reason, prompt and reply."""
    from distilnb.view.figures import plural

    found = _run(run_id).errors()
    for row in found.to_dict("records"):
        mark = "partial" if row["is_partial"] else row["kind"]
        print(f"{row['row_id']}  {row['step']}  {mark}: {row['reason']}")
    print(plural(len(found), "row"))


@pipelines.command("info")
def info(config: Config, trust_code: TrustCode = False) -> None:
    """Show what a pipeline file holds: its steps, the models and places it would touch, its code."""
    from distilnb.pipeline.opening import fetch
    from distilnb.spec.files import code_in

    pipeline = _open(config, trust_code)
    print(repr(pipeline))
    for line in _touched(pipeline):
        print(line)
    for source in code_in(fetch(config).read_text(encoding="utf-8")):
        print(f"code, run with --trust-code only:\n{source.rstrip()}")


@pipelines.command("run")
def run_pipeline(
    config: Config,
    param: Params = [],  # noqa: B006 - typer reads it, nobody changes it
    rows: Annotated[int | None, typer.Option(help="At most so many rows of each source.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="Stop before more USD are spent.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to save the result in.")] = None,
    trust_code: TrustCode = False,
) -> None:
    """Run a pipeline file; the first Ctrl-C stops gracefully, a second one at once."""
    pipeline = _open(config, trust_code)
    run = pipeline.start(rows=rows, max_cost=max_cost, parameters=_parameters(param))
    print(f"run {run.id} · follow it from elsewhere: distilnb attach {run.id}")
    result = _wait(run)
    print(repr(run))
    if out is not None and result is not None:
        result.save_to_disk(out)
        print(f"saved in {str(out)!r}")


# --- inside ---


def _run(run_id: str) -> Run:
    from distilnb.run import attach as find

    return find(run_id)


def _follow(run: Run) -> None:
    from distilnb.view.panel import follow

    follow(run.status, sys.stderr)


def _wait(run: Run) -> Any:
    """Follow a run to its end and return its result."""
    from distilnb.pipeline.starting import wait_for_result

    return wait_for_result(run, show=True)


def _open(config: str, trust_code: bool) -> Pipeline:
    from distilnb.pipeline.opening import open_pipeline

    return open_pipeline(config, trust_code=trust_code)


def _parameters(words: list[str]) -> dict[str, Any]:
    """Return `a.b=c` words as parameters; a value is a Python literal, else text."""
    import ast

    parameters: dict[str, Any] = {}
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not path:
            raise typer.BadParameter(f"{word!r} is not STEP.FIELD=VALUE", param_hint="--param")
        try:
            parameters[path] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            parameters[path] = text
    return parameters


def _touched(pipeline: Pipeline) -> list[str]:
    """Return the models, files and repositories that a run would touch, a line each."""
    from distilnb.tasks.base import Task

    told = []
    for step in pipeline.graph.steps.values():
        if isinstance(step, Task) and step.llm is not None:
            where = f" at {step.llm.endpoint}" if step.llm.endpoint else ""
            told.append(f"asks {step.llm.label}{where}")
        for field in ("data_files", "dataset_path", "repo_id"):
            value = getattr(step, field, None)
            told += [f"reads {value}"] if value else []
    return list(dict.fromkeys(told))

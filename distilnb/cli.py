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
    from distilnb.spec.base import Spec

app = typer.Typer(
    name="distilnb",
    help="Synthetic data and AI feedback: run pipelines, look after runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
pipelines = typer.Typer(no_args_is_help=True, help="Pipelines from files.")
app.add_typer(pipelines, name="pipeline")
runs_app = typer.Typer(
    invoke_without_command=True, help="List all runs, newest first; `prune` deletes old ones."
)
app.add_typer(runs_app, name="runs")
cache_app = typer.Typer(
    no_args_is_help=True,
    help="The caches of replies and of step results: how large they are, and deleting from them.",
)
app.add_typer(cache_app, name="cache")

RunId = Annotated[str, typer.Argument(metavar="ID", help="The run's id; `distilnb runs` lists them.")]
Config = Annotated[
    str, typer.Option("--config", help="A pipeline file, YAML or JSON; or hf://datasets/<owner>/<name>.")
]
Params = Annotated[
    list[str], typer.Option("--param", metavar="STEP.FIELD=VALUE", help="A parameter; may be repeated.")
]
Allow = Annotated[
    list[str] | None,
    typer.Option(help="A folder, or a host, that the file may use beside its own. Repeatable."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
TrustCode = Annotated[bool, typer.Option("--trust-code", help="Run the functions that the file carries.")]


def main() -> None:
    """Run the command; an error of distilnb is one message on stderr and exit status 1."""
    try:
        app()
    except DistilnbError as error:
        from distilnb.view.text import visible

        sys.stderr.write(visible(f"{type(error).__name__}: {error}\n"))
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
def models() -> None:
    """List the models that can be asked from here: keys that are found, local servers and their models."""
    from distilnb.view.models import models as find_models

    _say(find_models())


@runs_app.callback()
def runs(context: typer.Context) -> None:
    """List all runs, newest first."""
    if context.invoked_subcommand is None:
        from distilnb.run import runs as all_runs

        _say(all_runs())


@runs_app.command("prune")
def prune(
    older_than: Annotated[float, typer.Option(metavar="DAYS", help="Only runs that ended so long ago.")] = 30,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Also those that could be resumed.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Delete the directories of old runs; what they asked stays in the reply cache."""
    from distilnb.engine.upkeep import prunable_runs, prune_runs
    from distilnb.view.figures import plural, size

    found = prunable_runs(older_than_days=older_than, unfinished_too=unfinished)
    for run in found:
        _say(run.run_id)
    if not found:
        print("no run to delete")
    elif yes or typer.confirm(f"Delete {plural(len(found), 'run')}?"):
        pruned = prune_runs(found)
        print(f"deleted {plural(len(pruned.ids), 'run')}, {size(pruned.n_bytes)}")


@cache_app.command("info")
def cache_info() -> None:
    """Show where replies and results of steps are kept, how much that takes, and whose replies there are."""
    from distilnb.engine.upkeep import cache_info as info
    from distilnb.engine.upkeep import results_info
    from distilnb.view.figures import plural, size, tokens

    found, results = info(), results_info()
    limit = "no limit" if found.limit_bytes is None else f"limit {size(found.limit_bytes)}"
    _say(f"{found.path}")
    _say(f"{plural(found.n_replies, 'reply', 'replies')} · {size(found.n_bytes)} ({limit})")
    for model, (n_replies, n_tokens) in found.by_model.items():
        replies = plural(n_replies, "reply", "replies")
        _say(f"  {model or '(unnamed model)'}: {replies}, {tokens(n_tokens)} output tokens")
    _say(f"{results.path}")
    _say(f"{plural(results.n_results, 'step result')} · {size(results.n_bytes)} ({limit})")


@cache_app.command("clear")
def cache_clear(
    model: Annotated[
        str | None, typer.Option(help="Only replies of this model, as `cache info` names it.")
    ] = None,
    older_than: Annotated[float | None, typer.Option(metavar="DAYS", help="Only what is older.")] = None,
    results: Annotated[
        bool, typer.Option("--results", help="Only results of steps (cache=True), no replies.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Delete replies and results of steps; what is asked again is paid again."""
    from distilnb.engine.upkeep import clear_cache
    from distilnb.view.figures import plural

    what = f"replies of {model}" if model else "step results" if results else "replies and step results"
    age = f" older than {older_than:g} days" if older_than is not None else ""
    if yes or typer.confirm(f"Delete the {what}{age}?"):
        n_replies, n_results = clear_cache(model=model, older_than_days=older_than, results_only=results)
        print(f"deleted {plural(n_replies, 'reply', 'replies')}, {plural(n_results, 'step result')}")


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
    _say(repr(_run(run_id)))


@app.command()
def stop(
    run_id: RunId,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for what is in flight.")] = False,
    cancel_jobs: Annotated[
        bool, typer.Option("--cancel-jobs", help="At once, and cancel its offline jobs at their providers.")
    ] = False,
) -> None:
    """Stop a run; `distilnb resume` goes on with it."""
    run = _run(run_id)
    if cancel_jobs:
        run.abort(cancel_jobs=True)
        print(f"{run.id}: {run.note}")
        return
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
def pause(run_id: RunId) -> None:
    """Pause a run: nothing new is started until `distilnb resume`; after an hour it stops."""
    run = _run(run_id)
    run.pause()
    print(run.line())


@app.command()
def resume(run_id: RunId) -> None:
    """Go on with a run that is paused, stopped, failed or was lost; Ctrl-C stops it again, a second one at once."""
    run = _run(run_id).resume()
    _wait(run)
    _say(repr(run))


@app.command()
def retry(
    run_id: RunId,
    step: Annotated[str | None, typer.Option(help="Only the rows that failed in this step.")] = None,
) -> None:
    """Do the rows that failed again, and follow the run to its end; Ctrl-C stops it, a second one at once."""
    run = _run(run_id).retry(step)
    _say(run.note)
    _wait(run)
    _say(run.line())


@app.command()
def adjust(
    run_id: RunId,
    step: Annotated[str | None, typer.Option(help="The step whose model is meant [all models].")] = None,
    max_concurrency: Annotated[int | None, typer.Option(help="Requests in flight.")] = None,
    rpm: Annotated[float | None, typer.Option(help="Requests per minute.", metavar="INTEGER|inf")] = None,
    tpm: Annotated[float | None, typer.Option(help="Tokens per minute.", metavar="INTEGER|inf")] = None,
    max_cost: Annotated[float | None, typer.Option(help="Stop before more USD are spent.")] = None,
    max_tokens: Annotated[
        float | None, typer.Option(help="Stop before more tokens are used.", metavar="INTEGER|inf")
    ] = None,
    max_time: Annotated[float | None, typer.Option(help="Stop after so many seconds of running.")] = None,
) -> None:
    """Change the limits of a run while it goes on, or before it is resumed; inf lifts one."""
    run = _run(run_id)
    run.adjust(
        step,
        max_concurrency=max_concurrency,
        rpm=_whole(rpm),
        tpm=_whole(tpm),
        max_cost=max_cost,
        max_tokens=_whole(max_tokens),
        max_time=max_time,
    )
    print(run.line())


@app.command()
def logs(
    run_id: RunId,
    n: Annotated[int, typer.Option("-n", help="Lines of each process.")] = 50,
) -> None:
    """Show the end of what each process of a run wrote; what steps print is there too."""
    _say(_run(run_id).logs(n))


@app.command()
def errors(run_id: RunId) -> None:
    """List the rows that failed: step, reason, prompt and reply."""
    from distilnb.view.figures import plural

    found = _run(run_id).errors()
    for row in found.to_dict("records"):
        mark = "partial" if row["is_partial"] else row["kind"]
        done = "" if row["state"] in ("open", "kept") else f" ({row['state']})"
        _say(f"{row['row_id']}  {row['step']}  {mark}{done}: {row['reason']}")
    print(plural(len(found), "row"))


@app.command()
def estimate(
    config: Config,
    param: Params = [],  # noqa: B006 - typer reads it, nobody changes it
    rows: Annotated[int | None, typer.Option(help="At most so many rows of each source.")] = None,
    ask: Annotated[bool, typer.Option(help="Preview the Sample where the cache does not hold it.")] = True,
    trust_code: TrustCode = False,
    allow: Allow = None,
) -> None:
    """Quote a run of a pipeline file: requests, tokens, money and time of each step, less what is cached."""
    pipeline = _open(config, trust_code, allow or [])
    _say(repr(pipeline.estimate(rows, parameters=_parameters(param), ask=ask)))


@pipelines.command("info")
def info(config: Config) -> None:
    """Show what a pipeline file holds: its code, its steps, the models and places a run would touch. Runs none."""
    from distilnb.llms.base import LLM
    from distilnb.pipeline import Pipeline
    from distilnb.pipeline.opening import fetch
    from distilnb.spec.files import code_in, from_text, read_text

    text = read_text(fetch(config))
    for source in code_in(text):  # first: whatever is wrong with the rest, its code was seen
        _say("code, run with --trust-code only:")
        _say(source.rstrip(), before="    ")  # so that no line of it seems to be one of ours
    file = from_text(text, classes=_stand_ins(text))
    llm = file.llm if isinstance(file.llm, LLM) else None
    pipeline = Pipeline(file.name, llm=llm, description=file.description, graph=file.graph)
    _say(repr(pipeline))
    for line in _touched(pipeline):
        _say(line)


@pipelines.command("run")
def run_pipeline(
    config: Config,
    param: Params = [],  # noqa: B006 - typer reads it, nobody changes it
    rows: Annotated[int | None, typer.Option(help="At most so many rows of each source.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="Stop before more USD are spent.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Stop before more tokens are used.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to save the result in.")] = None,
    trust_code: TrustCode = False,
    allow: Allow = None,
) -> None:
    """Run a pipeline file; the first Ctrl-C stops gracefully, a second one at once."""
    pipeline = _open(config, trust_code, allow or [])
    limits = {"rows": rows, "max_cost": max_cost, "max_tokens": max_tokens}
    run = pipeline.start(parameters=_parameters(param), **limits)  # type: ignore[arg-type]  # each of its own type
    result = _wait(run, f"run {run.id} · follow it from elsewhere: distilnb attach {run.id}")
    _say(repr(run))
    if out is not None and result is not None:
        result.save_to_disk(out)
        print(f"saved in {str(out)!r}")


# --- inside ---


def _say(text: object, *, before: str = "") -> None:
    """Print text that others may have written, line by line, with nothing in it that a terminal obeys."""
    from distilnb.view.text import visible

    for line in visible(str(text)).split("\n"):
        print(before + line)


def _run(run_id: str) -> Run:
    from distilnb.run import attach as find

    return find(run_id)


def _whole(number: float | None) -> Any:
    """Return a whole number as one; anything else is left to the check of its value."""
    return int(number) if number is not None and number.is_integer() else number


def _follow(run: Run) -> None:
    from distilnb.view.panel import follow

    follow(run.status, sys.stderr)


def _wait(run: Run, note: str = "") -> Any:
    """Follow a run to its end and return its result; Ctrl-C stops it, from the note on."""
    from distilnb.pipeline.starting import wait_for_result

    return wait_for_result(run, show=True, note=note)


def _open(config: str, trust_code: bool, allow: list[str]) -> Pipeline:
    from distilnb.pipeline.opening import open_pipeline

    return open_pipeline(config, trust_code=trust_code, allow=allow)


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


def _stand_ins(text: str) -> list[type[Spec]]:
    """Return classes that can be drawn, in the place of those that only the author of a pipeline file has."""
    from distilnb.spec.files import classes_in, read_data
    from distilnb.spec.registry import KINDS
    from distilnb.spec.step import stand_in

    pipeline = read_data(text)
    steps = pipeline.get("steps") or []
    models = {kind for holder in (pipeline, *steps) for kind in _kinds(holder.get("llm"))}
    kinds = {*models, *_kinds(steps), *classes_in(text)} - KINDS.keys()
    # What is no name of a class stays unknown, and is refused as such.
    names = [kind for kind in sorted(kinds) if kind.isascii() and kind.isidentifier()]
    return [_model_stand_in(name) if name in models else stand_in(name) for name in names]


def _kinds(value: object) -> set[str]:
    """Return the kinds of one piece of data or of a list of them."""
    items = value if isinstance(value, list) else [value]
    return {str(item["kind"]) for item in items if isinstance(item, dict) and item.get("kind")}


def _model_stand_in(kind: str) -> type[Spec]:
    from pydantic import ConfigDict

    from distilnb.llms.base import LLM

    body = {"__module__": __name__, "model_config": ConfigDict(extra="allow"), "provider": kind}
    return type(kind, (LLM,), {**body, "__annotations__": {"model": str}, "model": ""})


def _touched(pipeline: Pipeline) -> list[str]:
    """Return the models, files and repositories that a run would touch, a line each."""
    from distilnb.llms.base import LLM
    from distilnb.spec.registry import KINDS

    told = []
    for step in pipeline.graph.steps.values():
        # A step of the file's own class may be a task, which then asks the default model.
        models = getattr(step, "llm", None) or (None if step.kind() in KINDS else pipeline.llm)
        for model in models if isinstance(models, list) else [models]:
            for one in model.senders() if isinstance(model, LLM) else ():
                where = f" at {', '.join(one.endpoints)}" if one.endpoints else ""
                told.append(f"asks {one.label.rstrip(':')}{where}")
        for field in ("data_files", "dataset_path", "repo_id"):
            value = getattr(step, field, None)
            told += [f"reads {value}"] if value else []
    return list(dict.fromkeys(told))

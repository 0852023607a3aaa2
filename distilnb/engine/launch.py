"""From the kernel to a detached run: write everything it needs, start its runner, and let go."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets as random_secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from distilnb.children import child_environment
from distilnb.engine.building import literal_secrets, write_steps
from distilnb.engine.intake import is_being_written
from distilnb.engine.keys import key_sources, secrets_to_send
from distilnb.engine.plan import Plan
from distilnb.engine.planning import make_plan
from distilnb.engine.reading import RunReader
from distilnb.engine.rendering import senders_of
from distilnb.engine.roster import Roster
from distilnb.engine.rundir import RunDir, all_run_dirs, make_run_dir
from distilnb.engine.spawning import interpreter
from distilnb.engine.spool import Spool, given_rows, is_spooled_here
from distilnb.engine.wire import encode
from distilnb.errors import InputError, StoreError
from distilnb.home import private_folder
from distilnb.llms.base import LLM, limits_key
from distilnb.llms.prices import check_priced
from distilnb.rows import write_text
from distilnb.spec.digest import digest_of
from distilnb.spec.graph import Graph
from distilnb.spec.inline import named_by_number
from distilnb.spec.step import GeneratorStep
from distilnb.tasks.base import Task

_DIGEST_POLL_S = 0.05


def check_models(graph: Graph, *, max_cost: float | None, cache: str | None = None) -> None:
    """Raise when a server cannot be reached, when a budget is set for a model without a price, and for an offline batch
    without the reply cache.
    """
    models: dict[str, LLM] = {}
    for step in graph.steps.values():
        if isinstance(step, Task) and step.llm is not None:
            models[step.llm.digest] = step.llm
    for model in models.values():
        model.probe()
    for sender in (one for model in models.values() for one in model.senders()):
        if cache == "off" and sender.goes_by_batch:
            raise InputError(
                f"{sender.label} goes by offline batch, whose replies come back through the reply cache, and "
                "cache='off' has none.",
                "Use cache='refresh' for new replies, or leave offline_batch out.",
            )
        if max_cost is not None:
            check_priced(sender)


def launch(graph: Graph, *, pipeline: str, text: Callable[[], str], options: dict[str, Any]) -> RunDir:
    """Write the run directory of a checked graph and start its runner; returns at once.

    Of many rows given in the program the first are written here and the others from a thread; what names them by
    their digest is written when that is known. `text` makes the text of the pipeline.

    Raises StoreError when the disk refuses and CodeNotPortableError when a function cannot travel.
    """
    run = make_run_dir(new_run_id(pipeline))
    spool: Spool | None = None
    try:
        is_late = any(rows.is_pending for rows in given_rows(graph))
        with named_by_number() if is_late else contextlib.nullcontext():
            written = text()  # first: what it may not hold is told before a file is written
            plan = _plan(run, graph, pipeline=pipeline, options=options)
            spool = Spool(run, plan, graph)
            is_whole = spool.write_first(is_named=not is_late)
            write_steps(run.path, graph)
            write_text(run.path / "pipeline.yaml", written)
        digest = "" if is_late else plan.digest
        plan = Plan(**{**vars(plan), "digest": digest, "options": {**plan.options, "spooled": spool.files()}})
        write_text(run.path / "plan.json", plan.to_json())  # last: a folder without a plan is no run
        start_runner(run, plan, secrets_to_send(graph))
    except BaseException:  # nothing was started: half a run must not stay
        if spool is not None:
            spool.give_up()
        shutil.rmtree(run.path, ignore_errors=True)
        raise

    def name_by_digest() -> None:
        known = _plan(run, graph, pipeline=pipeline, options=options)
        write_text(run.path / "pipeline.yaml", text())
        known_options = {**known.options, "spooled": plan.options["spooled"]}
        _replace_plan(run, Plan(**{**vars(known), "options": known_options}))

    if is_late or not is_whole:
        spool.write_rest(name_by_digest if is_late else lambda: None)
    return run


def _plan(run: RunDir, graph: Graph, *, pipeline: str, options: dict[str, Any]) -> Plan:
    plan = make_plan(
        graph, run_id=run.run_id, pipeline=pipeline, digest=run_digest(graph, options), options=options
    )
    options = {
        **plan.options,
        "shape": run_shape(graph, options),
        "kinds": {name: step.kind() for name, step in graph.steps.items()},
        "digests": {name: step.digest for name, step in graph.steps.items()},  # what a retry may differ in
        "before": {name: graph.predecessors(name) for name in graph.steps},
        "expands": {name: step.expands() for name, step in graph.steps.items()},
        "keeping_joins": [  # that let a row go on which some branch lost
            name
            for name, step in graph.steps.items()
            if options.get("on_error") == "null" or getattr(step, "how", "inner") != "inner"
        ],
        "is_rehearsed": any(is_rehearsed(step) for step in graph.steps.values()),
        "secrets": sorted(literal_secrets(graph)),  # their places, never their values
        "keys": key_sources(graph),
        "models": models_of(graph),
    }
    if options.get("on_error") == "null":
        columns = graph.columns()
        options["columns"] = {name: None if c.is_open else c.names for name, c in columns.items()}
    return Plan(**{**vars(plan), "options": options})


def _replace_plan(run: RunDir, plan: Plan) -> None:
    """Write the plan anew under its old time, by which runs are sorted."""
    path = run.path / "plan.json"
    stat = path.stat()
    write_text(path, plan.to_json())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def run_shape(graph: Graph, options: Mapping[str, Any]) -> str:
    """Return what equal runs have in common and can be told at once: many rows count by their number."""
    with named_by_number():
        return run_digest(graph, options)


def run_digest(graph: Graph, options: Mapping[str, Any]) -> str:
    """Return the identity of a run: the graph, the content of its sources, and what limits it."""
    sources = [step.fingerprint() for step in graph.steps.values() if isinstance(step, GeneratorStep)]
    names = ("rows", "max_cost", "max_tokens", "max_time", "on_error", "cache")
    limits = {name: options.get(name) for name in names}
    return digest_of([graph.digest, sources, limits])


def find_running(graph: Graph, options: Mapping[str, Any]) -> RunDir | None:
    """Return an equal run that is going and was not told to stop, or None.

    Only where a run of the same shape is going are the digests of many rows waited for, those of its kernel too.
    """
    shape = run_shape(graph, options)
    for run in all_run_dirs():
        try:
            if not run.is_alive() or run.plan().options.get("shape") != shape or not is_going(run):
                continue
            if is_spooled_here(run, given_rows(graph)) or digest_in(run) == run_digest(graph, options):
                return run
        except StoreError:  # a run of another version of distilnb
            continue
    return None


def digest_in(run: RunDir) -> str:
    """Return the digest of a run, once the kernel that started it has it; "" when that ended before."""
    while not (digest := run.plan().digest):
        if not is_being_written(run):
            return run.plan().digest  # it may have come in between
        time.sleep(_DIGEST_POLL_S)
    return digest


def is_going(run: RunDir) -> bool:
    """Whether a run is going, or paused, and was not told to stop."""
    reader = RunReader(run)
    try:
        return reader.status().state in ("starting", "running", "paused")
    finally:
        reader.close()


@contextlib.contextmanager
def one_start_at_a_time() -> Iterator[None]:
    """Keep two equal starts at the same moment from becoming two runs."""
    descriptor = os.open(private_folder() / ".start", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def start_runner(run: RunDir, plan: Plan, secrets: Mapping[str, str]) -> None:
    """Start the runner of a run in a session of its own; secrets travel by its standard input alone.

    Its workers are named on its command line, so that it need not be loaded to start them.
    """
    run.drop_late_commands()  # one that came too late for the runner before must not stop this one
    try:
        with run.log("runner").open("ab") as log:
            process = subprocess.Popen(
                [*interpreter("distilnb.engine.runner"), str(run.path), *Roster(plan).names],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=child_environment(),
            )
    except OSError as error:
        raise StoreError(
            f"The runner of {run.run_id!r} cannot be started: {error}.",
            "See that there is space on the disk, and room for one more process; then try again.",
        ) from error
    try:
        run.write_pid(process.pid)
        if process.stdin:
            with contextlib.suppress(BrokenPipeError):  # it is gone at once: its log and `status` tell why
                process.stdin.write(encode({"secrets": dict(secrets)}))
                process.stdin.close()
    except BaseException:  # Ctrl-C in here: a caller who gets no handle must not be left with a run
        process.kill()
        process.communicate()  # which closes its standard input too
        raise
    # Collect the exit status, or the ended runner would stay as a zombie as long as this process lives.
    threading.Thread(target=process.wait, name=f"reap-{run.run_id}", daemon=True).start()


def new_run_id(pipeline: str) -> str:
    """Return a fresh id: the pipeline's name and four hexadecimal digits."""
    slug = re.sub(r"[^\w-]+", "-", pipeline).strip("-") or "run"
    taken = {run.run_id for run in all_run_dirs()}
    while (run_id := f"{slug[:60]}-{random_secrets.token_hex(2)}") in taken:
        continue
    return run_id


def models_of(graph: Graph) -> dict[str, dict[str, Any]]:
    """Return what may be known of each model that is asked, by its place; equal `number`s share their limits."""
    models: dict[str, dict[str, Any]] = {}
    numbers: dict[object, int] = {}
    for name, step in graph.steps.items():
        if isinstance(step, Task) and step.llm is not None:
            for place, llm in senders_of(step).items():
                models[place] = {
                    "step": name,
                    "number": numbers.setdefault(
                        (llm.digest, *limits_key(llm)), len(numbers)
                    ),  # never the key
                    "label": llm.label,
                    "max_concurrency": llm.max_concurrency,
                    "rpm": llm.rpm,
                    "tpm": llm.tpm,
                    "texts_per_request": llm.texts_per_request,
                }
    return models


def is_rehearsed(step: object) -> bool:
    """Whether a step asks the rehearsal model."""
    llms = step.llm.senders() if isinstance(step, Task) and step.llm is not None else ()
    return any(llm.provider == "rehearsal" for llm in llms)

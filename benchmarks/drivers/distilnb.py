"""distilnb, through its public names, as a notebook would use it.

Variants of W1: rows, columns, list, and with `-arrow` the first two from an Arrow file. "durable" is the moment
in which the run has ended with everything on disk; the wall is to the Distiset in hand.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from typing import Any

import distilnb as dn
from benchmarks.data import Row, prompts, wide_rows
from benchmarks.drivers import Result, drive, server_stats
from benchmarks.drivers.cell_kernel import cell
from benchmarks.drivers.panel_kernel import panel

_HANG_TIMEOUT_S = 2.0
_PATIENCE_S = 600.0
_PAUSE_S = 0.6  # what lies between two cells of a fast typist
_N_WARM = 5
_PACE = 11_500  # rows/s of `paced`, so that over a whole run, start-up and end included, there are 10,000


def model(arguments: argparse.Namespace, name: str = "mock-model", **options: Any) -> Any:
    """Return the mock server's model; it wants no key."""
    return dn.llm(f"openai:{name}", base_url=arguments.url, max_concurrency=arguments.concurrency, **options)


def finish(run: Any, began: float) -> tuple[Result, Any]:
    """Wait for a run and take its result; return what both took, and the result."""
    status = run.wait(_PATIENCE_S)
    durable_s = time.perf_counter() - began
    if status.state != "finished":
        raise SystemExit(f"{status!r} {status.error}")
    result = run.distiset()
    return {"durable_s": durable_s, "wall_s": time.perf_counter() - began}, result


def count(result: Any, column: str, n_rows: int) -> Result:
    """Return how many rows have a value, and how many of all are missing."""
    complete = sum(bool(row[column]) for row in result.rows())
    return {"complete": complete, "lost": n_rows - complete}


# --- W1 -----------------------------------------------------------------------------------------------------------


@dn.step
def add_length(rows: list[Row]) -> Iterator[list[Row]]:
    yield [{**row, "length": len(row["instruction"])} for row in rows]


@dn.step
def keep_even(rows: list[Row]) -> Iterator[list[Row]]:
    yield [row for row in rows if row["id"] % 2 == 0]


@dn.step
def rename(rows: list[Row]) -> Iterator[list[Row]]:
    yield [{("prompt" if name == "instruction" else name): row[name] for name in row} for row in rows]


@dn.step
def expand(rows: list[Row]) -> Iterator[list[Row]]:
    yield [{**row, "generations": one} for row in rows for one in row["generations"]]


def four_steps(pipeline: Any, *, of_columns: bool) -> Any:
    """Append the steps of W1: as functions over lists of dicts, or as the built-in verbs."""
    if of_columns:
        measured = pipeline.map(lambda instruction: {"length": len(instruction)})
        return measured.filter("id % 2 == 0").rename(instruction="prompt").expand("generations")
    return pipeline.then(add_length).then(keep_even).then(rename).then(expand)


def w1(arguments: argparse.Namespace) -> Result:
    """Four cheap steps from a file or a list; everything ends on disk."""
    given = list(wide_rows(arguments.rows)) if arguments.variant == "list" else None
    of_columns = arguments.variant.startswith("columns")
    four_steps(dn.Pipeline("imports").from_dicts(list(wide_rows(1))), of_columns=of_columns)
    began = time.perf_counter()
    source = dn.Pipeline("w1")
    source = source.from_files(arguments.data) if given is None else source.from_dicts(given)
    run = four_steps(source, of_columns=of_columns).start()
    status = run.wait(_PATIENCE_S)
    wall_s = time.perf_counter() - began
    if status.state != "finished" or any(step.failed for step in status.steps):
        raise SystemExit(f"{status!r} {status.error}")
    return {"rows": status.steps[-1].made, "wall_s": wall_s}


def result(arguments: argparse.Namespace) -> Result:
    """What lies between the end of a run and its rows in the kernel: as a Distiset, a Dataset, a DataFrame."""
    run = four_steps(dn.Pipeline("result").from_files(arguments.data), of_columns=True).start()
    status = run.wait(_PATIENCE_S)
    began = time.perf_counter()
    distiset = run.distiset()
    distiset_s = time.perf_counter() - began
    n_rows = len(distiset["default"]["train"])
    dataset_s = time.perf_counter() - began
    began = time.perf_counter()
    run.to_pandas()
    return {
        "wall_s": distiset_s,
        "distiset_s": distiset_s,
        "dataset_s": dataset_s,
        "frame_s": time.perf_counter() - began,
        "rows": n_rows,
        "lost": status.steps[-1].made - n_rows,
    }


def paced(rows: int) -> Any:
    """Return a pipeline of four cheap steps whose source brings `_PACE` rows a second, as long as they last."""

    @dn.step(outputs=["id", "instruction", "generations"], step_type="generator")
    def source(offset: int = 0, n_rows: int = rows, pace: int = _PACE) -> Iterator[tuple[list[Row], bool]]:
        import time

        from benchmarks.data import wide_rows

        every = list(wide_rows(1000))
        began = time.monotonic()
        for start in range(offset, n_rows, 1000):
            time.sleep(max(0.0, began + (start - offset) / pace - time.monotonic()))
            yield [{**row, "id": start + row["id"]} for row in every], start + 1000 >= n_rows

    return four_steps(dn.Pipeline("events") >> source(), of_columns=True)


def events(arguments: argparse.Namespace) -> Result:
    """10,000 rows a second for as long as the rows last: what the runner costs then."""
    pipeline = paced(arguments.rows)
    began = time.perf_counter()
    run = pipeline.start()
    measured, _ = finish(run, began)
    steps = run.status().steps
    return {**measured, "rows": steps[-1].made, "rows_in_per_s": steps[0].made / measured["durable_s"]}


# --- asking -------------------------------------------------------------------------------------------------------


def one_step(arguments: argparse.Namespace, rows: list[Row], **options: Any) -> Any:
    """Return the pipeline of W2: one prompt a row."""
    return (
        dn.Pipeline("w2")
        .from_dicts(rows)
        .generate("answer", "{{ instruction }}", llm=model(arguments, **options))
    )


def w2(arguments: argparse.Namespace) -> Result:
    """Ask one prompt a row."""
    options = {"timeout": _HANG_TIMEOUT_S} if arguments.function == "w4h" else {}
    pipeline = one_step(arguments, prompts(arguments.rows), **options)
    began = time.perf_counter()
    run = pipeline.start()
    measured, result = finish(run, began)
    counted = count(result, "generations", arguments.rows)
    if counted["lost"]:  # told in the results: why
        counted["reasons"] = run.errors()["reason"].str.slice(0, 120).value_counts().head(5).to_dict()
    return {**measured, **counted}


def w3(arguments: argparse.Namespace) -> Result:
    """Two generators with two replies each, then a judge over the four."""
    pipeline = (
        dn.Pipeline("w3")
        .from_dicts(prompts(arguments.rows))
        .generate("answer", llm=[model(arguments, "gen-a"), model(arguments, "gen-b")], k=2)
        .judge("ultrafeedback", llm=model(arguments, "judge"))
    )
    began = time.perf_counter()
    run = pipeline.start()
    overlap = Overlap(arguments.rows)
    run.wait(_PATIENCE_S, on_status=overlap.look)
    measured, result = finish(run, began)
    whole = sum(len(row["ratings"]) == 4 and None not in row["ratings"] for row in result.rows())
    return {
        **measured,
        "complete": whole,
        "lost": arguments.rows - whole,
        "judged_before_generated": overlap.judged,
    }


class Overlap:
    """How many rows were judged when the generators had not ended yet, as far as a look now and then tells."""

    def __init__(self, n_rows: int) -> None:
        self.judged = 0
        self._n_rows = n_rows

    def look(self, status: Any) -> None:
        """Take a status."""
        done = {step.name: step.ended for step in status.steps}
        generators = [step.ended for step in status.steps if step.asked or step.cached]
        if generators and min(done[name] for name in done if name.startswith("answer")) < self._n_rows:
            self.judged = max(self.judged, done.get("judge", 0))


def w5(arguments: argparse.Namespace) -> Result:
    """Begin a run, or find the one that was begun, and go on until it is finished, whoever was killed."""
    began = time.perf_counter()
    begun = dn.runs()
    pipeline = one_step(arguments, prompts(arguments.rows))
    pipeline = pipeline.map(lambda generations: {"n_words": len(generations[0].split())})
    run = begun[0] if begun else pipeline.start()
    n_resumed = 0
    while (status := run.wait(_PATIENCE_S)).state != "finished":
        if n_resumed == 5:
            raise SystemExit(f"{status!r} {status.error}")
        n_resumed += 1
        run = run.resume()
    result = run.distiset()
    ids = {row["id"] for row in result.rows()}
    return {
        "wall_s": time.perf_counter() - began,
        "rows": len(ids),
        "n_resumed": n_resumed,
        **count(result, "generations", arguments.rows),
    }


# --- W6 -----------------------------------------------------------------------------------------------------------


def w6preview(arguments: argparse.Namespace) -> Result:
    """Five rows in the kernel: the first preview of a process, further ones with the prompt changed, all cached.

    `first_s` follows the building of the pipeline after a short pause, as a cell follows a cell; with the variant
    `hasty` without it.
    """
    rows = prompts(arguments.rows)
    pipeline = one_step(arguments, rows)
    if arguments.variant != "hasty":
        time.sleep(_PAUSE_S)
    began = time.perf_counter()
    complete = len(pipeline.preview(5).rows)
    first_s = time.perf_counter() - began
    warm = []
    for number in range(_N_WARM):
        began = time.perf_counter()
        edited = pipeline.generate(
            "answer", f"Once more, {number}: {{{{ instruction }}}}", llm=model(arguments)
        )
        edited.preview(5)
        warm.append(time.perf_counter() - began)
    began = time.perf_counter()
    pipeline.preview(5)
    cached_s = time.perf_counter() - began
    return {
        "wall_s": first_s,
        "first_s": first_s,
        "warm_s": sorted(warm)[_N_WARM // 2],
        "cached_s": cached_s,
        "complete": complete,
        "lost": 5 - complete,
    }


def two_steps(arguments: argparse.Namespace, rows: list[Row], edit: str) -> Any:
    """Return a draft and an improvement of it, whose prompt is the one that is edited."""
    return (
        dn.Pipeline("w6", llm=model(arguments))
        .from_dicts(rows)
        .generate("draft", "{{ instruction }}", into="drafts")
        .generate("final", f"Improve {edit}: {{{{ drafts[0] }}}}", into="finals")
    )


def w6edit(arguments: argparse.Namespace) -> Result:
    """One full run; the harness calls it twice, with another last prompt the second time."""
    pipeline = two_steps(arguments, prompts(arguments.rows), arguments.edit)
    began = time.perf_counter()
    measured, result = finish(pipeline.start(), began)
    return {**measured, **count(result, "finals", arguments.rows)}


def w6series(arguments: argparse.Namespace) -> Result:
    """The edits of an hour in one kernel, each through a full background run; requests counted by the server."""
    found: Result = {}
    n_rows, more = prompts(arguments.rows), prompts(10, start=arguments.rows)
    steps = {
        "first": (n_rows, "A"),
        "again": (n_rows, "A"),
        "edited": (n_rows, "B"),
        "appended": ([*n_rows, *more], "B"),
    }
    for name, (rows, edit) in steps.items():
        before = server_stats(arguments.url)["requests"]
        began = time.perf_counter()
        measured, _ = finish(two_steps(arguments, rows, edit).start(), began)
        found[f"{name}_s"] = measured["wall_s"]
        found[f"{name}_requests"] = server_stats(arguments.url)["requests"] - before
    before = server_stats(arguments.url)["requests"]
    two_steps(arguments, n_rows, "B").preview(5)
    found["preview_requests"] = server_stats(arguments.url)["requests"] - before
    return {**found, "wall_s": found["edited_s"]}


# --- start-up, cache ----------------------------------------------------------------------------------------------


def start(arguments: argparse.Namespace) -> Result:
    """When `start()` returns, when something is journaled, when the first rows of the model are on disk."""
    pipeline = one_step(arguments, prompts(arguments.rows))
    began = time.perf_counter()
    run = pipeline.start()
    found = {"start_s": time.perf_counter() - began}
    while "rows_s" not in found:
        status = run.status()
        passed_s = time.perf_counter() - began
        if status.state != "starting":
            found.setdefault("event_s", passed_s)
        if status.is_ended or status.step("answer").done:
            found["rows_s"] = passed_s
        time.sleep(0.002)
    measured, result = finish(run, began)
    return {**measured, **found, **count(result, "generations", arguments.rows)}


def cache(arguments: argparse.Namespace) -> Result:
    """A cache of a million replies: how long a batch of 1,000 takes; two runs and a preview share it at once."""
    from benchmarks.drivers.filled_cache import lookup_times

    measured: Result = dict(lookup_times(arguments.rows))
    rows = prompts(1000)
    pipelines = [
        dn.Pipeline(name)
        .from_dicts(rows)
        .generate("answer", "{{ instruction }}", llm=model(arguments), into=f"{name}s")
        for name in ("one", "two")
    ]
    began = time.perf_counter()
    runs = [pipeline.start() for pipeline in pipelines]
    previewed = len(pipelines[0].preview(5).rows)
    states = [run.wait(_PATIENCE_S).state for run in runs]
    measured["shared_s"] = time.perf_counter() - began
    before = server_stats(arguments.url)["requests"]
    again = pipelines[0].start(new=True)
    states.append(again.wait(_PATIENCE_S).state)
    failed = sum(step.failed for run in [*runs, again] for step in run.status().steps)
    return {
        **measured,
        "complete": previewed + sum(run.status().step("answer").done for run in runs),
        "lost": failed + sum(state != "finished" for state in states),
        "again_requests": server_stats(arguments.url)["requests"] - before,
    }


if __name__ == "__main__":
    assert os.environ["DISTILNB_HOME"].startswith(os.environ["HOME"])  # never the user's own
    drive(
        {
            "w1": w1,
            "result": result,
            "events": events,
            "panel": panel,
            "cell": cell,
            "w2": w2,
            "w3": w3,
            "w4h": w2,
            "w5": w5,
            "w6preview": w6preview,
            "w6edit": w6edit,
            "w6series": w6series,
            "start": start,
            "cache": cache,
        }
    )

"""distilabel. A variant bN sets the batch size of W1; without one it is the library's own, 50."""

# No `from __future__ import annotations`: distilabel looks for the type StepInput itself, not for its name.

import argparse
import os
import time
from collections.abc import Iterable
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import ExpandColumns, GroupColumns, LoadDataFromDicts, StepInput, step
from distilabel.steps.tasks import TextGeneration, UltraFeedback

from benchmarks.data import prompts, wide_rows
from benchmarks.drivers import Result, count_complete, drive


@step(inputs=["instruction"], outputs=["length"])
def AddLength(inputs: StepInput) -> Any:
    for row in inputs:
        row["length"] = len(row["instruction"])
    yield inputs


@step(inputs=["id"], outputs=[])
def KeepEven(inputs: StepInput) -> Any:
    yield [row for row in inputs if row["id"] % 2 == 0]


@step(inputs=["instruction"], outputs=["prompt"])
def Rename(inputs: StepInput) -> Any:
    for row in inputs:
        row["prompt"] = row.pop("instruction")
    yield inputs


@step(inputs=["generations"], outputs=["generations"])
def Flatten(inputs: StepInput) -> Any:
    for row in inputs:
        row["generations"] = [text for texts in row["generations"] for text in texts]
    yield inputs


def model(arguments: argparse.Namespace, name: str = "mock-model") -> Any:
    """Return the mock server's model."""
    timeout = 2 if arguments.function == "w4h" else 120
    return OpenAILLM(model=name, base_url=arguments.url, api_key="none-needed", timeout=timeout)


def rows_of(distiset: Any) -> Any:
    """Return the rows of the only leaf; none where every batch failed."""
    return distiset["default"]["train"] if len(distiset) else []


def column_of(rows: Any, name: str) -> Iterable[Any]:
    """Return a column, nothing when there are no rows."""
    column: Iterable[Any] = rows[name] if len(rows) else []
    return column


def w1(arguments: argparse.Namespace) -> Result:
    """Add a column, keep even ids, rename, expand a list."""
    size = int(arguments.variant.removeprefix("b") or 50)
    rows = list(wide_rows(arguments.rows))
    with Pipeline(name="w1", cache_dir=arguments.work) as pipeline:
        (
            LoadDataFromDicts(data=rows, batch_size=size)
            >> AddLength(input_batch_size=size)
            >> KeepEven(input_batch_size=size)
            >> Rename(input_batch_size=size)
            >> ExpandColumns(columns=["generations"], input_batch_size=size)
        )
    began = time.perf_counter()
    n_out = len(rows_of(pipeline.run(use_cache=False)))
    return {"rows": n_out, "wall_s": time.perf_counter() - began}


def w2(arguments: argparse.Namespace) -> Result:
    """Ask one prompt a row; its concurrency is the size of its batch."""
    size = arguments.concurrency
    with Pipeline(name="w2", cache_dir=arguments.work) as pipeline:
        load = LoadDataFromDicts(data=prompts(arguments.rows), batch_size=size)
        load >> TextGeneration(llm=model(arguments), input_batch_size=size)
    began = time.perf_counter()
    rows = rows_of(pipeline.run(use_cache=arguments.function == "w5"))
    wall_s = time.perf_counter() - began
    return {
        "wall_s": wall_s,
        "rows": len(rows),
        **count_complete(column_of(rows, "generation"), arguments.rows),
    }


def w3(arguments: argparse.Namespace) -> Result:
    """Two generators with two replies each, then a judge over the four."""
    size = arguments.concurrency
    with Pipeline(name="w3", cache_dir=arguments.work) as pipeline:
        load = LoadDataFromDicts(data=prompts(arguments.rows), batch_size=size)
        generators = [
            TextGeneration(
                name=name.replace("-", "_"),
                llm=model(arguments, name),
                num_generations=2,
                group_generations=True,
                input_batch_size=size,
            )
            for name in ("gen-a", "gen-b")
        ]
        group = GroupColumns(columns=["generation"], output_columns=["generations"], input_batch_size=size)
        judge = UltraFeedback(llm=model(arguments, "judge"), aspect="overall-rating", input_batch_size=size)
        load >> generators >> group >> Flatten(input_batch_size=size) >> judge
    began = time.perf_counter()
    rows = rows_of(pipeline.run(use_cache=False))
    wall_s = time.perf_counter() - began
    ratings = column_of(rows, "ratings")
    whole = sum(bool(one) and len(one) == 4 and None not in one for one in ratings)
    return {"wall_s": wall_s, "complete": whole, "lost": arguments.rows - whole}


def w6preview(arguments: argparse.Namespace) -> Result:
    """Its dry run of five rows."""
    with Pipeline(name="w6preview", cache_dir=arguments.work) as pipeline:
        LoadDataFromDicts(data=prompts(arguments.rows)) >> TextGeneration(llm=model(arguments))
    began = time.perf_counter()
    rows = rows_of(pipeline.dry_run(batch_size=5))
    wall_s = time.perf_counter() - began
    return {"wall_s": wall_s, **count_complete(column_of(rows, "generation"), 5)}


def w6edit(arguments: argparse.Namespace) -> Result:
    """A draft and an improvement of it, whose prompt is edited between two calls."""
    with Pipeline(name="w6edit", cache_dir=arguments.work) as pipeline:
        load = LoadDataFromDicts(data=prompts(arguments.rows), batch_size=100)
        draft = TextGeneration(
            name="draft",
            llm=model(arguments),
            input_batch_size=100,
            output_mappings={"generation": "draft"},
        )
        final = TextGeneration(
            name="final",
            llm=model(arguments),
            input_batch_size=100,
            columns=["draft"],
            template=f"Improve {arguments.edit}: {{{{ draft }}}}",
        )
        load >> draft >> final
    began = time.perf_counter()
    rows = rows_of(pipeline.run(use_cache=True))
    wall_s = time.perf_counter() - began
    return {"wall_s": wall_s, **count_complete(column_of(rows, "generation"), arguments.rows)}


if __name__ == "__main__":
    drive(
        {"w1": w1, "w2": w2, "w3": w3, "w4h": w2, "w5": w2, "w6preview": w6preview, "w6edit": w6edit},
    )

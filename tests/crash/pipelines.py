"""The pipelines that are killed: every kind of stage, slow where a kill is to find it at work."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from distilnb.llms.openai import OpenAILLM
from distilnb.pipeline import Pipeline
from distilnb.rows import Row
from distilnb.spec.step import Step, StepResources
from distilnb.steps.columns import ExpandColumns, KeepColumns
from distilnb.steps.dedup import ExactDedup
from distilnb.steps.filter import FilterRows
from distilnb.steps.join import GroupColumns
from distilnb.steps.route import RouteRows
from distilnb.steps.sources import LoadDataFromDicts, LoadDataFromFileSystem
from distilnb.tasks.generation import TextGeneration
from distilnb.tasks.ultrafeedback import UltraFeedback

VARIANTS = ("file", "list", "failing", "rows", "routed")
N_ROWS = 80
CONCURRENCY = 6  # of each of the three models
MODELS = ("writer-1", "writer-2", "judge")
MAX_IN_FLIGHT = CONCURRENCY * len(MODELS)
JUDGE_TEMPLATE = "{each}#### Output for Text {i}\nRating: {score}\nRationale: {words}\n\n{/each}"


def build(variant: str, base_url: str, folder: Path) -> Pipeline:
    """Return a pipeline; the file that it reads is written when it is not there."""
    rows = rows_of(variant)
    with Pipeline(f"crash-{variant}") as pipeline:
        if variant in ("file", "failing"):
            path = folder / f"{variant}.jsonl"
            if not path.exists():
                path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            load: Step = LoadDataFromFileSystem(name="load", data_files=str(path))
        else:
            load = LoadDataFromDicts(name="load", data=rows)
        # So there are two row workers, or three, whatever the machine; they share this step.
        prepare = Prepare(name="prepare", input_batch_size=9, resources=StepResources(replicas=2))
        load >> prepare
        if variant == "rows":
            branches = [Prepare(name="left", input_batch_size=7), Prepare(name="right")]
            both = SlowGroup(name="both", columns=["instruction"], output_columns=["generations"])
            prepare >> branches >> both >> Rate(name="judge") >> (keep := _keep())
        else:
            writers = [TextGeneration(name=name, llm=_model(name, base_url)) for name in MODELS[:2]]
            both = SlowGroup(name="both", columns=["generation"], output_columns=["generations"])
            judge = UltraFeedback(name="judge", llm=_model("judge", base_url))
            if variant == "routed":
                # Rows for the first, for the second, for both, and those that meet no condition.
                when = {"writer-1": "number % 3 != 0", "writer-2": "number % 2 == 0"}
                route = RouteRows(name="route", branches=list(when), when=when, default="writer-2")
                prepare >> route >> writers >> both
            else:
                prepare >> writers >> both
            both >> judge >> (keep := _keep())
        each = ExpandColumns(name="each", columns={"generations": "text", "ratings": "rating"})
        shape = KeepColumns(name="shape", columns=["number", "text", "rating"])
        keep >> each >> SlowDedup(name="dedup", columns=["topic", "rating"]) >> Last(name="last") >> shape
    return pipeline


def rows_of(variant: str) -> list[Row]:
    """Return the rows of a variant; of the failing one some fail in a step, and some at a model."""
    rows: list[Row] = [{"number": i, "topic": f"topic {i % 37}"} for i in range(N_ROWS)]
    if variant == "failing":
        for row in rows[::9]:
            row["topic"] = None
        for row, mark in zip(
            rows[4::9], ("[[empty]]", "[[null]]", "[[empty@writer-2]]", "[[half@judge]]"), strict=False
        ):
            row["topic"] += " " + mark
    return rows


def _model(name: str, base_url: str) -> OpenAILLM:
    return OpenAILLM(model=name, base_url=base_url, max_concurrency=CONCURRENCY, price=(1.0, 1.0))


def _keep() -> FilterRows:
    return FilterRows(name="keep", condition="ratings[0] != 3")


class Prepare(Step):
    """Makes the instruction; a row without a topic fails."""

    outputs = ["instruction"]

    def process(self, rows: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        made = []
        for row in rows:
            if row["topic"] is None:
                raise ValueError(f"row {row['number']} has no topic")
            made.append({**row, "instruction": f"Write line {row['number']} about {row['topic']}."})
        yield made


class Rate(Step):
    """Rates without a model."""

    outputs = ["ratings"]

    def process(self, rows: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        yield [{**row, "ratings": [row["number"] % 5 + 1, row["number"] % 4 + 1]} for row in rows]


class SlowGroup(GroupColumns):
    """A join that takes its time over each row."""

    def process(self, *inputs: list[Row]) -> Iterator[list[Row]]:
        for _ in inputs[0]:
            time.sleep(0.004)
        yield from super().process(*inputs)


class SlowDedup(ExactDedup):
    """A global step that takes half a second, in small sleeps."""

    def process(self, rows: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        for _ in range(50):
            time.sleep(0.01)
        yield from super().process(rows)


class Last(Step):
    """The last step but one: it takes its time, so that a kill may find the run about to finish."""

    def process(self, rows: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        for _ in range(20):
            time.sleep(0.01)
        yield rows

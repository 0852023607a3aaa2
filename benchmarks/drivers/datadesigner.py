"""NeMo Data Designer. It maps N records to N: no filter and no expand, so W1 is four expression columns.

A variant buffer=N sets how many records it works on at once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.data import Row, prompts, wide_rows
from benchmarks.drivers import Result, count_complete, drive, without_downloads

without_downloads()

import data_designer.config as dd
import pandas as pd
from data_designer.interface import DataDesigner

MODEL = "mock-model"


def seeded(arguments: argparse.Namespace, rows: Sequence[Row], models: Sequence[str] = (MODEL,)) -> Any:
    """Return a configuration over rows, without columns yet."""
    limits: dict[str, Any] = {"max_parallel_requests": arguments.concurrency}
    if arguments.function == "w4h":
        limits["timeout"] = 2
    builder = dd.DataDesignerConfigBuilder(
        model_configs=[
            dd.ModelConfig(
                alias=model,
                model=model,
                provider="mock",
                skip_health_check=True,
                inference_parameters=dd.ChatCompletionInferenceParams(**limits),
            )
            for model in models
        ]
    )
    builder.with_seed_dataset(dd.DataFrameSeedSource(df=pd.DataFrame(list(rows))))
    return builder


def add_prompt(builder: Any, name: str, prompt: str, model: str = MODEL) -> None:
    """Add a column that a model writes."""
    builder.add_column(dd.LLMTextColumnConfig(name=name, model_alias=model, prompt=prompt))


def designer(arguments: argparse.Namespace) -> Any:
    """Return its interface, which writes into the work folder."""
    provider = dd.ModelProvider(
        name="mock", endpoint=arguments.url, provider_type="openai", api_key="none-needed"
    )
    made = DataDesigner(artifact_path=arguments.work, model_providers=[provider])
    if arguments.variant.startswith("buffer="):
        size = int(arguments.variant.removeprefix("buffer="))
        made.set_run_config(dd.RunConfig(buffer_size=size))
    return made


def create(arguments: argparse.Namespace, builder: Any, name: str, **options: Any) -> tuple[Any, float]:
    """Run a configuration; return its frame and the seconds that it took."""
    interface = designer(arguments)
    began = time.perf_counter()
    result = interface.create(builder, num_records=arguments.rows, dataset_name=name, **options)
    frame = result.load_dataset()
    return frame, time.perf_counter() - began


def w1(arguments: argparse.Namespace) -> Result:
    """Four expression columns."""
    builder = seeded(arguments, list(wide_rows(arguments.rows)))
    expressions = {
        "length": ("{{ instruction | length }}", "int"),
        "even": ("{{ id % 2 == 0 }}", "bool"),
        "prompt": ("{{ instruction }}", "str"),
        "first": ("{{ generations[0] }}", "str"),
    }
    for name, (expression, kind) in expressions.items():
        builder.add_column(dd.ExpressionColumnConfig(name=name, expr=expression, dtype=kind))
    frame, wall_s = create(arguments, builder, "w1")
    return {"rows": len(frame), "wall_s": wall_s}


def w2(arguments: argparse.Namespace) -> Result:
    """Ask one prompt a row."""
    builder = seeded(arguments, prompts(arguments.rows))
    add_prompt(builder, "generation", "{{ instruction }}")
    resume = {"resume": dd.ResumeMode.IF_POSSIBLE} if arguments.function == "w5" else {}
    frame, wall_s = create(arguments, builder, "w2", **resume)
    return {"wall_s": wall_s, "rows": len(frame), **count_complete(frame["generation"], arguments.rows)}


def w3(arguments: argparse.Namespace) -> Result:
    """Two generators with two columns each, then a judge over the four."""
    builder = seeded(arguments, prompts(arguments.rows), ("gen-a", "gen-b", "judge"))
    names = [f"{model[-1]}{number}" for model in ("gen-a", "gen-b") for number in (1, 2)]
    for name in names:
        add_prompt(builder, name, "{{ instruction }}", f"gen-{name[0]}")
    texts = [f"Text {number}: {{{{ {name} }}}}" for number, name in enumerate(names, 1)]
    add_prompt(builder, "judgement", "\n\n".join(["{{ instruction }}", *texts]), "judge")
    frame, wall_s = create(arguments, builder, "w3")
    return {"wall_s": wall_s, **count_complete(frame["judgement"], arguments.rows)}


def w6preview(arguments: argparse.Namespace) -> Result:
    """Its preview of five records."""
    builder = seeded(arguments, prompts(arguments.rows))
    add_prompt(builder, "generation", "{{ instruction }}")
    interface = designer(arguments)
    began = time.perf_counter()
    frame = interface.preview(builder, num_records=5).dataset
    wall_s = time.perf_counter() - began
    return {"wall_s": wall_s, **count_complete(frame["generation"], 5)}


def w6edit(arguments: argparse.Namespace) -> Result:
    """A draft and an improvement of it, whose prompt is edited between two calls."""
    builder = seeded(arguments, prompts(arguments.rows))
    add_prompt(builder, "draft", "{{ instruction }}")
    add_prompt(builder, "final", f"Improve {arguments.edit}: {{{{ draft }}}}")
    frame, wall_s = create(arguments, builder, "w6edit", resume=dd.ResumeMode.IF_POSSIBLE)
    return {"wall_s": wall_s, **count_complete(frame["final"], arguments.rows)}


if __name__ == "__main__":
    drive({"w1": w1, "w2": w2, "w3": w3, "w4h": w2, "w5": w2, "w6preview": w6preview, "w6edit": w6edit})

"""bespokelabs-curator. Its only engine is the call of a model, so W1 is not for it."""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from benchmarks.data import Row, prompts
from benchmarks.drivers import Result, count_complete, drive, option, without_downloads

os.environ.update(CURATOR_CACHE_DIR=option("--work"), CURATOR_DISABLE_RICH_DISPLAY="1")
without_downloads()

from bespokelabs import curator
from datasets import Dataset


class Answer(curator.LLM):  # type: ignore[misc]  # the library has no types
    def prompt(self, row: Row) -> str:
        text: str = row["instruction"]
        return text

    def parse(self, row: Row, response: str) -> Row:
        return {**row, "generation": response}


class ImproveA(curator.LLM):  # type: ignore[misc]
    def prompt(self, row: Row) -> str:
        return f"Improve A: {row['generation']}"

    def parse(self, row: Row, response: str) -> Row:
        return {**row, "final": response}


class ImproveB(curator.LLM):  # type: ignore[misc]
    def prompt(self, row: Row) -> str:
        return f"Improve B: {row['generation']}"

    def parse(self, row: Row, response: str) -> Row:
        return {**row, "final": response}


class Judge(curator.LLM):  # type: ignore[misc]
    def prompt(self, row: Row) -> str:
        texts = [f"Text {number}: {text}" for number, text in enumerate(row["generations"], 1)]
        return "\n\n".join([row["instruction"], *texts])

    def parse(self, row: Row, response: str) -> Row:
        return {**row, "judgement": response}


def ask(
    kind: Any, rows: list[Row] | Dataset, arguments: argparse.Namespace, model: str = "mock-model"
) -> Any:
    """Run one of its calls over rows and return the table that it makes."""
    settings = {
        "base_url": arguments.url,
        "max_concurrent_requests": arguments.concurrency,
        "max_requests_per_minute": 10_000_000,
        "max_tokens_per_minute": 10_000_000_000,
        "require_all_responses": False,
    }
    if arguments.function == "w4h":
        settings["request_timeout"] = 2
    caller = kind(model_name=model, backend="openai", backend_params=settings)
    result = caller(Dataset.from_list(rows) if isinstance(rows, list) else rows)
    return getattr(result, "dataset", result)


def w2(arguments: argparse.Namespace) -> Result:
    """Ask one prompt a row."""
    began = time.perf_counter()
    table = ask(Answer, prompts(arguments.rows), arguments)
    wall_s = time.perf_counter() - began
    return {"wall_s": wall_s, "rows": len(table), **count_complete(table["generation"], arguments.rows)}


def w3(arguments: argparse.Namespace) -> Result:
    """Two generators with two replies each, then a judge over the four; each call ends before the next."""
    rows = prompts(arguments.rows)
    began = time.perf_counter()
    replies: dict[int, list[str]] = {row["id"]: [] for row in rows}
    for model in ("gen-a", "gen-b"):
        doubled = [{**row, "number": number} for row in rows for number in range(2)]
        for row in ask(Answer, doubled, arguments, model):
            replies[row["id"]].append(row["generation"])
    table = ask(Judge, [{**row, "generations": replies[row["id"]]} for row in rows], arguments, "judge")
    wall_s = time.perf_counter() - began
    return {"wall_s": wall_s, **count_complete(table["judgement"], arguments.rows)}


def w6preview(arguments: argparse.Namespace) -> Result:
    """It has no preview: five rows."""
    return w2(argparse.Namespace(**{**vars(arguments), "rows": 5}))


def w6edit(arguments: argparse.Namespace) -> Result:
    """A draft and an improvement of it, whose prompt is edited between two calls."""
    began = time.perf_counter()
    drafts = ask(Answer, prompts(arguments.rows), arguments)
    finals = ask(ImproveA if arguments.edit == "A" else ImproveB, drafts, arguments)
    wall_s = time.perf_counter() - began
    return {"wall_s": wall_s, **count_complete(finals["final"], arguments.rows)}


if __name__ == "__main__":
    drive({"w2": w2, "w3": w3, "w4h": w2, "w5": w2, "w6preview": w6preview, "w6edit": w6edit})

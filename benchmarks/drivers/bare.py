"""The physical limit: what plain Python, Arrow and a hand-written asyncio loop take for the same work.

Variants of W1: list, list-file (reads the file too), arrow, datasets. Of the others: aiohttp, openai,
openai-aiohttp.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.data import Row, prompts, wide_rows
from benchmarks.drivers import Result, count_complete, drive, option

VARIANT = option("--variant")
if VARIANT == "aiohttp":
    import aiohttp
elif VARIANT.startswith("openai"):
    import openai
elif VARIANT == "arrow":
    import pyarrow as pa
    import pyarrow.compute as pc
elif VARIANT == "datasets":
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    import datasets

T = TypeVar("T")
Messages = list[dict[str, str]]

_HANG_TIMEOUT_S = 2.0  # w4h: what waits longer is asked again, here as in the other drivers
_N_TRIES = 8


# --- W1 -----------------------------------------------------------------------------------------------------------


def w1(arguments: argparse.Namespace) -> Result:
    """Add a column, keep even ids, rename, expand a list."""
    if VARIANT == "list-file":
        began = time.perf_counter()
        with Path(arguments.data).open(encoding="utf-8") as file:
            n_out = len(_four_steps(json.loads(line) for line in file))
        return {"rows": n_out, "wall_s": time.perf_counter() - began}
    rows = list(wide_rows(arguments.rows))
    steps = {"list": _four_steps, "arrow": _four_steps_of_arrow, "datasets": _four_steps_of_datasets}
    began = time.perf_counter()
    n_out = len(steps[VARIANT](rows))
    return {"rows": n_out, "wall_s": time.perf_counter() - began}


def _four_steps(rows: Iterable[Row]) -> Sequence[Row]:
    made = [{**row, "length": len(row["instruction"])} for row in rows]
    made = [row for row in made if row["id"] % 2 == 0]
    made = [{("prompt" if name == "instruction" else name): row[name] for name in row} for row in made]
    return [{**row, "generations": one} for row in made for one in row["generations"]]


def _four_steps_of_arrow(rows: Sequence[Row]) -> Any:
    table = pa.Table.from_pylist(rows)
    table = table.append_column("length", pc.utf8_length(table["instruction"]))
    table = table.filter(pc.equal(pc.bit_wise_and(table["id"], 1), 0))
    table = table.rename_columns(["prompt" if name == "instruction" else name for name in table.column_names])
    items, parents = pc.list_flatten(table["generations"]), pc.list_parent_indices(table["generations"])
    return table.drop_columns(["generations"]).take(parents).append_column("generations", items)


def _four_steps_of_datasets(rows: Sequence[Row]) -> Any:
    def expand(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pairs = [(index, one) for index, items in enumerate(batch["generations"]) for one in items]
        rest = {name: [batch[name][index] for index, _ in pairs] for name in batch}
        return {**rest, "generations": [one for _, one in pairs]}

    folder = option("--work")  # every step ends in a file, as it does for a dataset that was loaded
    made = datasets.Dataset.from_list(rows)
    made = made.map(lambda row: {"length": len(row["instruction"])}, cache_file_name=f"{folder}/added.arrow")
    made = made.filter(lambda row: row["id"] % 2 == 0, cache_file_name=f"{folder}/kept.arrow")
    made = made.rename_column("instruction", "prompt")
    features = datasets.Features({**made.features, "generations": datasets.Value("string")})
    return made.map(expand, batched=True, features=features, cache_file_name=f"{folder}/expanded.arrow")


# --- asking -------------------------------------------------------------------------------------------------------


class Client:
    """One of three ways to send a chat request, with retries."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._url = arguments.url
        self._timeout_s = _HANG_TIMEOUT_S if arguments.function == "w4h" else 60.0

    async def __aenter__(self) -> Client:
        if VARIANT == "aiohttp":
            connector = aiohttp.TCPConnector(limit=0)
            timeout = aiohttp.ClientTimeout(total=self._timeout_s)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        else:
            http = openai.DefaultAioHttpClient() if VARIANT == "openai-aiohttp" else None
            self._openai = openai.AsyncOpenAI(
                base_url=self._url,
                api_key="none-needed",
                max_retries=_N_TRIES - 2,
                timeout=self._timeout_s,
                http_client=http,
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        await (self._session if VARIANT == "aiohttp" else self._openai).close()

    async def ask(self, messages: Messages, model: str = "mock-model", n: int = 1) -> list[str] | None:
        """Return n replies, or None when every try failed."""
        if VARIANT == "aiohttp":
            return await _retry(lambda: self._post(messages, model, n), _N_TRIES)
        # The client itself retries status codes and broken connections, but not a body that is no JSON.
        return await _retry(lambda: self._create(messages, model, n), 3)

    async def _post(self, messages: Messages, model: str, n: int) -> list[str]:
        body = {"model": model, "messages": messages, "n": n}
        async with self._session.post(self._url + "/chat/completions", json=body) as response:
            response.raise_for_status()
            reply = json.loads(await response.read())
        return [choice["message"]["content"] for choice in reply["choices"]]

    async def _create(self, messages: Messages, model: str, n: int) -> list[str]:
        given: Any = messages  # its types know a dict for each role
        reply = await self._openai.chat.completions.create(model=model, messages=given, n=n)
        return [choice.message.content or "" for choice in reply.choices]


async def _retry(send: Callable[[], Awaitable[list[str]]], n_tries: int) -> list[str] | None:
    for number in range(n_tries):
        try:
            return await send()
        except Exception:  # noqa: BLE001 - a hand-written loop that goes on whatever a request raises
            await asyncio.sleep(min(0.5 * 2**number, 8.0))
    return None


def _messages(text: str) -> Messages:
    return [{"role": "user", "content": text}]


async def _in_parallel(items: Sequence[T], n_at_once: int, work: Callable[[T], Awaitable[Any]]) -> list[Any]:
    made: list[Any] = [None] * len(items)
    numbers = iter(range(len(items)))

    async def worker() -> None:
        for number in numbers:
            made[number] = await work(items[number])

    await asyncio.gather(*[worker() for _ in range(n_at_once)])
    return made


def w2(arguments: argparse.Namespace) -> Result:
    """Ask one prompt a row."""

    async def ask_all() -> Result:
        rows = prompts(arguments.rows)
        async with Client(arguments) as client:
            began = time.perf_counter()
            replies = await _in_parallel(
                rows, arguments.concurrency, lambda row: client.ask(_messages(row["instruction"]))
            )
            wall_s = time.perf_counter() - began
        return {"wall_s": wall_s, **count_complete([r and r[0] for r in replies], arguments.rows)}

    return asyncio.run(ask_all())


def w3(arguments: argparse.Namespace) -> Result:
    """Two generators with two replies each, then a judge over the four; nothing waits for another row."""

    async def ask_all() -> Result:
        rows = prompts(arguments.rows)
        limits = {model: asyncio.Semaphore(arguments.concurrency) for model in ("gen-a", "gen-b", "judge")}
        async with Client(arguments) as client:

            async def ask(model: str, text: str, n: int) -> list[str]:
                async with limits[model]:
                    return await client.ask(_messages(text), model, n) or []

            async def judge(row: Row) -> str:
                text = row["instruction"]
                pairs = await asyncio.gather(ask("gen-a", text, 2), ask("gen-b", text, 2))
                texts = [f"Text {number}: {one}" for number, one in enumerate([*pairs[0], *pairs[1]], 1)]
                return "".join(await ask("judge", "\n\n".join([text, *texts]), 1))

            began = time.perf_counter()
            verdicts = await asyncio.gather(*[judge(row) for row in rows])
            wall_s = time.perf_counter() - began
        return {"wall_s": wall_s, **count_complete(verdicts, arguments.rows)}

    return asyncio.run(ask_all())


def w6preview(arguments: argparse.Namespace) -> Result:
    """Ask the first five prompts."""
    return w2(argparse.Namespace(**{**vars(arguments), "rows": 5}))


if __name__ == "__main__":
    drive({"w1": w1, "w2": w2, "w3": w3, "w4h": w2, "w6preview": w6preview})

"""The rows that the workloads work on: the same for everybody, made of a number alone."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]

INSTRUCTION_CHARS = 200
GENERATION_CHARS = 100
_N_BODIES = 1000  # different texts; each row adds its number in front, so that no two rows are equal

_WORDS = """
answer batch column draft evidence feedback grade hypothesis input judge label margin number outline
prompt query rating sample teacher unit verdict weight
""".split()  # noqa: SIM905 - a list of words reads as words


def instruction(number: int, chars: int = INSTRUCTION_CHARS) -> str:
    """Return the text of a prompt: its number, then words."""
    chance = random.Random(number)
    text = f"{number:08d} " + " ".join(chance.choices(_WORDS, k=chars // 4))
    return text[:chars].ljust(chars, ".")


def prompts(n_rows: int, start: int = 0) -> list[Row]:
    """Return rows with `id` and `instruction` (200 characters)."""
    return [{"id": number, "instruction": instruction(number)} for number in range(start, start + n_rows)]


def wide_rows(n_rows: int) -> Iterator[Row]:
    """Yield the rows of W1: `id`, `instruction` (200 characters), `generations` (two of about 100)."""
    bodies = [instruction(number)[8:] for number in range(_N_BODIES)]
    for number in range(n_rows):
        body = bodies[number % _N_BODIES]
        yield {
            "id": number,
            "instruction": f"{number:08d}{body}",
            "generations": [
                f"a{number:08d}{body[:GENERATION_CHARS]}",
                f"b{number:08d}{body[-GENERATION_CHARS:]}",
            ],
        }


def write_rows(path: Path, n_rows: int) -> None:
    """Write the rows of W1 to a file, JSON lines or Arrow by its suffix."""
    if path.suffix == ".arrow":
        _write_arrow(path, n_rows)
        return
    with path.open("w", encoding="utf-8") as file:
        for row in wide_rows(n_rows):
            file.write(json.dumps(row, separators=(",", ":")) + "\n")


def _write_arrow(path: Path, n_rows: int) -> None:
    from itertools import islice

    import pyarrow as pa

    rows = wide_rows(n_rows)
    first = pa.RecordBatch.from_pylist(list(islice(rows, 10_000)))
    with pa.ipc.new_file(str(path), first.schema) as file:
        file.write_batch(first)
        while piece := list(islice(rows, 10_000)):
            file.write_batch(pa.RecordBatch.from_pylist(piece, schema=first.schema))

"""The Sample: the few rows that every preview of a pipeline uses, pinned by id and kept as copies."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from distilnb.errors import InputError, NoRowsError
from distilnb.home import private_folder
from distilnb.rows import Batch, IdMaker, Row, dump_json, load_json, write_text
from distilnb.spec.step import GeneratorStep

SCANNED_ROWS = 10_000  # rows among which a sample is drawn; a longer source is not read for it
SEED = 0
_FORMAT = 1


def pinned_sample(pipeline: str, source: GeneratorStep, n_rows: int) -> Batch:
    """Return `n_rows` pinned rows of a source.

    The same rows as last time, in the same order, when the source did not change; rows that are gone from it are
    replaced, the others stay. Raises NoRowsError when the source is empty.
    """
    path = _path(pipeline, source.name)
    fingerprint = f"{source.digest} {source.fingerprint()}"
    stored, stored_for = _read(path)
    if stored_for == fingerprint and len(stored) >= n_rows:
        return stored.select(range(n_rows))
    scanned = _scan(source)
    chosen = _choose(scanned, stored, n_rows)
    pinned = scanned.select(chosen)
    write_text(
        path,
        dump_json(
            {
                "format": _FORMAT,
                "for": fingerprint,
                "rows": pinned.rows,
                "ids": pinned.ids,
                "orders": pinned.orders,
                "is_all": len(scanned) <= n_rows,
            }
        ),
    )
    return pinned


def find_row(source: GeneratorStep, wanted: int | str) -> Batch:
    """Return one row of a source by its ordinal or its id; raises InputError when it has none such."""
    ids = IdMaker(source.name)
    for index, row in enumerate(_rows(source)):
        row_id = ids.make(row)
        if wanted in (index, row_id):
            return Batch([row], [row_id], [[index]])
    raise InputError(
        f"Source {source.name!r} has no row {wanted!r}.", "Give an ordinal from 0 on, or a row id."
    )


def _choose(scanned: Batch, stored: Batch, n_rows: int) -> list[int]:
    """Return indices of scanned rows: those pinned before that still exist, then seeded random ones."""
    position = {row_id: index for index, row_id in enumerate(scanned.ids)}
    kept = [position[row_id] for row_id in stored.ids if row_id in position]
    others = sorted(set(range(len(scanned))) - set(kept))
    random.Random(SEED).shuffle(others)
    return kept + sorted(others[: max(0, n_rows - len(kept))])


def _scan(source: GeneratorStep) -> Batch:
    ids = IdMaker(source.name)
    batch = Batch()
    for index, row in enumerate(_rows(source)):
        if index >= SCANNED_ROWS:
            break
        batch.add(row, ids.make(row), [index])
    if not batch:
        raise NoRowsError(
            f"Source {source.name!r} made no row.", "Check the path, the split and the filters."
        )
    return batch


def _rows(source: GeneratorStep) -> Iterator[Row]:
    source = source.model_copy()  # `load` puts live things into the copy, never into the user's object
    source.load()
    try:
        for rows, is_last in source.process(offset=0):
            yield from rows
            if is_last:
                return
    finally:
        source.unload()


def _read(path: Path) -> tuple[Batch, str]:
    try:
        data = load_json(path.read_text(encoding="utf-8"))
        if data["format"] == _FORMAT:
            return Batch(data["rows"], data["ids"], data["orders"]), data["for"]
    except (OSError, KeyError, json.JSONDecodeError):  # none yet, or damaged: it is drawn anew
        pass
    return Batch(), ""


def _path(pipeline: str, source: str) -> Path:
    folder = private_folder("pipelines", _slug(pipeline))
    return folder / f"sample-{_slug(source)}.json"


def _slug(name: str) -> str:
    return re.sub(r"[^\w-]+", "-", name) or "pipeline"

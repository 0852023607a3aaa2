"""The Sample: the few rows that every preview of a pipeline uses, pinned by id and kept as copies."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from distilnb.errors import InputError, NoRowsError
from distilnb.home import folder_name, home, private_folder
from distilnb.rows import Batch, IdMaker, Row, dump_json, load_json, write_text
from distilnb.spec.step import GeneratorStep

SCANNED_ROWS = 10_000  # rows among which a sample is drawn; a longer source is not read for it
SEED = 0
_FORMAT = 1


def pinned_sample(pipeline: str, source: GeneratorStep, n_rows: int) -> Batch:
    """Return `n_rows` pinned rows of a source.

    They are the first of one list, whatever was asked for before: it grows when more rows are asked for, a row that
    is gone from the source is replaced in its place, and all others stay. Raises NoRowsError when the source is empty.
    """
    path = _path(pipeline, source.name)
    fingerprint = f"{source.digest} {source.fingerprint()}"
    stored, stored_for = _read(path)
    if stored_for == fingerprint and len(stored) >= n_rows:
        return stored.select(range(n_rows))
    scanned = _scan(source)
    pinned = scanned.select(_choose(scanned, stored, n_rows))
    write_text(
        path,
        dump_json(
            {
                "format": _FORMAT,
                "for": fingerprint,
                "rows": pinned.rows,
                "ids": pinned.ids,
                "orders": pinned.orders,
            }
        ),
    )
    return pinned.select(range(min(n_rows, len(pinned))))


def stored_sample(pipeline: str, source: GeneratorStep) -> Batch:
    """Return the rows that are pinned, which may be none; neither is the source looked at nor a file made."""
    return _read(home() / "pipelines" / folder_name(pipeline) / _file_name(source.name))[0]


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


def draw_rows(source: GeneratorStep, limit: int | None) -> tuple[Batch, int]:
    """Return the rows of a source that a run of at most `limit` would take, in order, and how many these are.

    Of more than `SCANNED_ROWS` so many are drawn, each as likely as any other. Raises NoRowsError when there is none.
    """
    ids, drawn, chance = IdMaker(source.name), Batch(), random.Random(SEED)
    n_rows = 0
    for rows in _batches(source):
        rows = rows if limit is None else rows[: limit - n_rows]
        for row, row_id in zip(rows, ids.make_all(rows), strict=True):
            if n_rows < SCANNED_ROWS:
                drawn.add(row, row_id, [n_rows])
            elif (place := chance.randrange(n_rows + 1)) < SCANNED_ROWS:
                drawn.rows[place], drawn.ids[place], drawn.orders[place] = row, row_id, [n_rows]
            n_rows += 1
        if n_rows == limit:
            break
    if not n_rows:
        raise _no_row(source)
    return drawn.in_order(), n_rows


def _choose(scanned: Batch, stored: Batch, n_rows: int) -> list[int]:
    """Return indices of scanned rows: those pinned before in their places, seeded random ones in the free places."""
    position = {row_id: index for index, row_id in enumerate(scanned.ids)}
    places = [position.get(row_id) for row_id in stored.ids]
    places += [None] * (n_rows - len(places))
    others = sorted(set(range(len(scanned))) - set(places))
    random.Random(SEED).shuffle(others)
    drawn = iter(sorted(others[: places.count(None)]))
    filled = [next(drawn, None) if place is None else place for place in places]
    return [index for index in filled if index is not None]


def _scan(source: GeneratorStep) -> Batch:
    ids = IdMaker(source.name)
    batch = Batch()
    for index, row in enumerate(_rows(source)):
        if index >= SCANNED_ROWS:
            break
        batch.add(row, ids.make(row), [index])
    if not batch:
        raise _no_row(source)
    return batch


def _no_row(source: GeneratorStep) -> NoRowsError:
    return NoRowsError(f"Source {source.name!r} made no row.", "Check the path, the split and the filters.")


def _rows(source: GeneratorStep) -> Iterator[Row]:
    for rows in _batches(source):
        yield from rows


def _batches(source: GeneratorStep) -> Iterator[list[Row]]:
    source = source.model_copy()  # `load` puts live things into the copy, never into the user's object
    source.load()
    try:
        for rows, is_last in source.process(offset=0):
            yield list(rows)
            if is_last:
                return
    finally:
        source.unload()


def _read(path: Path) -> tuple[Batch, str]:
    try:
        data = load_json(path.read_text(encoding="utf-8", errors="surrogatepass"))
        if data["format"] == _FORMAT:
            return Batch(data["rows"], data["ids"], data["orders"]), data["for"]
    except (OSError, KeyError, TypeError, ValueError, InputError):  # none yet, or damaged: it is drawn anew
        pass
    return Batch(), ""


def _path(pipeline: str, source: str) -> Path:
    folder = private_folder("pipelines", folder_name(pipeline))
    return folder / _file_name(source)


def _file_name(source: str) -> str:
    return f"sample-{folder_name(source)}.json"

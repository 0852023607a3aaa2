"""The Sample: the few rows that every preview of a pipeline uses, pinned by id and kept as copies."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from distilnb.errors import InputError, NoRowsError
from distilnb.home import folder_name, home, private_folder
from distilnb.rows import Batch, IdMaker, Row, dump_json, load_json, write_text
from distilnb.spec.step import GeneratorStep

SCANNED_ROWS = 10_000  # rows among which a sample is drawn; a longer source is not read for it
SEED = 0
USUAL_ROWS = 5  # of a Sample from which nobody has taken, or to which nobody has added
_FORMAT = 1


def pinned_sample(pipeline: str, source: GeneratorStep, n_rows: int | None = None) -> Batch:
    """Return `n_rows` pinned rows of a source; by default as many as the Sample has.

    They are the first of one list, whatever was asked for before: it grows when more rows are asked for, a row that
    is gone from the source is replaced in its place unless its user has added it, and all others stay. Raises
    NoRowsError when the source is empty.
    """
    path = _path(pipeline, source.name)
    fingerprint = f"{source.digest} {source.fingerprint()}"
    stored = _read(path)
    wanted = stored.size if n_rows is None else n_rows
    if stored.source == fingerprint and len(stored.rows) >= wanted:
        return stored.rows.select(range(wanted))
    pinned = _choose(_scan(source), stored, wanted)
    _write(path, stored._replace(rows=pinned, source=fingerprint))
    return pinned.select(range(min(wanted, len(pinned))))


def kept_sample(pipeline: str, source: GeneratorStep) -> Batch:
    """Return the pinned rows of a source as they were last seen, without a look at it; none before a preview."""
    stored = _read(_path(pipeline, source.name))
    return stored.rows.select(range(min(stored.size, len(stored.rows))))


def add_rows(pipeline: str, source: GeneratorStep, wanted: Sequence[int | str]) -> list[str]:
    """Pin further rows of a source, by ordinal or id, and return the ids of those that were not pinned yet.

    Copies are kept: they stay in the Sample when they are gone from the source. Raises InputError for a row that the
    source does not have; then nothing is changed.
    """
    pinned_sample(pipeline, source)
    found = [find_row(source, one) for one in wanted]
    path = _path(pipeline, source.name)
    stored = _read(path)
    size = min(stored.size, len(stored.rows))
    shown, rest = stored.rows.select(range(size)), stored.rows.select(range(size, len(stored.rows)))
    new: list[str] = []
    for batch in found:
        if batch.ids[0] not in shown.ids:
            shown.extend(batch)
            new += batch.ids
    rest = rest.select([index for index, row_id in enumerate(rest.ids) if row_id not in new])
    size = len(shown)
    shown.extend(rest)
    added = [*stored.added, *(row_id for row_id in new if row_id not in stored.added)]
    dropped = [row_id for row_id in stored.dropped if row_id not in new]
    _write(path, stored._replace(rows=shown, size=size, added=added, dropped=dropped))
    return new


def drop_rows(pipeline: str, source: GeneratorStep, wanted: Sequence[int | str]) -> list[str]:
    """Take rows out of the Sample, by ordinal or id, and return their ids; they are not drawn again.

    Raises InputError for a row that is not pinned, and when none would be left; then nothing is changed.
    """
    shown = pinned_sample(pipeline, source)
    path = _path(pipeline, source.name)
    stored = _read(path)
    gone: list[str] = []
    for one in wanted:
        places = [i for i, order in enumerate(shown.orders) if one in (order[0], shown.ids[i])]
        if not places:
            numbers = [order[0] for order in shown.orders]
            raise InputError(
                f"Row {one!r} of {source.name!r} is not pinned; these are: {numbers}.", "Name one of them."
            )
        gone += [shown.ids[place] for place in places]
    size = len(shown) - len(set(gone))
    if not size:
        raise InputError("No row would be left in the Sample.", "Add others first: p.sample.add(17).")
    kept = stored.rows.select([i for i, row_id in enumerate(stored.rows.ids) if row_id not in gone])
    added = [row_id for row_id in stored.added if row_id not in gone]
    _write(path, stored._replace(rows=kept, size=size, added=added, dropped=[*stored.dropped, *gone]))
    return list(dict.fromkeys(gone))


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


def _choose(scanned: Batch, stored: _Stored, n_rows: int) -> Batch:
    """Return scanned rows: those pinned before in their places, seeded random ones in the free places.

    Rows that their user has added are there, scanned or not.
    """
    position = {row_id: index for index, row_id in enumerate(scanned.ids)}
    taken = {position[row_id] for row_id in (*stored.rows.ids, *stored.dropped) if row_id in position}
    others = sorted(set(range(len(scanned))) - taken)
    random.Random(SEED).shuffle(others)
    places: list[int | None] = [position.get(row_id) for row_id in stored.rows.ids]
    places += [None] * (n_rows - len(places))
    is_kept = [row_id in stored.added and row_id not in position for row_id in stored.rows.ids]
    n_free = sum(place is None for place in places) - sum(is_kept)
    drawn = iter(sorted(others[:n_free]))
    chosen = Batch()
    for index, place in enumerate(places):
        if index < len(is_kept) and is_kept[index]:
            chosen.extend(stored.rows.select([index]))
        elif (filled := next(drawn, None) if place is None else place) is not None:
            chosen.extend(scanned.select([filled]))
    return chosen


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


class _Stored(NamedTuple):
    """What the file of a Sample holds: pinned rows, of which the first `size` are the Sample, and of which source."""

    rows: Batch
    source: str = ""
    size: int = USUAL_ROWS
    added: Sequence[str] = ()  # ids that the user has pinned
    dropped: Sequence[str] = ()  # and those that are not to be drawn


def _read(path: Path) -> _Stored:
    try:
        data = load_json(path.read_text(encoding="utf-8", errors="surrogatepass"))
        if data["format"] == _FORMAT:
            more = data.get("size", USUAL_ROWS), data.get("added", []), data.get("dropped", [])
            return _Stored(Batch(data["rows"], data["ids"], data["orders"]), data["for"], *more)
    except (OSError, KeyError, TypeError, ValueError, InputError):  # none yet, or damaged: it is drawn anew
        pass
    return _Stored(Batch())


def _write(path: Path, stored: _Stored) -> None:
    document = {
        "format": _FORMAT,
        "for": stored.source,
        "rows": stored.rows.rows,
        "ids": stored.rows.ids,
        "orders": stored.rows.orders,
        "size": stored.size,
        "added": list(stored.added),
        "dropped": list(stored.dropped),
    }
    write_text(path, dump_json(document))


def _path(pipeline: str, source: str) -> Path:
    folder = private_folder("pipelines", folder_name(pipeline))
    return folder / _file_name(source)


def _file_name(source: str) -> str:
    return f"sample-{folder_name(source)}.json"

"""The Sample: the few rows that every preview of a pipeline uses, pinned by id and kept as copies."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from distilnb.errors import InputError, NoRowsError
from distilnb.home import folder_name, home, private_folder
from distilnb.rows import Batch, IdMaker, Row, dump_json, load_json, write_text
from distilnb.spec.step import GeneratorStep

SCANNED_ROWS = 10_000  # rows among which a sample is drawn; a longer source is not read for it
MEASURED_ROWS = 4_000  # whose length is taken where a glance at fewer rows must do
SEED = 0
USUAL_ROWS = 5  # of a Sample from which nobody has taken, or to which nobody has added
_FORMAT = 1


def pinned_sample(
    pipeline: str, source: GeneratorStep, n_rows: int | None = None, *, keeps: bool = True
) -> Batch:
    """Return `n_rows` pinned rows of a source; by default as many as the Sample has.

    They are the first of one list, whatever was asked for before: it grows when more rows are asked for, a row that
    is gone from the source is replaced in its place unless its user has added it, and all others stay. Unless it
    `keeps` them they are pinned for this once: a thread must not write what a cell is just writing. Raises
    NoRowsError when the source is empty.
    """
    path = _path(pipeline, source.name)
    fingerprint = f"{source.digest} {source.fingerprint()}"
    stored = _read(path)
    wanted = stored.size if n_rows is None else n_rows
    if stored.source == fingerprint and len(stored.rows) >= wanted:
        return stored.rows.select(range(wanted))
    pinned = _choose(_scan(source), stored, wanted)
    if keeps:
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


class Glance(NamedTuple):
    """A few rows of a source, how many a run would take, and how many times as long those are, at most, on average.

    `longer` is 1.0 where all of them are here, and None where nobody can tell at once. Where they are not counted,
    `n_rows` is what the size of the source makes likely.
    """

    batch: Batch
    n_rows: int
    longer: float | None
    is_counted: bool = True


def glance(source: GeneratorStep, limit: int | None, n: int) -> Glance | None:
    """Return at most `n` of the rows that a run of at most `limit` would take, at once, however long the source is.

    They are drawn by chance from all over a source that can be read anywhere, else its first. Of one whose rows cannot
    be counted at once, and whose size is not known, nothing is read: None, or without rows where `limit` bounds them.
    Raises NoRowsError when there is none.
    """
    counted = source.n_rows()
    if counted is None and (n_bytes := source.n_bytes()) is not None:
        return _by_size(source, n_bytes, limit, n)
    if counted is None:
        return None if limit is None else Glance(Batch(), limit, None)
    n_rows = counted if limit is None else min(counted, limit)
    if not n_rows:
        raise _no_row(source)
    places = _spread(n_rows, n, SEED)
    rows = source.rows_at(places)
    if rows is None:
        rows = list(islice(_rows(source), len(places)))
        places = range(len(rows))
    batch = _named(source, rows, places)
    return Glance(batch, n_rows, 1.0 if len(rows) == n_rows else _longer(source, rows, n_rows))


def _by_size(source: GeneratorStep, n_bytes: int, limit: int | None, n: int) -> Glance:
    rows = list(islice(_rows(source), n if limit is None else min(n, limit)))
    if not rows:
        raise _no_row(source)
    likely = int(n_bytes * len(rows) / sum(len(dump_json(row)) + 1 for row in rows))
    n_rows = max(len(rows), likely if limit is None else min(likely, limit))
    return Glance(_named(source, rows, range(len(rows))), n_rows, None, is_counted=False)


def _named(source: GeneratorStep, rows: list[Row], places: Sequence[int]) -> Batch:
    return Batch(rows, IdMaker(source.name).make_all(rows), [[place] for place in places])


def _spread(n_rows: int, n: int, seed: int) -> Sequence[int]:
    """Return so many places, in order. A grid would see rows that take turns at one of their turns only."""
    return range(n_rows) if n_rows <= n else sorted(random.Random(seed).sample(range(n_rows), n))


def _longer(source: GeneratorStep, rows: Sequence[Row], n_rows: int) -> float | None:
    """Return how many times as long as these rows all are on average, at most; None where that cannot be told."""
    more = source.rows_at(_spread(n_rows, MEASURED_ROWS, SEED + 1))  # drawn anew
    n_bytes = source.n_bytes()
    if more is not None:
        mean = sum(map(text_bytes, more)) / len(more)
    elif n_bytes is not None:
        mean = n_bytes / n_rows
    else:
        return None
    return max(1.0, mean * len(rows) / max(1, sum(map(text_bytes, rows))))


def text_bytes(row: Row) -> int:
    """Return the bytes of text in a row: about four a token in English, and three, a character, in Chinese."""
    texts = (str(value) for value in row.values() if not isinstance(value, bytes))
    return sum(len(text.encode("utf-8", "replace")) for text in texts)


def draw_rows(source: GeneratorStep, limit: int | None) -> tuple[Batch, int]:
    """Return the rows of a source that a run of at most `limit` would take, in order, and how many these are.

    Of more than `SCANNED_ROWS` so many are drawn, each as likely as any other. Raises NoRowsError when there is none.
    """
    if (found := _draw_anywhere(source, limit)) is not None:
        return found
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


def _draw_anywhere(source: GeneratorStep, limit: int | None) -> tuple[Batch, int] | None:
    """Draw rows of a long source that need not be read from its start; None for any other."""
    n_rows = source.n_rows() or 0
    n_rows = n_rows if limit is None else min(n_rows, limit)
    if n_rows <= SCANNED_ROWS or source.rows_at([]) is None:
        return None
    places = sorted(random.Random(SEED).sample(range(n_rows), SCANNED_ROWS))
    rows = source.rows_at(places) or []
    return _named(source, rows, places), n_rows


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
    rows = list(islice(_rows(source), SCANNED_ROWS))
    if not rows:
        raise _no_row(source)
    return _named(source, rows, range(len(rows)))


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

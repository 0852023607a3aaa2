"""Rows of local files, read lazily: JSON lines, JSON, CSV, text, Parquet and Arrow."""

from __future__ import annotations

import codecs
import glob
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

from distilnb.errors import InputError, SourceNotFoundError
from distilnb.rows import Row
from distilnb.steps.csv_files import count_csv, read_csv
from distilnb.values import hides_long_integers

FORMATS: Mapping[str, str] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "txt",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
_ALIASES = {"ndjson": "jsonl", "text": "txt"}
PEEKED_ROWS = 100  # rows looked at to know the columns
_COUNTED_BYTES = 16_000_000  # a file larger than this is not read just to count its rows

_BATCH_ROWS = 1000
_BLOCK_BYTES = (
    1 << 16
)  # of JSON lines parsed at a time: with their rows no more than a processor's cache holds
_FIRST_BLOCK_BYTES = 1 << 14  # less, for the many that want to see one row only
_JSON = json.JSONDecoder(
    parse_constant={"NaN": None, "Infinity": float("inf"), "-Infinity": float("-inf")}.get
)


class DataFile(NamedTuple):
    """A file, how it is written, and the CSV columns that are read as text whatever they look like."""

    path: str
    format: str
    text_columns: tuple[str, ...] = ()


# --- finding --------------------------------------------------------------------


def find_files(
    patterns: Iterable[str | os.PathLike[str]], filetype: str | None = None, text_columns: Sequence[str] = ()
) -> list[DataFile]:
    """Return the files that paths, folders or globs name; each pattern's files are sorted by name.

    Raises SourceNotFoundError telling what is there instead, InputError for a format that is not known.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        found.update(dict.fromkeys(_matching(os.path.expanduser(os.fspath(pattern)), filetype)))
    return [DataFile(path, _format_of(path, filetype), tuple(text_columns)) for path in found]


def _matching(pattern: str, filetype: str | None) -> list[str]:
    if "://" in pattern:
        fix = "Read it from the Hub: LoadDataFromHub(repo_id=...)." if pattern.startswith("hf://") else ""
        raise SourceNotFoundError(
            f"{pattern!r} is an address, not a local file.", fix or "Download it first."
        )
    if os.path.isfile(pattern):  # before globbing: a name may hold brackets
        return [pattern]
    if os.path.isdir(pattern):
        inside = sorted(entry.path for entry in os.scandir(pattern) if entry.is_file())
        chosen = [path for path in inside if filetype or _suffix(path) in FORMATS]
    else:
        chosen = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not chosen:
        raise _not_found(pattern)
    return chosen


def _not_found(pattern: str) -> SourceNotFoundError:
    folder = Path(pattern)
    while not folder.is_dir():
        folder = folder.parent
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in os.scandir(folder))
    names = [name for name in names if not name.startswith(".")]
    told = (
        f"{names[:10]}" + (f" and {len(names) - 10} more" if len(names) > 10 else "") if names else "nothing"
    )
    what = "No file matches" if glob.has_magic(pattern) else "There is no file"
    if folder == Path(pattern):
        what = f"No file of a known format ({', '.join(FORMATS)}) is in"
    near = get_close_matches(Path(pattern).name, names, n=1)
    fix = (
        f"Did you mean {str(folder / near[0])!r}?" if near else "Paths are relative to the working directory."
    )
    return SourceNotFoundError(f"{what} {pattern!r}; {str(folder.absolute())!r} holds {told}.", fix)


def _format_of(path: str, filetype: str | None) -> str:
    if filetype is not None:
        named = filetype.lower().lstrip(".")
        named = _ALIASES.get(named, named)
        if named not in FORMATS.values():
            raise InputError(
                f"The file type {filetype!r} is not known.", f"One of {sorted(set(FORMATS.values()))}."
            )
        return "jsonl" if named == "json" and _suffix(path) in {".jsonl", ".ndjson"} else named
    if _suffix(path) not in FORMATS:
        raise InputError(
            f"The format of {path!r} cannot be told from its name.",
            f"Say it: filetype=... (one of {sorted(set(FORMATS.values()))}).",
        )
    return FORMATS[_suffix(path)]


def _suffix(path: str) -> str:
    return Path(path.removesuffix(".gz")).suffix.lower()


# --- reading --------------------------------------------------------------------


def read_files(files: Sequence[DataFile], skip: int = 0) -> Iterator[Row]:
    """Yield the rows of all files after the first `skip`; files before them are only counted."""
    for index, file in enumerate(files):
        if skip and index < len(files) - 1:
            n_rows = count_rows(file)
            if skip >= n_rows:
                skip -= n_rows
                continue
        yield from read_file(file, skip)
        skip = 0


def read_file(file: DataFile, skip: int = 0) -> Iterator[Row]:
    """Yield the rows of one file after the first `skip`.

    Raises InputError naming the file and the line that cannot be read.
    """
    with told(file.path):
        yield from _READERS[file.format](file, skip)


def count_rows(file: DataFile) -> int:
    """Return the number of rows of a file; Parquet and Arrow tell it without being read."""
    stat = os.stat(file.path)
    return _count(file, stat.st_mtime_ns, stat.st_size)


def count_rows_cheaply(files: Sequence[DataFile]) -> int | None:
    """Return the number of rows of all files, or None when they are too large to be read just for that."""
    read = [file for file in files if file.format not in {"parquet", "arrow"}]  # these two tell it
    if sum(os.path.getsize(file.path) for file in read) > _COUNTED_BYTES:
        return None
    return sum(count_rows(file) for file in files)


def size_of_texts(files: Sequence[DataFile]) -> int | None:
    """Return the size of all files in bytes, None where some are packed: their rows are longer than that."""
    if any(file.format in {"parquet", "arrow"} or file.path.endswith(".gz") for file in files):
        return None
    return sum(os.path.getsize(file.path) for file in files)


def columns_of(files: Sequence[DataFile]) -> tuple[tuple[str, ...], bool]:
    """Return the columns of the first rows of each file, and whether all these rows have the same ones."""
    names: dict[str, None] = {}
    same = True
    for index, file in enumerate(files[:20]):
        stat = os.stat(file.path)
        found, file_same = _peek(file, stat.st_mtime_ns, stat.st_size)
        same = same and file_same and (index == 0 or set(found) == set(names))
        names.update(dict.fromkeys(found))
    return tuple(names), same


@lru_cache(maxsize=256)
def _count(file: DataFile, mtime_ns: int, size_bytes: int) -> int:
    with told(file.path):
        if file.format == "parquet":
            return _open_parquet(file.path).metadata.num_rows  # type: ignore[no-any-return]  # pyarrow has no types
        if file.format == "jsonl":
            return sum(1 for _ in _lines(file.path))
        if file.format in {"csv", "tsv"}:
            with open_text(file.path) as stream:
                return count_csv(stream, file.format)
        if file.format == "arrow":
            return sum(batch.num_rows for batch in _arrow_batches(file.path))
        return sum(1 for _ in _READERS[file.format](file, 0))


@lru_cache(maxsize=256)
def _peek(file: DataFile, mtime_ns: int, size_bytes: int) -> tuple[tuple[str, ...], bool]:
    rows = list(islice(read_file(file), PEEKED_ROWS))
    names = dict.fromkeys(name for row in rows for name in row)
    return tuple(names), all(len(row) == len(names) for row in rows)


@contextmanager
def told(path: str) -> Iterator[None]:
    """Turn what goes wrong while a file is read into an InputError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise _not_found(path) from error
    except OSError as error:
        raise InputError(f"The file {path!r} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"The file {path!r} is not UTF-8: byte {error.object[error.start]:#04x} cannot be read.",
            "Save it as UTF-8 (spreadsheets offer 'CSV UTF-8').",
        ) from error


@contextmanager
def open_text(path: str) -> Iterator[IO[str]]:
    """Open a UTF-8 text file, with or without byte order mark, packed by gzip or not."""
    if path.endswith(".gz"):
        import gzip

        with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as packed:
            yield packed
        return
    with open(path, encoding="utf-8-sig", newline="") as stream:
        yield stream


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, each with its number."""
    with open_text(path) as stream:
        for number, line in enumerate(stream, 1):
            if not line.isspace():
                yield number, line


def _read_jsonl(file: DataFile, skip: int) -> Iterator[Row]:
    return islice(chain.from_iterable(_jsonl_blocks(file.path)), skip, None)


def _jsonl_blocks(path: str) -> Iterator[list[Row]]:
    """Yield the rows of a file of JSON lines, some hundred at a time."""
    n_lines = 0
    with _open_bytes(path) as stream:
        while lines := stream.readlines(_BLOCK_BYTES if n_lines else _FIRST_BLOCK_BYTES):
            yield from rows_of_lines(path, lines, n_lines)
            n_lines += len(lines)


def rows_of_lines(path: str, lines: list[bytes], n_before: int) -> Iterator[list[Row]]:
    """Yield the rows of some JSON lines of a file, which follow so many others in it.

    Raises InputError naming the file and the line that is no row; those before it were yielded then.
    """
    if not n_before:
        lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
    rows = _parse_quickly(lines)
    if rows is not None:
        yield rows
        return
    for number, line in enumerate(io.StringIO(b"".join(lines).decode(), newline=""), n_before + 1):
        if not line.isspace():
            yield [_parse_line(path, number, line)]  # those before a line that is no JSON are good


@contextmanager
def _open_bytes(path: str) -> Iterator[BinaryIO]:
    if path.endswith(".gz"):
        import gzip

        with gzip.open(path, "rb") as packed:
            yield cast("BinaryIO", packed)
        return
    with open(path, "rb") as stream:
        yield stream


def _parse_quickly(lines: list[bytes]) -> list[Row] | None:
    """Return the rows of JSON lines, or None where only the careful reader tells what they mean, or what is wrong."""
    rows = parse_lines(lines)
    return None if rows is None or hides_long_integers(rows) else rows


def parse_lines(lines: list[bytes]) -> list[Row] | None:
    """Return what the fast JSON reader makes of lines, None where it refuses one; long integers become floats."""
    import orjson

    returns = [line for line in lines if b"\r" in line]
    if any(line.find(b"\r") != len(line) - 2 for line in returns):  # one that ends a line by itself
        return None
    try:
        rows = list(map(orjson.loads, lines))
    except ValueError:  # a blank line, NaN, a lone surrogate
        return None
    return rows if set(map(type, rows)) == {dict} else None


def _parse_line(path: str, number: int, line: str) -> Row:
    try:
        row = _JSON.decode(line.rstrip())
    except (ValueError, RecursionError) as error:
        told = (
            f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        )
        raise InputError(
            f"{path!r}, line {number}: no JSON: {told}.", f"The line begins {line.strip()[:60]!r}."
        ) from error
    if type(row) is not dict:
        raise InputError(
            f"{path!r}, line {number}: {type(row).__name__}, not an object.",
            'Each line is one row: {"column": value, …}.',
        )
    return row


def _read_json(file: DataFile, skip: int) -> Iterator[Row]:
    """Read a JSON array of objects, one object, or JSON lines under the name .json."""
    with open_text(file.path) as stream:
        start = stream.read(4096).lstrip()[:1]
    if start == "{":
        first = next(_lines(file.path))[1]
        try:
            _JSON.decode(first)
        except ValueError:
            pass  # an object over several lines
        else:
            yield from _read_jsonl(file, skip)
            return
    with open_text(file.path) as stream:
        text = stream.read()
    if not text.strip():
        return
    try:
        rows = _JSON.decode(text)
    except (ValueError, RecursionError) as error:
        told = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise InputError(
            f"{file.path!r}, {told}.", "A .json file holds a list of objects, or one a line."
        ) from error
    if isinstance(rows, dict):
        rows = [rows]
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InputError(f"{file.path!r}: entry {index} is {type(row).__name__}, not an object.")
    yield from rows[skip:]


def _read_csv(file: DataFile, skip: int) -> Iterator[Row]:
    with open_text(file.path) as stream:
        yield from read_csv(stream, file.path, file.format, skip, frozenset(file.text_columns))


def _read_text(file: DataFile, skip: int) -> Iterator[Row]:
    for _, line in islice(_lines(file.path), skip, None):
        yield {"text": line.rstrip("\r\n")}


def _read_parquet(file: DataFile, skip: int) -> Iterator[Row]:
    parquet = _open_parquet(file.path)
    groups = list(range(parquet.metadata.num_row_groups))
    while groups and skip >= parquet.metadata.row_group(groups[0]).num_rows:
        skip -= parquet.metadata.row_group(groups.pop(0)).num_rows
    batches = parquet.iter_batches(batch_size=_BATCH_ROWS, row_groups=groups)
    yield from _rows_of_batches(batches, skip)


def _open_parquet(path: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"The file {path!r} is no Parquet file: {error}.") from error


def _read_arrow(file: DataFile, skip: int) -> Iterator[Row]:
    yield from _rows_of_batches(_arrow_batches(file.path), skip)


def _arrow_batches(path: str) -> Iterator[Any]:
    """Yield the record batches of an Arrow file, or of a stream saved as one; they are mapped, not read."""
    import pyarrow as pa

    with pa.memory_map(path) as source:
        try:
            reader = pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            source.seek(0)
            try:
                yield from pa.ipc.open_stream(source)
            except pa.ArrowInvalid as error:
                raise InputError(f"The file {path!r} is no Arrow file: {error}.") from error
            return
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)


def _rows_of_batches(batches: Iterable[Any], skip: int) -> Iterator[Row]:
    for batch in batches:
        if skip >= batch.num_rows:
            skip -= batch.num_rows
            continue
        rows: list[Row] = batch.slice(skip).to_pylist()
        skip = 0
        floats = [field.name for field in batch.schema if str(field.type) in {"halffloat", "float", "double"}]
        for row in rows:
            for name in floats:
                if row[name] != row[name]:  # pandas writes NaN for a missing number
                    row[name] = None
            yield row


_READERS: Mapping[str, Callable[[DataFile, int], Iterator[Row]]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "csv": _read_csv,
    "tsv": _read_csv,
    "txt": _read_text,
    "parquet": _read_parquet,
    "arrow": _read_arrow,
}

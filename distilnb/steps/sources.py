"""Sources: rows from the program itself, local files, the Hugging Face Hub, and datasets saved to disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from distilnb.errors import (
    InputError,
    MissingColumnError,
    NoRowsError,
    SourceNotFoundError,
    SpecError,
    did_you_mean,
)
from distilnb.rows import Row
from distilnb.spec.columns import Columns
from distilnb.spec.digest import digest_of
from distilnb.spec.inline import Inline
from distilnb.spec.step import GeneratorStep, GeneratorStepOutput, RuntimeParameter
from distilnb.steps.feeding import in_batches, renamed, up_to
from distilnb.steps.files import (
    DataFile,
    columns_of,
    count_rows_cheaply,
    find_files,
    read_files,
    size_of_texts,
)

Files = str | Path | list[str | Path] | dict[str, "str | Path | list[str | Path]"]


class LoadDataFromDicts(GeneratorStep):
    """Rows given in the program itself: a list of dicts.

    Inputs:  none.
    Outputs: the keys of the rows.
    Errors:  InputError when an entry is no dict with text keys; NoRowsError when there is none.
    Source:  the step of that name of distilabel.

    >>> source = LoadDataFromDicts(data=[{"q": "Why?"}, {"q": "Who?"}], output_mappings={"q": "instruction"})
    >>> [*source.process()]
    [([{'instruction': 'Why?'}, {'instruction': 'Who?'}], True)]
    """

    data: Annotated[Inline, BeforeValidator(Inline.of)]

    def process(self, offset: int = 0) -> GeneratorStepOutput:  # type: ignore[override]  # a source
        rows = self.data.require()
        later = rows[offset:] if offset else rows
        copies = map(dict, later)  # a step downstream may change its rows in place
        yield from in_batches(renamed(copies, self.output_mappings), self.batch_size)

    def peek(self, n: int) -> list[Row]:
        """Return the first `n` rows."""
        return list(renamed(map(dict, self.data.rows[:n]), self.output_mappings))

    def columns_after(self, upstream: Sequence[Columns]) -> Columns:
        if not self.data.is_here:
            return Columns(is_open=True)
        looked_at = self.data.rows[:1000]
        names = dict.fromkeys(name for row in looked_at for name in row)
        is_whole = len(looked_at) == self.data.n_rows or all(len(row) == len(names) for row in looked_at)
        return _mapped(self, tuple(names), is_open=not is_whole)

    def check(self) -> None:
        """Raise NoRowsError when there is no row, or the rows are not here."""
        self.data.require()

    def n_rows(self) -> int | None:
        return self.data.n_rows

    def rows_at(self, places: Sequence[int]) -> list[Row]:
        rows = self.data.require()
        return list(renamed((dict(rows[place]) for place in places), self.output_mappings))


class LoadDataFromFileSystem(GeneratorStep):
    """Rows of local files: JSON lines, JSON, CSV, TSV, text, Parquet or Arrow; also packed by gzip.

    `data_files` is a path, a folder, a glob, a list of them, or a dict of them by split. The format is told
    from the suffix, or by `filetype`. Files are read as they go, never whole, but for JSON arrays.

    Inputs:  none.
    Outputs: the columns of the files; `text` for text files (one row for each line that is not blank).
    Errors:  SourceNotFoundError naming what is there instead; InputError naming file and line; NoRowsError.
    Source:  the step of that name of distilabel.
    """

    data_files: RuntimeParameter[Files] = None
    filetype: RuntimeParameter[str] = None
    split: RuntimeParameter[str] = "train"  # chooses among the keys when `data_files` is a dict
    streaming: RuntimeParameter[bool] = (
        False  # files are always read as they go; kept for programs that say it
    )
    num_examples: RuntimeParameter[Annotated[int, Field(ge=1)]] = None
    text_columns: list[str] = []  # of CSV: never numbers, whatever they look like

    def process(self, offset: int = 0) -> GeneratorStepOutput:  # type: ignore[override]  # a source
        rows = up_to(read_files(self.files(), offset), self.num_examples, offset)
        yield from in_batches(renamed(rows, self.output_mappings), self.batch_size, self._nothing(offset))

    def peek(self, n: int) -> list[Row]:
        """Return the first `n` rows; no more is read than that takes."""
        return list(renamed(islice(read_files(self.files()), n), self.output_mappings))

    def columns_after(self, upstream: Sequence[Columns]) -> Columns:
        try:
            names, is_same = columns_of(self.files())
        except (InputError, SpecError):  # `check` tells; the graph can be drawn without the files
            return Columns(is_open=True)
        return _mapped(self, names, is_open=not is_same or not names)

    def check(self) -> None:
        """Raise what is wrong with the files before anything runs; reads the first rows only."""
        if not self.peek(1):
            raise self._nothing(0) or NoRowsError()

    def n_rows(self) -> int | None:
        try:
            counted = count_rows_cheaply(self.files())
        except (InputError, SpecError):
            return None
        return _least(counted, self.num_examples)

    def n_bytes(self) -> int | None:
        try:
            return size_of_texts(self.files())
        except (InputError, SpecError, OSError):
            return None

    def fingerprint(self) -> str:
        try:
            stats = [(file.path, os.stat(file.path)) for file in self.files()]
        except (InputError, SpecError, OSError):
            return ""
        return digest_of([[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats])

    def files(self) -> list[DataFile]:
        """Return the files in the order in which they are read."""
        patterns = self.data_files
        if isinstance(patterns, dict):
            patterns = _of_split(patterns, self.split)
        if not patterns:
            raise SpecError(
                f"Step {self.name or self.kind()!r} has no data_files.", "For instance 'rows.jsonl'."
            )
        listed = patterns if isinstance(patterns, list) else [patterns]
        return find_files(listed, self.filetype, self.text_columns)

    def _nothing(self, offset: int) -> NoRowsError | None:
        names = self.data_files if isinstance(self.data_files, str) else "The files of the source"
        return None if offset else NoRowsError(f"{names!r} holds no row.", "Put at least one row in it.")


class LoadDataFromHub(GeneratorStep):
    """Rows of a dataset on the Hugging Face Hub, or of a folder laid out like one.

    `streaming` reads rows from the network as they are needed; else the split is downloaded, once for all
    runs. A private dataset needs a login (`hf auth login`, or HF_TOKEN).

    Inputs:  none.
    Outputs: the columns of the dataset. They are known only when the data is: the check before a run lets any
             column pass.
    Errors:  SourceNotFoundError when there is no such dataset, split or configuration; NoRowsError.
    Source:  the step of that name of distilabel.
    """

    repo_id: RuntimeParameter[str] = None
    split: RuntimeParameter[str] = "train"
    config: RuntimeParameter[str] = None
    revision: RuntimeParameter[str] = None
    streaming: RuntimeParameter[bool] = False
    num_examples: RuntimeParameter[Annotated[int, Field(ge=1)]] = None
    storage_options: RuntimeParameter[dict[str, Any]] = None

    def process(self, offset: int = 0) -> GeneratorStepOutput:  # type: ignore[override]  # a source
        rows = up_to(_rows_of(self._load(bool(self.streaming)), offset), self.num_examples, offset)
        nothing = (
            None if offset else NoRowsError(f"Dataset {self.repo_id!r}, split {self.split!r}, holds no row.")
        )
        yield from in_batches(renamed(rows, self.output_mappings), self.batch_size, nothing)

    def peek(self, n: int) -> list[Row]:
        """Return the first `n` rows, streamed; this uses the network."""
        return list(renamed(islice(_rows_of(self._load(streaming=True), 0), n), self.output_mappings))

    def columns_after(self, upstream: Sequence[Columns]) -> Columns:
        return Columns.of(self.output_mappings.values(), is_open=True)

    def check(self) -> None:
        """Raise SpecError when no dataset is named; the network is not asked."""
        if not self.repo_id:
            raise SpecError(
                f"Step {self.name or self.kind()!r} has no repo_id.",
                "Name it, here or in run(parameters=...): repo_id='HuggingFaceH4/instruction-dataset'.",
            )

    def _load(self, streaming: bool) -> Any:
        self.check()
        import datasets

        try:
            return datasets.load_dataset(
                self.repo_id,
                self.config,
                split=self.split,
                revision=self.revision,
                streaming=streaming,
                storage_options=self.storage_options,
            )
        except FileNotFoundError as error:  # the Hub's own "not found" is one too
            raise SourceNotFoundError(
                f"Dataset {self.repo_id!r} cannot be loaded: {error}.",
                "Check its name; a private one needs a login: `hf auth login`, or HF_TOKEN.",
            ) from error
        except ValueError as error:  # an unknown split or configuration; the message lists what exists
            raise SourceNotFoundError(
                f"Dataset {self.repo_id!r}, configuration {self.config!r}, split {self.split!r}: {error}"
            ) from error
        except (ConnectionError, OSError) as error:
            raise InputError(
                f"Dataset {self.repo_id!r} cannot be reached: {error}.", "Check the network, then run again."
            ) from error


class LoadDataFromDisk(GeneratorStep):
    """Rows of a dataset or Distiset that `save_to_disk` wrote.

    Inputs:  none.
    Outputs: the columns of the dataset.
    Errors:  SourceNotFoundError when the folder, split or configuration does not exist; NoRowsError.
    Source:  the step of that name of distilabel.
    """

    dataset_path: RuntimeParameter[str | Path] = None
    split: RuntimeParameter[str] = "train"
    config: RuntimeParameter[str] = None
    is_distiset: RuntimeParameter[bool] = False
    keep_in_memory: RuntimeParameter[bool] = None
    num_examples: RuntimeParameter[Annotated[int, Field(ge=1)]] = None

    def process(self, offset: int = 0) -> GeneratorStepOutput:  # type: ignore[override]  # a source
        rows = up_to(_rows_of(self._load(), offset), self.num_examples, offset)
        nothing = None if offset else NoRowsError(f"{str(self.dataset_path)!r} holds no row.")
        yield from in_batches(renamed(rows, self.output_mappings), self.batch_size, nothing)

    def peek(self, n: int) -> list[Row]:
        """Return the first `n` rows."""
        return list(renamed(islice(_rows_of(self._load(), 0), n), self.output_mappings))

    def columns_after(self, upstream: Sequence[Columns]) -> Columns:
        try:
            names = tuple(
                _read_part(self.folder() / "dataset_info.json", "features", (dict, type(None))) or ()
            )
        except (InputError, SpecError):  # `check` tells
            return Columns(is_open=True)
        return _mapped(self, names, is_open=not names)

    def check(self) -> None:
        """Raise what is wrong with the folder before anything runs; no row is read."""
        folder = self.folder()
        _read_part(folder / "dataset_info.json", "features", (dict, type(None)))
        self._files(folder)

    def n_rows(self) -> int | None:
        try:
            counted = count_rows_cheaply(self._files(self.folder()))
        except (InputError, SpecError, OSError):
            return None
        return _least(counted, self.num_examples)

    def fingerprint(self) -> str:
        try:
            return digest_of((self.folder() / "state.json").read_text("utf-8"))
        except (InputError, SpecError, OSError, UnicodeDecodeError):
            return ""

    def folder(self) -> Path:
        """Return the folder of the one dataset that is read."""
        if not self.dataset_path:
            raise SpecError(f"Step {self.name or self.kind()!r} has no dataset_path.", "Name the folder.")
        folder = Path(self.dataset_path).expanduser()
        if self.is_distiset or self.config:
            configs = (
                sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
            )
            datasets = [name for name in configs if _is_dataset(folder / name)]
            only = datasets[0] if len(datasets) == 1 else "default"
            folder = self._chosen(folder, self.config or only, datasets, "configuration")
        if (folder / "dataset_dict.json").is_file():
            splits = _read_part(folder / "dataset_dict.json", "splits", list)
            return self._chosen(folder, str(self.split), splits, "split")
        if not (folder / "dataset_info.json").is_file():
            raise SourceNotFoundError(
                f"There is no saved dataset in {str(folder)!r}.",
                "It is a folder that `save_to_disk` wrote; for other files use LoadDataFromFileSystem.",
            )
        return folder

    def _chosen(self, folder: Path, name: str, known: Sequence[str], what: str) -> Path:
        if name not in known:
            raise SourceNotFoundError(
                f"{str(folder)!r} has no {what} {name!r}; it has {list(known)}.", did_you_mean(name, known)
            )
        return folder / name

    def _files(self, folder: Path) -> list[DataFile]:
        """Return the files that hold the rows; this costs no import of `datasets`."""
        parts = _read_part(folder / "state.json", "_data_files", list)
        names = [part.get("filename") if isinstance(part, dict) else None for part in parts]
        if not all(isinstance(name, str) for name in names):
            raise _broken(folder / "state.json", "'_data_files' names no files")
        return [DataFile(str(folder / str(name)), "arrow") for name in names]

    def _load(self) -> Any:
        self.check()
        folder = self.folder()
        import datasets

        return datasets.load_from_disk(str(folder), keep_in_memory=self.keep_in_memory)


def _read_part(path: Path, key: str, kind: type | tuple[type, ...]) -> Any:
    """Return one entry of a JSON file of a saved dataset, or raise InputError naming the file."""
    try:
        about = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # not there, no UTF-8, no JSON
        raise _broken(path, getattr(error, "strerror", None) or f"no JSON: {error}") from error
    if not isinstance(about, dict) or not isinstance(about.get(key), kind):
        raise _broken(path, f"it has no {key!r}")
    return about.get(key)


def _broken(path: Path, why: str) -> InputError:
    return InputError(
        f"{str(path)!r} of the saved dataset cannot be read: {why}.", "Save the dataset again: save_to_disk."
    )


def _is_dataset(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))


def _of_split(files: Mapping[str, Any], split: str | None) -> Any:
    if len(files) == 1 and split in (None, "train"):
        return next(iter(files.values()))
    if split is None or split not in files:
        raise SourceNotFoundError(
            f"data_files has no split {split!r}; it has {sorted(files)}.", did_you_mean(str(split), files)
        )
    return files[split]


# --- what all sources do ----------------------------------------------------------


def _mapped(step: GeneratorStep, names: tuple[str, ...], *, is_open: bool) -> Columns:
    """Return the columns after `output_mappings`; raises MissingColumnError when those name none of them."""
    if not is_open:
        for old in step.output_mappings:
            if old not in names:
                raise MissingColumnError(
                    f"Source {step.name or step.kind()!r} renames column {old!r}; it has {sorted(names)}.",
                    did_you_mean(old, names),
                )
    return Columns.of((step.output_mappings.get(name, name) for name in names), is_open=is_open)


def _least(counted: int | None, limit: int | None) -> int | None:
    return counted if counted is None or limit is None else min(counted, limit)


# --- from other libraries -----------------------------------------------------------


def rows_from_pandas(df: Any) -> list[Row]:
    """Return the rows of a pandas DataFrame as plain Python; what pandas counts as missing is None.

    The index is left out. Raises InputError for column names that are no text or stand twice.
    """
    names = [_column_name(name) for name in df.columns]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"The DataFrame has two columns named {name!r}.", "Give each a name of its own.")
    columns = [[plain_value(value) for value in df.iloc[:, i].tolist()] for i in range(len(names))]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def rows_from_dataset(ds: Any) -> list[Row]:
    """Return the rows of a Hugging Face dataset (of its split `train`, or its only one) as plain Python.

    Raises InputError when it has several splits and none is `train`.
    """
    if isinstance(ds, Mapping):
        split = "train" if "train" in ds else next(iter(ds), None)
        if split is None or (split != "train" and len(ds) > 1):
            raise InputError(f"The dataset has the splits {sorted(ds)}.", "Choose one: dataset['test'].")
        return rows_from_dataset(ds[split])
    return [{str(name): plain_value(value) for name, value in row.items()} for row in _rows_of(ds, 0)]


def plain_value(value: Any) -> Any:
    """Return a value of pandas or NumPy as plain Python; NaN, NaT and NA are None."""
    if value is None or type(value) in (str, int, bool):
        return value
    if isinstance(value, float):
        return None if value != value else float(value)
    if isinstance(value, dict):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_value(item) for item in value]
    if type(value).__name__ in {"NAType", "NaTType"}:
        return None
    for method in ("to_pydatetime", "to_pytimedelta", "tolist"):  # Timestamp, Timedelta, NumPy
        if hasattr(value, method):
            plain = getattr(value, method)()
            return plain_value(plain) if method == "tolist" else plain
    return value


def _column_name(name: object) -> str:
    if isinstance(name, (str, int)):
        return str(name)
    raise InputError(
        f"The DataFrame has the column name {name!r}, which is no text.", "Flatten or rename its columns."
    )


def _rows_of(dataset: Any, skip: int) -> Iterator[Row]:
    """Yield the rows of a dataset, streamed or not, after the first `skip`."""
    if not skip:
        return iter(dataset)
    if not hasattr(dataset, "select"):
        return iter(dataset.skip(skip))
    return iter(dataset.select(range(skip, len(dataset)))) if skip < len(dataset) else iter(())

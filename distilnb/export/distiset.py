"""The Distiset: what a run made, one named subset per leaf of the pipeline."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from distilnb.errors import DistilnbError, ExportError, SourceNotFoundError, did_you_mean
from distilnb.export import hub
from distilnb.export.card import Subset, make_card
from distilnb.export.info import RunInfo
from distilnb.export.subsets import Subsets
from distilnb.export.table import decode, restored, to_frame
from distilnb.rows import Row
from distilnb.spec.trust import find_secret
from distilnb.view import figures
from distilnb.view.html import badge, escape, muted, page

if TYPE_CHECKING:
    import pandas as pd
    from datasets import DatasetDict

PIPELINE_FILE = "pipeline.yaml"
DETAILS_FILE = "distilnb.json"
CARD_FILE = "README.md"
ONLY_SUBSET = "default"  # the name of the subset of a pipeline with one leaf
_NO_FILE_NAME = re.compile(r'[<>:"/\\|?*\x00-\x1f]')


class Distiset(Subsets):
    """The result of a run: a dict of subsets, each a `datasets.DatasetDict`.

    `ds["default"]["train"]` is a `datasets.Dataset`. A column whose values differ in shape from row to row
    holds JSON text there (`json_columns`); `rows` and `to_pandas` restore it.
    """

    def __init__(
        self,
        subsets: Mapping[str, DatasetDict] | None = None,
        *,
        pipeline_text: str = "",
        info: RunInfo | None = None,
        json_columns: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        super().__init__(subsets, json_columns)
        self.info = info or RunInfo()
        self.pipeline = pipeline_text

    @classmethod
    def from_rows(
        cls,
        leaves: Mapping[str, Sequence[Row]],
        *,
        pipeline_text: str = "",
        info: RunInfo | None = None,
        columns: Mapping[str, Sequence[str]] | None = None,
    ) -> Self:
        """Make a Distiset of rows by leaf; the subset of a single leaf is named "default".

        `columns` names the columns that a leaf is known to have, for one that ends up without rows.
        """
        distiset = cls(pipeline_text=pipeline_text, info=info)
        for leaf, rows in leaves.items():
            name = ONLY_SUBSET if len(leaves) == 1 else leaf
            distiset.add_rows(name, rows, (columns or {}).get(leaf, ()))
        return distiset

    # --- reading ---

    def rows(self, subset: str | None = None, split: str = "train") -> Iterator[Row]:
        """Yield the rows of a subset as they were made, JSON columns restored."""
        name = self._subset(subset)
        plain = self.plain(name, split)
        if plain is not None:
            return plain
        return restored(self.arrow(name, split), self.json_columns.get(name, ()))

    def to_pandas(self, subset: str | None = None, split: str = "train") -> pd.DataFrame:
        """Return a subset as a DataFrame, JSON columns restored; name it where there are several."""
        name = self._subset(subset)
        return to_frame(self.arrow(name, split), self.json_columns.get(name, ()))

    def train_test_split(
        self, train_size: float | int, shuffle: bool = True, seed: int | None = None
    ) -> Distiset:
        """Return a Distiset whose subsets have the splits "train" and "test".

        `train_size` is a share (0.9) or a number of rows.
        """
        try:
            split = {
                name: splits["train"].train_test_split(train_size=train_size, shuffle=shuffle, seed=seed)
                for name, splits in self.items()
            }
        except ValueError as error:
            raise ExportError(f"The rows cannot be split: {error}", "Give a share such as 0.9.") from error
        return self._like(split)

    # --- disk ---

    def save_to_disk(
        self,
        path: str | os.PathLike[str],
        save_card: bool = True,
        save_pipeline_config: bool = True,
        storage_options: dict[str, Any] | None = None,
    ) -> None:
        """Write a folder: a dataset per subset, the card, `pipeline.yaml`; also to fsspec addresses (s3://…)."""
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]

        root = str(path)
        folders = _folders(self)
        with _disk_errors(root, "written"), _no_progress_bars():
            files, base = url_to_fs(root, **(storage_options or {}))
            files.makedirs(base, exist_ok=True)
            for name, folder in folders.items():
                splits = self[name]
                splits.save_to_disk(
                    f"{root.rstrip('/')}/{folder}",
                    # an empty split would be written as no file at all, which cannot be read
                    num_shards={split: None if len(rows) else 1 for split, rows in splits.items()},
                    storage_options=storage_options,
                )
            texts = {DETAILS_FILE: self._details(folders)}
            if save_pipeline_config and self.pipeline:
                texts[PIPELINE_FILE] = self._pipeline_to_share()
            if save_card:
                texts[CARD_FILE] = make_card(
                    self.info, self.pipeline, self._describe("{folder}/{split}/*.arrow"), address=root
                )
            for name, text in texts.items():
                files.pipe_file(f"{base.rstrip('/')}/{name}", text.encode("utf-8", "replace"))

    @classmethod
    def load_from_disk(
        cls, path: str | os.PathLike[str], storage_options: dict[str, Any] | None = None
    ) -> Self:
        """Read a folder that `save_to_disk` wrote, or one of a plain DatasetDict.

        Raises SourceNotFoundError when it holds no dataset.
        """
        from datasets import DatasetDict
        from fsspec.core import url_to_fs

        root = str(path).rstrip("/")
        with _disk_errors(root, "read"), _no_progress_bars():
            files, base = url_to_fs(root, **(storage_options or {}))
            details = _read_details(files, base)
            distiset = cls(
                {
                    name: DatasetDict.load_from_disk(
                        f"{root}/{folder}".rstrip("/"), storage_options=storage_options
                    )
                    for name, folder in details["subsets"].items()
                },
                pipeline_text=_read_text(files, f"{base}/{PIPELINE_FILE}"),
                info=RunInfo.from_dict(details.get("info", {})),
                json_columns=details.get("json_columns"),
            )
        return distiset

    # --- Hub ---

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str | None = None,
        generate_card: bool = True,
        **options: Any,
    ) -> str:
        """Push to the Hugging Face Hub, each subset as a configuration, with `pipeline.yaml` and card.

        `options` go to `DatasetDict.push_to_hub`: max_shard_size, num_proc, revision … Returns the address.
        Raises ExportError.
        """
        if not self:
            raise ExportError("The Distiset is empty.", "Run a pipeline first.")

        def make_files(full_id: str, header: Mapping[str, Any]) -> dict[str, str]:
            files = {DETAILS_FILE: self._details(_folders(self))}
            if self.pipeline:
                files[PIPELINE_FILE] = self._pipeline_to_share()
            if generate_card:
                address = f"hf://datasets/{full_id}"
                files[CARD_FILE] = make_card(
                    self.info, self.pipeline, self._describe(), address=address, header=header
                )
            return files

        self._pipeline_to_share()  # a secret in it is told before anything is sent
        subsets = {folder: self[name] for name, folder in _folders(self).items()}
        return hub.push(
            repo_id,
            subsets,
            make_files,
            private=private,
            token=token,
            commit_message=commit_message,
            **options,
        ).url

    # --- looks ---

    def __repr__(self) -> str:
        lines = [f"{name}: {self._counts(name)}" for name in self]
        return f"Distiset {self._title()}" + "".join(f"\n  {line}" for line in lines)

    def _repr_html_(self) -> str:
        badges = "".join(badge(mark, "warn") for mark in self.info.marks)
        head = f'<div class="dnb-head"><b>{escape(self.info.pipeline)}</b>{muted("Distiset")}{badges}</div>'
        rows = "".join(
            f'<tr class="dnb-line"><th>{escape(name)}</th><td>{escape(self._counts(name))}</td></tr>'
            for name in self
        )
        return page(head, f'<table class="dnb-t"><tbody>{rows}</tbody></table>')

    def _title(self) -> str:
        marks = f" ({', '.join(self.info.marks)})" if self.info.marks else ""
        return f"{self.info.pipeline!r}{marks}"

    def _counts(self, name: str) -> str:
        counts = ", ".join(f"{split} {figures.plural(n, 'row')}" for split, n in self.n_rows(name).items())
        columns = self.names(name)
        more = f", … ({len(columns) - 12} more)" if len(columns) > 12 else ""
        return f"{counts} · {', '.join(columns[:12]) or 'no columns'}{more}"

    # --- inside ---

    def _subset(self, name: str | None) -> str:
        if name is None and len(self) == 1:
            return next(iter(self))
        if name is None or name not in self:
            what = "Several subsets are here" if name is None else f"There is no subset {name!r}"
            raise ExportError(
                f"{what}; the Distiset has {list(self)}.", did_you_mean(name or "", self, "Name one.")
            )
        return name

    def _like(self, subsets: Mapping[str, DatasetDict]) -> Distiset:
        return Distiset(subsets, pipeline_text=self.pipeline, info=self.info, json_columns=self.json_columns)

    def _describe(self, files: str = "") -> list[Subset]:
        described = []
        for name, folder in _folders(self).items():
            n_rows = self.n_rows(name)
            json_columns = self.json_columns.get(name, frozenset())
            sample = next((self._first_row(name, split) for split, n in n_rows.items() if n), None)
            paths = {split: files.format(folder=folder, split=split) for split in n_rows} if files else {}
            described.append(Subset(folder, n_rows, self.names(name), json_columns, sample, paths))
        return described

    def _first_row(self, name: str, split: str) -> Row:
        decoded = self.json_columns.get(name, frozenset())
        row: Row = self[name][split][0]
        return {key: decode(value) if key in decoded else value for key, value in row.items()}

    def _details(self, folders: Mapping[str, str]) -> str:
        details = {
            "format": 1,
            "subsets": dict(folders),
            "json_columns": {name: sorted(columns) for name, columns in self.json_columns.items() if columns},
            "info": self.info.to_dict(),
        }
        return json.dumps(details, ensure_ascii=False, indent=2) + "\n"

    def _pipeline_to_share(self) -> str:
        if secret := find_secret(self.pipeline):
            raise ExportError(
                f"The text of the pipeline holds {secret}.", "Take it out of the prompts and run again."
            )
        return self.pipeline


def _folders(names: Iterable[str]) -> dict[str, str]:
    """Return for each subset a name that files and the Hub take, no two alike."""
    folders: dict[str, str] = {}
    for name in names:
        folder = _NO_FILE_NAME.sub("_", name).strip(". ") or "subset"
        while folder in folders.values():
            folder += "_"
        folders[name] = folder
    return folders


def _read_details(files: Any, base: str) -> dict[str, Any]:
    text = _read_text(files, f"{base}/{DETAILS_FILE}")
    if text:
        details: dict[str, Any] = json.loads(text)
        return details
    if files.exists(f"{base}/dataset_dict.json"):
        return {"subsets": {ONLY_SUBSET: ""}}
    found = [path.rsplit("/", 2)[-2] for path in files.glob(f"{base}/*/dataset_dict.json")]
    if not found:
        raise SourceNotFoundError(
            f"The folder {base!r} holds no dataset.", "Give one that save_to_disk wrote."
        )
    return {"subsets": {name: name for name in sorted(found)}}


def _read_text(files: Any, path: str) -> str:
    return str(files.cat_file(path).decode("utf-8")) if files.exists(path) else ""


@contextmanager
def _disk_errors(path: str, done: str) -> Iterator[None]:
    try:
        yield
    except DistilnbError:
        raise
    except FileNotFoundError as error:
        raise SourceNotFoundError(
            f"{path!r} cannot be {done}: it is not there.", "Check the path."
        ) from error
    except (OSError, ValueError, ImportError) as error:
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise ExportError(
            f"{path!r} cannot be {done}: {what}",
            "Choose another folder, or mend what it says.",
        ) from error


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    was_disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not was_disabled:
            enable_progress_bars()

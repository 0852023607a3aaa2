"""Sources: batches, offsets, renaming, what is known before a run."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilnb.errors import InputError, MissingColumnError, NoRowsError, SourceNotFoundError, SpecError
from distilnb.rows import Row, dump_json
from distilnb.spec.columns import Columns
from distilnb.spec.registry import build
from distilnb.spec.step import GeneratorStep
from distilnb.steps import LoadDataFromDicts, LoadDataFromDisk, LoadDataFromFileSystem, LoadDataFromHub
from distilnb.steps.sources import rows_from_dataset, rows_from_pandas

ROWS: list[Row] = [{"id": i, "prompt": f"p{i}"} for i in range(7)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    return tmp_path


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    split = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": split, "test": split.select(range(2))}).save_to_disk(
        str(tmp_path / "set" / "default")
    )
    return tmp_path / "set"


def rows_of(source: GeneratorStep, offset: int = 0) -> list[Row]:
    pairs = list(source.process(offset))
    assert [is_last for _, is_last in pairs] == [False] * (len(pairs) - 1) + [True]
    return [row for rows, _ in pairs for row in rows]


def sources(folder: Path, saved: Path) -> list[GeneratorStep]:
    common: dict[str, Any] = {"output_mappings": {"prompt": "instruction"}, "batch_size": 3}
    return [
        LoadDataFromDicts(data=ROWS, **common),
        LoadDataFromFileSystem(data_files=str(folder / "train.jsonl"), **common),
        LoadDataFromDisk(dataset_path=saved / "default", **common),
        LoadDataFromDisk(dataset_path=saved, is_distiset=True, **common),
        LoadDataFromHub(repo_id=str(folder), **common),
        LoadDataFromHub(repo_id=str(folder), streaming=True, **common),
    ]


def test_every_source_yields_renamed_rows_from_any_offset(folder: Path, saved: Path) -> None:
    renamed = [{"id": row["id"], "instruction": row["prompt"]} for row in ROWS]
    for source in sources(folder, saved):
        assert [rows_of(source, offset) for offset in (0, 2, 6, 7)] == [
            renamed,
            renamed[2:],
            renamed[6:],
            [],
        ], source
        assert source.peek(2) == renamed[:2]  # type: ignore[attr-defined]  # all of them have it
        assert build(json.loads(json.dumps(source.dump(), default=str))) == source or "data" in source.dump()


def test_the_columns_are_known_after_renaming(folder: Path, saved: Path) -> None:
    known = [source.columns_after([]) for source in sources(folder, saved)]
    assert known[:4] == [Columns(("id", "instruction"))] * 4
    assert all(columns.is_open and "instruction" in columns for columns in known[4:])


def test_the_number_of_rows_is_known_where_it_is_cheap(folder: Path, saved: Path) -> None:
    assert [source.n_rows() for source in sources(folder, saved)] == [7, 7, 7, 7, None, None]
    assert LoadDataFromFileSystem(data_files=str(folder), num_examples=4).n_rows() == 4
    assert LoadDataFromDisk(dataset_path=saved, is_distiset=True, split="test").n_rows() == 2


def test_num_examples_counts_from_the_first_row(folder: Path) -> None:
    source = LoadDataFromFileSystem(data_files=str(folder / "*.jsonl"), num_examples=4)
    assert (len(rows_of(source)), len(rows_of(source, 3)), len(rows_of(source, 5))) == (4, 1, 0)


def test_a_renamed_column_that_does_not_exist_is_told(folder: Path) -> None:
    source = LoadDataFromFileSystem(data_files=str(folder), output_mappings={"promt": "instruction"})
    with pytest.raises(MissingColumnError, match="renames column 'promt'") as caught:
        source.columns_after([])
    assert caught.value.fix == "Did you mean 'prompt'?"


def test_a_missing_file_leaves_the_columns_open_and_fails_the_check(tmp_path: Path) -> None:
    source = LoadDataFromFileSystem(data_files=str(tmp_path / "no.jsonl"))
    assert (source.columns_after([]).is_open, source.n_rows(), source.fingerprint()) == (True, None, "")
    with pytest.raises(SourceNotFoundError, match="There is no file"):
        source.check()
    with pytest.raises(SpecError, match="has no data_files"):
        LoadDataFromFileSystem().check()


def test_an_empty_source_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n", "utf-8")
    source = LoadDataFromFileSystem(data_files=str(tmp_path / "a.jsonl"))
    with pytest.raises(NoRowsError, match="holds no row"):
        source.check()
    with pytest.raises(NoRowsError):
        list(source.process())
    with pytest.raises(NoRowsError):
        list(LoadDataFromDicts(data=[]).process())


def test_a_split_is_chosen_among_data_files(folder: Path) -> None:
    (folder / "test.jsonl").write_text('{"a": 1}', "utf-8")
    files: dict[str, Any] = {"train": str(folder / "train.jsonl"), "test": [str(folder / "test.jsonl")]}
    assert rows_of(LoadDataFromFileSystem(data_files=files, split="test")) == [{"a": 1}]
    with pytest.raises(SourceNotFoundError, match="no split 'tst'"):
        rows_of(LoadDataFromFileSystem(data_files=files, split="tst"))


def test_the_fingerprint_changes_with_the_file(folder: Path) -> None:
    source = LoadDataFromFileSystem(data_files=str(folder / "train.jsonl"))
    before = source.fingerprint()
    with (folder / "train.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"id": 8, "prompt": "p8"}\n')
    assert before != source.fingerprint() != ""


def test_rows_given_in_the_program_are_copied(folder: Path) -> None:
    given = [{"a": 1}]
    rows_of(LoadDataFromDicts(data=given))[0]["a"] = 2
    assert given == [{"a": 1}]


def test_ragged_rows_have_all_columns() -> None:
    assert LoadDataFromDicts(data=[{"a": 1}, {"b": 1}]).columns_after([]) == Columns(("a", "b"))
    with pytest.raises(InputError, match="Row 1 is of type 'str'"):
        LoadDataFromDicts(data=[{}, "x"])


def test_what_is_not_on_disk_is_told(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"no split 'tset'; it has \['train', 'test'\]"):
        LoadDataFromDisk(dataset_path=saved, is_distiset=True, split="tset").check()
    with pytest.raises(SourceNotFoundError, match="no configuration 'x'"):
        LoadDataFromDisk(dataset_path=saved, config="x").check()
    with pytest.raises(SourceNotFoundError, match="no saved dataset"):
        LoadDataFromDisk(dataset_path=tmp_path / "nothing").check()


@pytest.mark.parametrize(
    "text", ["{", "[]", '"x"', "{}", '{"_data_files": [{}], "features": 3}', "\xff", None]
)
@pytest.mark.parametrize("name", ["state.json", "dataset_info.json"])
def test_a_broken_file_of_a_saved_dataset_is_named(saved: Path, name: str, text: str | None) -> None:
    if (name, text) == ("dataset_info.json", "{}"):
        return  # nothing is known of the columns: that is no fault
    broken = saved / "default" / "train" / name
    if text is None:
        broken.unlink()
    else:
        broken.write_text(text, "latin-1")
    source = LoadDataFromDisk(dataset_path=saved / "default")
    for use in (source.check, lambda: source.peek(1), lambda: list(source.process())):
        with pytest.raises(InputError, match=f"{broken.name}' of the saved|There is no saved dataset"):
            use()
    assert source.n_rows() in ((None,) if name == "state.json" else (None, 7))
    assert source.columns_after([]).is_open == (name == "dataset_info.json")
    assert isinstance(source.fingerprint(), str)


def test_a_broken_list_of_splits_is_named(saved: Path) -> None:
    (saved / "default" / "dataset_dict.json").write_text("{", "utf-8")
    source = LoadDataFromDisk(dataset_path=saved / "default")
    with pytest.raises(InputError, match=r"dataset_dict\.json' of the saved dataset cannot be read: no JSON"):
        source.check()
    assert (source.n_rows(), source.fingerprint(), source.columns_after([]).is_open) == (None, "", True)


@pytest.mark.parametrize("source", [LoadDataFromDisk, LoadDataFromFileSystem])
def test_options_that_nothing_reads_are_refused(source: type[GeneratorStep]) -> None:
    with pytest.raises(SpecError, match="storage_options"):
        source(storage_options={"anon": True})


def test_what_is_not_on_the_hub_is_told(folder: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="split 'tset'"):
        list(LoadDataFromHub(repo_id=str(folder), split="tset").process())
    with pytest.raises(SpecError, match="has no repo_id"):
        LoadDataFromHub(name="hub").check()


def test_building_and_checking_imports_nothing_heavy(folder: Path) -> None:
    import subprocess

    code = (
        "import sys; from distilnb.steps import LoadDataFromFileSystem, LoadDataFromHub, FilterRows, step\n"
        f"source = LoadDataFromFileSystem(data_files={str(folder)!r}); source.check(); source.columns_after([])\n"
        "LoadDataFromHub(repo_id='a/b').check()\n"
        "print({'pandas', 'pyarrow', 'datasets', 'numpy', 'huggingface_hub', 'yaml'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- from pandas and datasets ---


def test_a_data_frame_becomes_plain_python() -> None:
    import numpy as np
    import pandas as pd

    df = pd.DataFrame(
        {
            "i": pd.array([1, None], dtype="Int64"),
            "f": [1.5, math.nan],
            "s": ["é", None],
            "t": pd.to_datetime(["2026-01-02", None]),
            "l": [np.array([1, 2]), [np.float32(0.5), {"a": np.int64(3)}]],
            "b": [np.bool_(True), False],
            7: [b"x", b"y"],
        }
    )
    first, second = rows_from_pandas(df)
    assert list(first) == ["i", "f", "s", "t", "l", "b", "7"]
    assert second == {"i": None, "f": None, "s": None, "t": None, "l": [0.5, {"a": 3}], "b": False, "7": b"y"}
    assert first["l"] == [1, 2]
    assert {type(first["i"]), type(first["b"]), type(first["t"]).__name__} == {int, bool, "datetime"}
    assert dump_json([first, second])


def test_a_data_frame_without_usable_names_is_refused() -> None:
    import pandas as pd

    with pytest.raises(InputError, match="two columns named 'a'"):
        rows_from_pandas(pd.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(InputError, match="which is no text"):
        rows_from_pandas(pd.DataFrame([[1]], columns=[("a", "b")]))


def test_a_dataset_becomes_rows() -> None:
    datasets = pytest.importorskip("datasets")
    split = datasets.Dataset.from_list([{"a": [1], "b": None}])
    assert rows_from_dataset(split) == [{"a": [1], "b": None}]
    assert rows_from_dataset(datasets.DatasetDict({"test": split})) == [{"a": [1], "b": None}]
    with pytest.raises(InputError, match=r"splits \['dev', 'test'\]"):
        rows_from_dataset(datasets.DatasetDict({"test": split, "dev": split}))


@given(st.integers(1, 5), st.integers(0, 12), st.integers(0, 12))
def test_batches_are_full_but_the_last(size: int, n_rows: int, offset: int) -> None:
    if n_rows == 0:
        return
    source = LoadDataFromDicts(data=[{"n": i} for i in range(n_rows)], batch_size=size)
    pairs = list(source.process(offset))
    assert [row["n"] for rows, _ in pairs for row in rows] == list(range(offset, n_rows))
    assert all(len(rows) == size for rows, is_last in pairs if not is_last)

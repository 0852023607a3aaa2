"""The Distiset: a dict of datasets that are made late, saved with what made them, and never lose a value."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import DatasetDict, load_dataset

from distilnb.errors import ExportError, SchemaConflictError, SourceNotFoundError
from distilnb.export.distiset import Distiset
from distilnb.export.info import RunInfo

ROWS: list[dict[str, Any]] = [
    {"q": "Why?", "n": 1, "mixed": [1, "a"]},
    {"q": "Who?", "n": None, "mixed": {"b": 2}},
]
TEXT = "distilnb: {version: 0.1.0, format: 1}\npipeline: {name: p, steps: []}\n"


def one(**more: Any) -> Distiset:
    return Distiset.from_rows({"leaf": ROWS}, pipeline_text=TEXT, **more)


def test_one_leaf_is_default_and_several_keep_their_names() -> None:
    assert list(one()) == ["default"]
    assert list(Distiset.from_rows({"a": ROWS, "b": []})) == ["a", "b"]


def test_it_is_a_dict_of_dataset_dicts() -> None:
    ds = one()
    assert isinstance(ds, dict)
    assert isinstance(ds["default"], DatasetDict)
    assert ds["default"]["train"]["q"][:] == ["Why?", "Who?"]
    assert ds["default"]["train"][0]["mixed"] == '[1,"a"]'
    with pytest.raises(KeyError):
        _ = ds["other"]


@pytest.mark.parametrize(
    "read",
    [
        lambda ds: dict(ds)["default"],
        lambda ds: {**ds}["default"],
        lambda ds: next(iter(ds.values())),
        lambda ds: dict(ds.items())["default"],
        lambda ds: ds.get("default"),
        lambda ds: ds.copy()["default"],
        lambda ds: ds.pop("default"),
        lambda ds: pickle.loads(pickle.dumps(ds))["default"],
    ],
)
def test_every_way_to_read_gives_the_dataset(read: Any) -> None:
    assert len(read(one())["train"]) == 2


def test_a_subset_can_be_set_and_deleted() -> None:
    ds = one()
    ds["default"] = DatasetDict({"train": one()["default"]["train"].select([0])})
    assert len(ds["default"]["train"]) == 1
    ds = one()
    del ds["default"]
    assert ds == {}
    assert ds.get("default") is None


def test_rows_and_frames_come_without_the_package_datasets() -> None:
    program = """
import sys
from distilnb.export.distiset import Distiset
ds = Distiset.from_rows({"leaf": [{"a": 1}]})
repr(ds), ds._repr_html_(), len(ds), "default" in ds
print(sorted({"datasets", "pandas", "pyarrow", "huggingface_hub"} & set(sys.modules)))
assert list(ds.rows()) == [{"a": 1}] and len(ds.to_pandas()) == 1
print("datasets" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "False"]


def test_rows_and_frames_restore_what_datasets_hold_as_json() -> None:
    ds = one()
    for _ in range(2):  # before and after the dataset was made
        assert list(ds.rows()) == ROWS
        assert ds.to_pandas()["mixed"].tolist() == [[1, "a"], {"b": 2}]
        _ = ds["default"]


def test_a_wrong_subset_or_split_is_told_with_those_that_exist() -> None:
    ds = Distiset.from_rows({"prefs": ROWS, "sft": ROWS})
    with pytest.raises(ExportError, match=r"\['prefs', 'sft'\]"):
        ds.to_pandas()
    with pytest.raises(ExportError, match="prefs"):
        ds.to_pandas("pref")
    with pytest.raises(ExportError, match=r"\['train'\]"):
        list(ds.rows("prefs", "test"))


def test_a_conflict_is_told_when_the_rows_are_asked_for() -> None:
    ds = Distiset.from_rows({"leaf": [{"a": 1}, {"a": "x"}]})
    with pytest.raises(SchemaConflictError, match="'a'"):
        _ = ds["default"]


def test_a_split_is_a_new_distiset_with_all_that_is_known() -> None:
    ds = one(info=RunInfo(pipeline="p", is_partial=True))
    split = ds.train_test_split(0.5, shuffle=False)
    assert {name: len(part) for name, part in split["default"].items()} == {"train": 1, "test": 1}
    assert list(split.rows(split="test")) == ROWS[1:]
    assert (split.info, split.pipeline) == (ds.info, ds.pipeline)
    assert list(ds["default"]) == ["train"]
    with pytest.raises(ExportError, match="cannot be split"):
        one().train_test_split(5.5)


# --- disk ---------------------------------------------------------------------


def two() -> Distiset:
    info = RunInfo(pipeline="p", is_rehearsed=True)
    return Distiset.from_rows(
        {"a/b": ROWS, "none": []}, columns={"none": ["q"]}, pipeline_text=TEXT, info=info
    )


def test_a_saved_folder_comes_back_with_all_it_knew(tmp_path: Path) -> None:
    ds = two()
    ds.save_to_disk(tmp_path / "out")
    back = Distiset.load_from_disk(tmp_path / "out")
    assert list(back.rows("a/b")) == ROWS
    assert list(back.rows("none")) == []
    assert back["none"]["train"].column_names == ["q"]
    assert (back.info, back.pipeline) == (ds.info, TEXT)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "a_b", "distilnb.json", "none", "pipeline.yaml",
    ]  # fmt: skip


def test_a_saved_folder_loads_with_datasets_alone(tmp_path: Path) -> None:
    two().save_to_disk(tmp_path / "out")
    assert len(DatasetDict.load_from_disk(str(tmp_path / "out" / "a_b"))["train"]) == 2
    loaded = load_dataset(str(tmp_path / "out"), "a_b", cache_dir=str(tmp_path / "cache"))
    assert loaded["train"]["q"][:] == ["Why?", "Who?"]


def test_a_remote_file_system_works_too() -> None:
    two().save_to_disk("memory://bucket/out")
    assert list(Distiset.load_from_disk("memory://bucket/out").rows("a/b")) == ROWS


def test_card_and_pipeline_can_be_left_away(tmp_path: Path) -> None:
    two().save_to_disk(tmp_path, save_card=False, save_pipeline_config=False)
    assert not {"README.md", "pipeline.yaml"} & {path.name for path in tmp_path.iterdir()}
    assert Distiset.load_from_disk(tmp_path).pipeline == ""


def test_folders_of_datasets_alone_can_be_opened(tmp_path: Path) -> None:
    one()["default"].save_to_disk(str(tmp_path / "plain"))
    assert list(Distiset.load_from_disk(tmp_path / "plain")) == ["default"]
    assert list(Distiset.load_from_disk(tmp_path)) == ["plain"]


def test_what_cannot_be_read_or_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        Distiset.load_from_disk(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ExportError, match="cannot be written"):
        one().save_to_disk(tmp_path / "file")
    one().save_to_disk(tmp_path / "out")
    with pytest.raises(ExportError, match="overwrite itself"):
        Distiset.load_from_disk(tmp_path / "out").save_to_disk(tmp_path / "out")


def test_a_secret_in_the_pipeline_stops_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_API_KEY", "canary-0123456789")
    ds = Distiset.from_rows({"leaf": ROWS}, pipeline_text=TEXT + "# canary-0123456789")
    with pytest.raises(ExportError, match="CANARY_API_KEY"):
        ds.save_to_disk(tmp_path)
    with pytest.raises(ExportError, match="CANARY_API_KEY"):
        ds.push_to_hub("me/prefs")


# --- looks --------------------------------------------------------------------


def test_it_says_what_it_holds_and_what_it_is() -> None:
    ds = one(info=RunInfo(pipeline="prefs", is_rehearsed=True, is_partial=True))
    assert repr(ds) == "Distiset 'prefs' (rehearsed, partial)\n  default: train 2 rows · q, n, mixed"
    html = ds._repr_html_()
    assert "rehearsed" in html
    assert "partial" in html


def test_its_html_is_escaped_and_small() -> None:
    rows = [{f"<b>{i}</b>": 1 for i in range(100)}]
    html = Distiset.from_rows({"<i>": rows, "b": []}, info=RunInfo(pipeline="<script>"))._repr_html_()
    assert "<script>" not in html
    assert "<i>&" not in html
    assert "<b>0" not in html
    assert len(html) < 8000


def test_the_details_beside_the_rows_are_plain_json(tmp_path: Path) -> None:
    two().save_to_disk(tmp_path)
    details = json.loads((tmp_path / "distilnb.json").read_text("utf-8"))
    assert details["subsets"] == {"a/b": "a_b", "none": "none"}
    assert details["json_columns"] == {"a/b": ["mixed"]}

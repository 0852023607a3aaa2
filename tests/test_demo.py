"""The demo replaces nothing but its own result, and says when a model is really asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distilnb.demo import FOLDER, MARK, _check_folder, announcement, save
from distilnb.errors import ExportError
from distilnb.export.distiset import Distiset
from distilnb.export.info import RunInfo
from distilnb.llms.catalog import as_llm


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(n_rows: int) -> Distiset:
    return Distiset.from_rows({"x": [{"a": 1}] * n_rows}, info=RunInfo(pipeline="demo"))


def n_rows_in(folder: str) -> int:
    return len(Distiset.load_from_disk(folder)["default"]["train"])


def test_a_folder_without_the_mark_is_kept_even_if_its_pipeline_is_named_demo() -> None:
    made(1).save_to_disk("mine")
    Path("mine", "notes.txt").write_text("precious")
    for refuse in (lambda: _check_folder(Path("mine")), lambda: save(made(2), Path("mine"))):
        with pytest.raises(ExportError, match=r"'mine' is there already .*\n.* out='...'"):
            refuse()
    assert Path("mine", "notes.txt").read_text() == "precious"
    assert n_rows_in("mine") == 1


def test_a_result_takes_the_place_of_the_one_before_and_leaves_nothing_beside() -> None:
    for n_rows in (1, 2):
        save(made(n_rows), Path(FOLDER))
        assert n_rows_in(FOLDER) == n_rows
    assert os.listdir() == [FOLDER]
    assert Path(FOLDER, MARK).is_file()
    assert f"{FOLDER}/pipeline.yaml" in Path(FOLDER, "README.md").read_text()


def test_an_empty_folder_is_filled_be_it_the_working_directory_itself() -> None:
    save(made(1), Path("."))
    assert n_rows_in(".") == 1


def test_the_earlier_result_is_whole_when_saving_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    save(made(1), Path(FOLDER))
    rename = os.rename

    def fail(source: Path, target: Path) -> None:
        if source.name == "new":
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(ExportError, match="cannot be written: No space left on device"):
        save(made(2), Path(FOLDER))
    assert n_rows_in(FOLDER) == 1
    assert os.listdir() == [FOLDER]


@pytest.mark.parametrize("names", [("rehearsal:a", "openai:gpt-4o"), ("openai:gpt-4o", "rehearsal:a")])
def test_one_real_model_among_rehearsed_ones_is_told(names: tuple[str, str]) -> None:
    lines = announcement([as_llm(name) for name in names], [], {"rows": 20, "max_cost": 0.5})
    assert lines == [f"Asking {', '.join(names)}: at most 20 rows, at most $0.50."]

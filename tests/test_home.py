"""The folders of distilnb: private, and named safely after anything."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distilnb.engine.rundir import make_run_dir
from distilnb.errors import StoreError
from distilnb.home import folder_name, private_folder


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_every_folder_that_is_made_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were there keep their mode."""
    there = tmp_path / "there"
    there.mkdir()
    there.chmod(0o755)
    monkeypatch.setenv("DISTILNB_HOME", str(there / "new" / "home"))
    made = private_folder("runs", "one")
    assert made == there / "new" / "home" / "runs" / "one"
    assert [mode(path) for path in (made, *made.parents[:3], there)] == [0o700] * 4 + [0o755]


def test_a_folder_that_exists_is_given_as_it_is(home: Path) -> None:
    made = private_folder("cache")
    made.chmod(0o750)
    assert private_folder("cache") == made
    assert mode(made) == 0o750


def test_a_file_in_the_way_is_a_store_error(home: Path) -> None:
    home.write_text("")
    with pytest.raises(StoreError, match=r"The folder '.*one' cannot be made: Not a directory"):
        private_folder("runs", "one")
    with pytest.raises(StoreError, match=r"The folder '.*home' cannot be made: File exists"):
        private_folder()


@pytest.mark.parametrize("name", ["load", "text_generation_0", "Judge-2", "a" * 60])
def test_a_plain_name_names_its_folder(name: str) -> None:
    assert folder_name(name) == name


@pytest.mark.parametrize(
    "name, readable",
    [
        ("a b", "a-b"),
        ("a/b", "a-b"),
        ("../../etc", "etc"),
        ("gpt-4.1", "gpt-4-1"),
        ("Überblick 中文", "berblick"),
        ("n" * 61, "n" * 48),
        ("中" * 40, "name"),
        ("..", "name"),
        (".", "name"),
        ("", "name"),
    ],
)
def test_another_name_is_cut_to_what_is_safe_and_gets_a_digest(name: str, readable: str) -> None:
    assert re.fullmatch(re.escape(readable) + "-[0-9a-f]{8}", folder_name(name))


NAMES = st.text(max_size=80) | st.text("a-/. _", max_size=4)


@given(st.lists(NAMES, unique=True, max_size=8))
@example(["a b", folder_name("a b"), folder_name(folder_name("a b"))])
@example(["", folder_name(""), "..", folder_name("..")])
def test_names_never_share_a_folder(names: list[str]) -> None:
    folders = {folder_name(name) for name in names}
    assert len(folders) == len(names)
    assert all(re.fullmatch("[A-Za-z0-9_-]{1,60}", folder) for folder in folders)


@pytest.mark.parametrize("stage", ["..", ".", "a/b", "/tmp", "中" * 100])
def test_the_batches_of_any_step_lie_in_a_folder_of_their_own(stage: str) -> None:
    run = make_run_dir("run")
    folder = run.batches(stage)
    assert folder.is_dir()
    assert folder.resolve().parent == (run.path / "batches").resolve()
    assert mode(folder) == 0o700

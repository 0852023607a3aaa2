"""A pipeline comes back equal from a file, and from the Hub where its dataset was pushed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import distilnb as dn
from distilnb.errors import SourceNotFoundError, SpecError
from distilnb.pipeline import Pipeline
from distilnb.pipeline.opening import open_pipeline
from tests.servers import fake_hub


def preferences() -> Pipeline:
    rows = [{"instruction": f"Name {i} rivers."} for i in range(6)]
    p = Pipeline("prefs", llm="rehearsal", description="rivers").from_dicts(rows)
    return p.generate(llm=["rehearsal:a", "rehearsal:b"]).judge().to_dpo()


@pytest.mark.parametrize("name", ["prefs.yaml", "prefs.json"])
def test_a_saved_pipeline_opens_equal(tmp_path: Path, name: str) -> None:
    preferences().save(tmp_path / name)
    opened = dn.open(tmp_path / name)
    assert opened == preferences()
    assert (opened.description, opened.llm) == ("rivers", preferences().llm)


PROGRAM = """
import distilnb as dn
from tests.pipeline.test_opening import preferences
preferences().run(show=False).push_to_hub("me/prefs")
assert dn.open("hf://datasets/me/prefs") == preferences()
try:
    dn.open("hf://datasets/me/nothing")
except dn.errors.SourceNotFoundError as error:
    print(str(error).splitlines()[1])
print(dn.Pipeline("again").from_hub("me/prefs").keep("prompt").run(show=False)["default"]["train"].num_rows)
"""


def test_what_was_pushed_with_a_dataset_opens_equal_and_loads_again() -> None:
    with fake_hub() as hub:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, **hub.env},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    first, n_rows = done.stdout.splitlines()
    assert first == "Check its name, your access to it (HF_TOKEN) and the network."
    assert int(n_rows) == len(preferences().run(show=False)["default"]["train"])


def test_other_addresses_are_refused() -> None:
    with pytest.raises(SpecError, match=r"'https://x\.test/p\.yaml' is an address that cannot be opened"):
        open_pipeline("https://x.test/p.yaml")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        open_pipeline(tmp_path / "absent.yaml")

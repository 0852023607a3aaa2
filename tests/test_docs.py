"""What the documents name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


def named_files(page: Path) -> list[str]:
    """Return the paths in backticks that end in .py, or in a slash."""
    return re.findall(r"`((?:[\w.-]+/)+(?:[\w-]+\.py)?|[a-z_]+\.py)`", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    missing = [
        name
        for name in named_files(page)
        if not ((ROOT / name).exists() or (ROOT / "distilnb" / name).exists())
    ]
    assert missing == []


@pytest.mark.parametrize(
    "page",
    [ROOT / "docs" / name for name in ("structured.md", "batches.md", "iterate.md")],
    ids=lambda page: page.name,
)
def test_the_programs_of_a_page_run(page: Path) -> None:
    programs = re.findall(
        r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert programs
    names = {"__name__": "__main__"}  # a later one goes on where the one before ended
    for program in programs:
        exec(compile(program, page.name, "exec"), names)


def test_the_walk_of_a_row_names_many_files() -> None:
    walk = named_files(ROOT / "docs" / "architecture" / "README.md")
    assert len(set(walk)) > 40


def test_every_module_of_the_engine_stands_on_its_page_with_its_job() -> None:
    page = (ROOT / "docs" / "architecture" / "modules.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `(engine/\w+\.py)` \| (?:\S+ ){3,}", page, re.MULTILINE)
    modules = [f"engine/{path.name}" for path in (ROOT / "distilnb" / "engine").glob("[!_]*.py")]
    assert sorted(told) == sorted(modules)  # each once

"""What importing costs: names load lazily, and the processes of a run stay small."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import distilnb

HEAVY = (
    "IPython",
    "aiohttp",
    "argilla",
    "asyncio",
    "datasets",
    "huggingface_hub",
    "ipywidgets",
    "jinja2",
    "numpy",
    "openai",
    "pandas",
    "pyarrow",
    "pydantic",
    "torch",
    "typer",
    "yaml",
)


def loaded_by(statement: str) -> set[str]:
    """Return which heavy packages a fresh interpreter has loaded after a statement."""
    program = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout)) & set(HEAVY)


@pytest.mark.parametrize(
    "statement, allowed",
    [
        ("import distilnb", set()),
        ("import distilnb; dir(distilnb); distilnb.__version__; distilnb.errors", set()),
        ("import distilnb.engine.runner", set()),
        ("import distilnb.engine.ask_worker", {"asyncio", "jinja2", "pydantic", "aiohttp", "yaml"}),
        ("import distilnb; distilnb.Pipeline", {"asyncio", "jinja2", "pydantic", "yaml"}),
        ("import distilnb.cli", {"asyncio", "typer"}),
    ],
    ids=["package", "names", "runner", "ask worker", "pipeline", "command"],
)
def test_an_import_loads_no_package_that_is_not_needed_yet(statement: str, allowed: set[str]) -> None:
    assert loaded_by(statement) <= allowed


def test_all_is_what_is_visible() -> None:
    assert sorted(distilnb.__all__) == distilnb.__dir__() == dir(distilnb)


@pytest.mark.parametrize("name", sorted(distilnb.__all__))
def test_every_public_name_is_there_and_described(name: str) -> None:
    value = getattr(distilnb, name)
    assert isinstance(value, str) or value.__doc__


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'distilnb' has no attribute 'Pipelin'"):
        distilnb.Pipelin  # type: ignore[attr-defined]


def test_demo_is_the_function_also_after_its_module_was_imported_first() -> None:
    program = "import distilnb.demo, distilnb as dn; print(callable(dn.demo))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "True\n"

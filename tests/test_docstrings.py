"""The examples in docstrings run, and every module can be imported without optional packages."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import distilnb

ROOT = Path(distilnb.__file__).parent
MODULES = sorted(
    ".".join(("distilnb", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if path.name != "__main__.py"  # importing it runs the command
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str) -> None:
    """The machine of `make test` has no optional package, so that importing one at the top fails here."""
    assert doctest.testmod(import_module(name)).failed == 0

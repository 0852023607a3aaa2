"""The examples in docstrings run."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import distilnb.tasks

MODULES = sorted(path.stem for path in Path(distilnb.tasks.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str) -> None:
    module = import_module(f"distilnb.tasks.{name}".removesuffix(".__init__"))
    assert doctest.testmod(module).failed == 0

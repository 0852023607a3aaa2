"""The part of docs/llms.md on local models, made from their classes and from the tests of the real engines."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from distilnb.errors import UnsupportedParameterError
from distilnb.llms.catalog import PROVIDERS as NAMES
from distilnb.llms.local import LocalLLM
from distilnb.spec.registry import LLMS, load_kind

TESTS = Path(__file__).parents[1] / "engines" / "test_engines.py"
TESTED = ("TransformersLLM", "LlamaCppLLM", "vLLM")  # MLX runs on Apple's processors only

# What a library cannot, though its test runs: the test of that name skips it, and says why.
LACKS = {("LlamaCppLLM", "an unfinished reply of the assistant is gone on with"): "a new turn"}

HEAD = """
## Local models

They run on this machine, in a process of their own that all previews and runs share
([how](architecture/hosts.md)). `make test-engines` holds the real libraries to the behaviours below, on a tiny
model; `MlxLLM` is not among them: it runs on Apple's processors only.
"""


def local_kinds() -> list[str]:
    """Return the names of the classes of local models."""
    return [kind for kind in LLMS if issubclass(load_kind(kind), LocalLLM)]


def local_tables(values: dict[str, Any]) -> list[list[tuple[str, ...]]]:
    """Return the rows of three tables: classes, parameters, behaviours, each with its head."""
    kinds = local_kinds()
    classes: list[tuple[str, ...]] = [("class", "in `dn.llm`", "extra to install", "shapes")]
    parameters: list[tuple[str, ...]] = [("class", *(f"`{name}`" for name in values))]
    for kind in kinds:
        cls = load_kind(kind)
        assert issubclass(cls, LocalLLM)
        names = ", ".join(f"`{name}:`" for name, named in NAMES.items() if named == kind)
        shapes = "forced" if cls.forces else "told"
        classes.append((f"`{kind}`", names, f'`pip install "distilnb[{cls.extra_name}]"`', shapes))
        parameters.append((f"`{kind}`", *(_support(cls, name, value) for name, value in values.items())))
    behaviours = [("", *(f"`{kind}`" for kind in TESTED))]
    behaviours += [(words, *(LACKS.get((kind, words), "✓") for kind in TESTED)) for words in _behaviours()]
    return [classes, parameters, behaviours]


def _support(cls: type[LocalLLM], name: str, value: Any) -> str:
    try:
        cls(model="m", generation_kwargs={name: value}).check_parameters()
    except UnsupportedParameterError:
        return "–"
    return "✓"


def _behaviours() -> list[str]:
    tree = ast.parse(TESTS.read_text(encoding="utf-8"))
    tests = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [name.removeprefix("test_").replace("_", " ") for name in tests if name.startswith("test_")]

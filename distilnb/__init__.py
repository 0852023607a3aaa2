"""Design, preview, run and review synthetic-data and AI-feedback pipelines without leaving the notebook.

    import distilnb as dn

Names are loaded when first used: the import itself is instant, and so are the processes of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from distilnb.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from distilnb import errors, llms, steps, tasks
    from distilnb.demo import demo
    from distilnb.export.distiset import Distiset
    from distilnb.llms.base import LLM
    from distilnb.llms.catalog import llm
    from distilnb.llms.unloading import unload
    from distilnb.pipeline import Pipeline, Preview
    from distilnb.run import Run, attach, runs
    from distilnb.spec.step import GeneratorStep, GlobalStep, Step
    from distilnb.steps.function import step
    from distilnb.tasks.base import Task
    from distilnb.tasks.function import task
    from distilnb.view.models import models

__all__ = [
    "LLM",
    "Distiset",
    "GeneratorStep",
    "GlobalStep",
    "Pipeline",
    "Preview",
    "Run",
    "Step",
    "Task",
    "__version__",
    "attach",
    "demo",
    "errors",
    "llm",
    "llms",
    "load_ipython_extension",
    "models",
    "open",
    "runs",
    "step",
    "steps",
    "task",
    "tasks",
    "unload",
    "unload_ipython_extension",
]

# Public name → the module that holds it; "" stands for a module of that name.
_HOMES: Mapping[str, str] = {
    "LLM": "llms.base",
    "Distiset": "export.distiset",
    "GeneratorStep": "spec.step",
    "GlobalStep": "spec.step",
    "Pipeline": "pipeline",
    "Preview": "pipeline",
    "Run": "run",
    "Step": "spec.step",
    "Task": "tasks.base",
    "attach": "run",
    "demo": "demo",
    "errors": "",
    "llm": "llms.catalog",
    "llms": "",
    "models": "view.models",
    "runs": "run",
    "step": "steps.function",
    "steps": "",
    "task": "tasks.function",
    "tasks": "",
    "unload": "llms.unloading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'distilnb' has no attribute {name!r}")
    home = _HOMES[name]
    module = import_module(f"distilnb.{home or name}")
    found = getattr(module, name) if home else module
    globals()[name] = (
        found  # next time it is found at once; for `demo`, in the place of the module of that name
    )
    return found


def __dir__() -> list[str]:
    return sorted(__all__)


def open(path: str | Path, *, trust_code: bool = False, allow: Iterable[str | Path] = ()) -> Pipeline:
    """Open a pipeline that `pipeline.save` wrote: a YAML or JSON file, or `hf://datasets/<owner>/<name>`.

    Functions and classes of its author run only with `trust_code`; read the file before. It may read files of the
    working directory and ask its models where their providers are, or on this machine; `allow` names what else:
    files, folders, hosts.

    Raises SourceNotFoundError when it is not there, SpecError when it is no pipeline file, UnsafeFileError when it
    names places that are not allowed.
    """
    from distilnb.pipeline.opening import open_pipeline

    return open_pipeline(path, trust_code=trust_code, allow=allow)


def load_ipython_extension(shell: Any) -> None:
    """Register `%distil` and `%%distil`: what `%load_ext distilnb` calls."""
    from distilnb.notebook import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Take the magics away: what `%unload_ext distilnb` calls."""
    from distilnb.notebook import unload

    unload(shell)

"""HOW rows change: sources, columns, joins, filters, formats; each class tells the columns it reads and
makes.

Names are loaded when they are first used: a program pays for the steps that it has.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from distilnb.spec.step import GeneratorStep, GlobalStep, RuntimeParameter, Step, StepInput, StepResources

if TYPE_CHECKING:
    from distilnb.steps.best import BestGeneration
    from distilnb.steps.columns import DropColumns, ExpandColumns, KeepColumns, MergeColumns, RenameColumns
    from distilnb.steps.dedup import ExactDedup
    from distilnb.steps.filter import FilterRows, TakeRows
    from distilnb.steps.function import FunctionStep, MapRows, as_step, step
    from distilnb.steps.join import CombineOutputs, GroupColumns
    from distilnb.steps.route import RouteRows
    from distilnb.steps.sources import (
        LoadDataFromDicts,
        LoadDataFromDisk,
        LoadDataFromFileSystem,
        LoadDataFromHub,
    )
    from distilnb.steps.training import FormatTextGenerationDPO, FormatTextGenerationSFT

__all__ = [
    "BestGeneration",
    "CombineOutputs",
    "DropColumns",
    "ExactDedup",
    "ExpandColumns",
    "FilterRows",
    "FormatTextGenerationDPO",
    "FormatTextGenerationSFT",
    "FunctionStep",
    "GeneratorStep",
    "GlobalStep",
    "GroupColumns",
    "KeepColumns",
    "LoadDataFromDicts",
    "LoadDataFromDisk",
    "LoadDataFromFileSystem",
    "LoadDataFromHub",
    "MapRows",
    "MergeColumns",
    "RenameColumns",
    "RouteRows",
    "RuntimeParameter",
    "Step",
    "StepInput",
    "StepResources",
    "TakeRows",
    "as_step",
    "step",
]

_WHERE = {
    "best": ("BestGeneration",),
    "columns": ("DropColumns", "ExpandColumns", "KeepColumns", "MergeColumns", "RenameColumns"),
    "dedup": ("ExactDedup",),
    "filter": ("FilterRows", "TakeRows"),
    "function": ("FunctionStep", "MapRows", "as_step", "step"),
    "join": ("CombineOutputs", "GroupColumns"),
    "route": ("RouteRows",),
    "sources": ("LoadDataFromDicts", "LoadDataFromDisk", "LoadDataFromFileSystem", "LoadDataFromHub"),
    "training": ("FormatTextGenerationDPO", "FormatTextGenerationSFT"),
}
_OF_TASKS = frozenset({"EmbeddingGeneration"})  # they ask models, and pipelines of 1.x import them from here


def __getattr__(name: str) -> object:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(import_module(f"distilnb.steps.{module}"), name)
    if name in _OF_TASKS:
        return getattr(import_module("distilnb.tasks"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

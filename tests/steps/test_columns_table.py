"""Which columns each step reads, makes and leaves: the tables of distilabel 1.5.3, written out."""

from __future__ import annotations

import pytest

from distilnb.spec.columns import Columns
from distilnb.spec.registry import STEPS, load_kind
from distilnb.spec.step import Step
from distilnb.steps import (
    BestGeneration,
    CombineOutputs,
    DropColumns,
    ExactDedup,
    ExpandColumns,
    FilterRows,
    FormatTextGenerationDPO,
    FormatTextGenerationSFT,
    GroupColumns,
    KeepColumns,
    LoadDataFromDicts,
    LoadDataFromDisk,
    LoadDataFromFileSystem,
    LoadDataFromHub,
    MapRows,
    MergeColumns,
    RenameColumns,
    RouteRows,
    TakeRows,
    step,
)
from distilnb.steps.function import FunctionStep

AB = ("a", "b")
DPO_IN = ("instruction", "generations", "ratings")
DPO_OUT = ["prompt", "prompt_id", "chosen", "chosen_model", "chosen_rating", "rejected", "rejected_model"]
DPO_OUT += ["rejected_rating"]


@step
def shout(a: str) -> dict[str, str]:
    return {"loud": a.upper()}


# step, columns that arrive, columns that must be there, columns it makes, columns that leave ("…": and others)
TABLE: list[tuple[Step, tuple[str, ...], list[str], list[str], list[str]]] = [
    (LoadDataFromDicts(data=[{"a": 1, "b": 2}]), (), [], [], ["a", "b"]),
    (LoadDataFromHub(repo_id="x/y"), (), [], [], ["…"]),
    (LoadDataFromFileSystem(data_files="/nowhere/x.jsonl"), (), [], [], ["…"]),
    (LoadDataFromDisk(dataset_path="/nowhere"), (), [], [], ["…"]),
    (KeepColumns(columns=["b", "a"]), ("a", "b", "c"), ["b", "a"], ["b", "a"], ["b", "a"]),
    (DropColumns(columns=["a"]), AB, ["a"], [], ["b"]),
    (RenameColumns(columns={"a": "c"}), AB, ["a"], ["c"], ["c", "b"]),
    (MergeColumns(columns=["a", "b"]), ("a", "b", "c"), ["a", "b"], ["combine_a_b"], ["c", "combine_a_b"]),
    (MergeColumns(columns=["a", "b"], output_column="a"), AB, ["a", "b"], ["a"], ["a"]),
    (ExpandColumns(columns=["a"]), AB, ["a"], ["a"], ["a", "b"]),
    (ExpandColumns(columns={"a": "one"}), AB, ["a"], ["one"], ["b", "one"]),
    (GroupColumns(columns=["a"]), AB, ["a"], ["grouped_a"], ["b", "grouped_a"]),
    (GroupColumns(columns=["a"], output_columns=["all"]), AB, ["a"], ["all"], ["b", "all"]),
    (CombineOutputs(), AB, [], [], ["a", "b"]),
    (FilterRows(condition="a > 1 and row['b']"), AB, ["a", "b"], [], ["a", "b"]),
    (FilterRows(condition=lambda a: a > 1), AB, ["a"], [], ["a", "b"]),
    (RouteRows(when={"x": "a > 1", "y": lambda b: b}), AB, ["a", "b"], [], ["a", "b"]),
    (RouteRows(function=lambda steps, b: steps[:b]), AB, ["b"], [], ["a", "b"]),
    (TakeRows(n=1), AB, [], [], ["a", "b"]),
    (ExactDedup(columns=["a"]), AB, ["a"], [], ["a", "b"]),
    (MapRows(function=lambda a: {"c": a}, made_columns=["c"]), AB, ["a"], ["c"], ["a", "b", "c"]),
    (MapRows(function=lambda row: {**row}), AB, [], [], ["a", "b", "…"]),
    (shout(), AB, ["a"], ["loud"], ["a", "b", "loud"]),
    (
        BestGeneration(),
        ("generations",),
        ["generations"],
        ["generation", "generation_model"],
        ["generations", "generation", "generation_model"],
    ),
    (
        FormatTextGenerationSFT(),
        ("instruction", "generation"),
        ["instruction", "generation"],
        ["prompt", "prompt_id", "messages"],
        ["instruction", "generation", "prompt", "prompt_id", "messages"],
    ),
    (
        FormatTextGenerationDPO(),
        (*DPO_IN, "generation_models"),
        [*DPO_IN],
        DPO_OUT,
        [*DPO_IN, "generation_models", *DPO_OUT],
    ),
    (
        FormatTextGenerationDPO(),
        DPO_IN,
        [*DPO_IN],
        DPO_OUT,
        [*DPO_IN, *[c for c in DPO_OUT if "model" not in c]],
    ),
]


@pytest.mark.parametrize(
    "one, arriving, needed, made, leaving", TABLE, ids=lambda v: getattr(v, "kind", str)()
)
def test_a_step_reads_makes_and_leaves_the_columns_of_the_table(
    one: Step, arriving: tuple[str, ...], needed: list[str], made: list[str], leaving: list[str]
) -> None:
    assert one.needed() == needed
    assert one.made() == made
    after = one.columns_after([Columns(arriving)] if arriving else [])
    assert [*after.names, *(["…"] if after.is_open else [])] == leaving


OURS = [kind for kind, where in STEPS.items() if where.startswith("distilnb.steps.")]


def test_the_table_has_every_step_of_the_registry() -> None:
    assert {row[0].kind() for row in TABLE} == set(OURS) - {"FunctionSource", "GlobalFunctionStep"}


@pytest.mark.parametrize("kind", OURS)
def test_the_docstring_of_a_step_tells_its_inputs_outputs_errors_and_source(kind: str) -> None:
    told = load_kind(kind).__doc__ or ""
    assert [name for name in ("Inputs:", "Outputs:", "Errors:", "Source:") if name not in told] == []


def test_mappings_rename_what_a_step_reads_and_makes() -> None:
    one = FunctionStep(
        function=lambda a: {"c": a}, makes=["c"], input_mappings={"a": "x"}, output_mappings={"c": "y"}
    )
    assert (one.needed(), one.made()) == (["x"], ["y"])

"""Paths to parameters: a step's name may hold dots, and the longest that fits is meant."""

from __future__ import annotations

from typing import Any

import pytest

from distilnb.errors import UnknownParameterError, UnknownStepError
from distilnb.llms.rehearsal import RehearsalLLM
from distilnb.spec.graph import Graph
from distilnb.spec.parameters import split_path, with_parameters
from distilnb.tasks.generation import TextGeneration


def graph_of(*names: str) -> Graph:
    return Graph({name: TextGeneration(name=name, llm=RehearsalLLM(model="m")) for name in names})


def temperatures(graph: Graph) -> dict[str, Any]:
    found = {}
    for name, step in graph.steps.items():
        assert isinstance(step, TextGeneration)
        assert step.llm is not None
        found[name] = step.llm.generation_kwargs.get("temperature")
    return found


@pytest.mark.parametrize(
    "parameters",
    [
        {"v1.0.llm.temperature": 0.7},
        {"v1.0.llm.generation_kwargs.temperature": 0.7},
        {"v1.0.llm": {"temperature": 0.7}},
        {"v1.0": {"llm": {"temperature": 0.7}}},
    ],
    ids=["short", "path", "mixed", "nested"],
)
def test_parameters_reach_a_step_whose_name_holds_a_dot(parameters: dict[str, Any]) -> None:
    changed = with_parameters(graph_of("v1", "v1.0", "v1.0.1"), parameters)
    assert temperatures(changed) == {"v1": None, "v1.0": 0.7, "v1.0.1": None}


def test_the_shorter_name_is_meant_where_the_longer_has_no_such_field() -> None:
    changed = with_parameters(graph_of("v1", "v1.llm"), {"v1.llm.temperature": 0.7})
    assert temperatures(changed) == {"v1": 0.7, "v1.llm": None}


def test_a_name_is_no_prefix_in_the_middle_of_a_word() -> None:
    changed = with_parameters(graph_of("v1", "v1.0", "v1.01"), {"v1.01.llm.temperature": 0.7})
    assert temperatures(changed) == {"v1": None, "v1.0": None, "v1.01": 0.7}


def test_a_wrong_field_is_told_of_the_longest_name() -> None:
    with pytest.raises(UnknownParameterError, match=r"no parameter v1\.0\.lm") as caught:
        with_parameters(graph_of("v1", "v1.0"), {"v1.0.lm.temperature": 0.7})
    assert "Did you mean 'llm'?" in caught.value.fix


def test_a_wrong_name_is_told_with_the_near_match() -> None:
    with pytest.raises(UnknownStepError, match="'answr'") as caught:
        with_parameters(graph_of("answer"), {"answr.llm.temperature": 0.7})
    assert "Did you mean 'answer'?" in caught.value.fix


def test_a_step_alone_is_no_parameter() -> None:
    with pytest.raises(UnknownParameterError, match=r"'v1\.0' names a step but no field"):
        with_parameters(graph_of("v1.0"), {"v1.0": 3})


@pytest.mark.parametrize(
    "path, split",
    [
        ("a.x", ("a", ["x"])),
        ("a.b", ("a.b", [])),
        ("a.b.x", ("a.b", ["x"])),
        ("a.b.y", ("a", ["b", "y"])),
        ("a.c", ("a", ["c"])),
        ("z.x", ("z", ["x"])),
    ],
)
def test_paths_are_split_by_the_keys_that_steps_know(path: str, split: tuple[str, list[str]]) -> None:
    assert split_path(path, {"a": ["x", "b"], "a.b": ["x"]}) == split

from __future__ import annotations

import pytest

from distilnb.errors import UnknownParameterError
from distilnb.llms.parameters import OTHER_NAMES, unify_parameters

KNOWN = {"max_new_tokens", "temperature", "stop", "seed", "extra"}


@pytest.mark.parametrize("other, ours", OTHER_NAMES.items())
def test_other_names_become_ours(other: str, ours: str) -> None:
    assert unify_parameters("X", {other: 1}, KNOWN) == {ours: 1}


def test_none_means_not_set() -> None:
    assert unify_parameters("X", {"temperature": None, "seed": 0}, KNOWN) == {"seed": 0}


@pytest.mark.parametrize(
    "name, fix",
    [
        ("temprature", "Did you mean 'temperature'?"),
        ("n", "The number of replies is the task's: num_generations=."),
        ("zzz", "What only this server knows goes into extra={...}."),
    ],
)
def test_an_unknown_name_says_what_to_do(name: str, fix: str) -> None:
    with pytest.raises(UnknownParameterError) as caught:
        unify_parameters("OpenAILLM", {name: 1}, KNOWN)
    assert caught.value.fix == fix
    assert caught.value.what == f"OpenAILLM has no generation parameter {name!r}; it has {sorted(KNOWN)}."

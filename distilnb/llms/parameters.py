"""Names of generation parameters: the unified ones, and how others call them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from distilnb.errors import UnknownParameterError, did_you_mean

# What other libraries, and 1.x pipelines, call a parameter of the unified set.
OTHER_NAMES: Mapping[str, str] = {
    "extra_body": "extra",
    "extra_sampling_params": "extra",
    "max_completion_tokens": "max_new_tokens",
    "max_output_tokens": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "random_seed": "seed",
    "stop_sequences": "stop",
    "stop_strings": "stop",
}

_OF_THE_TASK = frozenset({"n", "num_generations", "num_return_sequences"})


def unify_parameters(kind: str, given: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return generation parameters under their unified names, without those that are None.

    Raises UnknownParameterError with the near match for a name that is neither known nor a known other name.

    >>> unify_parameters("OpenAILLM", {"max_tokens": 9, "top_p": None}, {"max_new_tokens", "top_p"})
    {'max_new_tokens': 9}
    """
    unified: dict[str, Any] = {}
    for name, value in given.items():
        ours = name if name in known else OTHER_NAMES.get(name, name)
        if ours not in known:
            raise unknown_parameter(kind, name, known)
        if value is not None:
            unified[ours] = value
    return unified


def unknown_parameter(kind: str, name: str, known: Collection[str]) -> UnknownParameterError:
    """Make the error for a generation parameter that nobody knows."""
    if name in _OF_THE_TASK:
        fix = "The number of replies is the task's: num_generations=."
    else:
        fix = did_you_mean(name, known, "What only this server knows goes into extra={...}.")
    return UnknownParameterError(f"{kind} has no generation parameter {name!r}; it has {sorted(known)}.", fix)

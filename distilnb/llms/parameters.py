"""Names of generation parameters: the unified ones, and how others call them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

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


# --- on the wire --------------------------------------------------------------


class Wire(NamedTuple):
    """How a provider calls a parameter: its name in the request (a dot leads into a dict), and its value."""

    name: str
    value: Callable[[Any], Any] = lambda value: value


def as_list(value: Any) -> list[Any]:
    """Return one value, or several, as a list: for servers that take `stop` no other way."""
    return [value] if isinstance(value, str) else list(value)


def names(**wires: str | Wire) -> dict[str, Wire]:
    """Return a table from unified names to those of a provider.

    >>> names(max_new_tokens="max_tokens")["max_new_tokens"].name
    'max_tokens'
    """
    return {name: Wire(wire) if isinstance(wire, str) else wire for name, wire in wires.items()}


def on_the_wire(given: Mapping[str, Any], table: Mapping[str, Wire]) -> dict[str, Any]:
    """Return parameters as a provider's request holds them; `extra` is laid over the rest.

    >>> on_the_wire({"top_k": 5, "extra": {"k2": 1}}, names(top_k="options.top_k"))
    {'options': {'top_k': 5}, 'k2': 1}
    """
    body: dict[str, Any] = {}
    for name, (path, value_of) in table.items():
        if name in given:
            *folders, last = path.split(".")
            place = body
            for folder in folders:
                place = place.setdefault(folder, {})
            place[last] = value_of(given[name])
    return lay_over(body, given.get("extra") or {})


def lay_over(body: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body with further fields; a dict in both is merged."""
    for name, value in extra.items():
        own = body.get(name)
        both = isinstance(own, dict) and isinstance(value, Mapping)
        body[name] = lay_over({**own}, value) if both and own is not None else value
    return body

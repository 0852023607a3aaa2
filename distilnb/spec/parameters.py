"""Parameters given at run time: nested dicts or dotted paths that change fields of steps and models."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from distilnb.errors import UnknownParameterError, did_you_mean
from distilnb.spec.base import Spec
from distilnb.spec.draft import drafting
from distilnb.spec.graph import Graph

S = TypeVar("S", bound=Spec)


def with_parameters(graph: Graph, parameters: Mapping[str, Any] | None) -> Graph:
    """Return the graph with parameters set.

    Keys are step names (`{"answer": {"llm": {"generation_kwargs": {"temperature": 0.7}}}}`) or dotted paths
    (`{"answer.llm.generation_kwargs.temperature": 0.7}`); `generation_kwargs` may be left out. A step's name may
    hold dots itself.

    Raises UnknownStepError or UnknownParameterError with the near match.
    """
    for path, value in (parameters or {}).items():
        step_name, keys = split_path(path, {name: _keys_of(step) for name, step in graph.steps.items()})
        for key in reversed(keys):
            value = {key: value}
        graph.step(step_name)  # raises for one that is not there
        if not isinstance(value, Mapping):
            raise UnknownParameterError(
                f"The parameter {path!r} names a step but no field of it.", f"For instance {path}.<field>."
            )
        with drafting(None):  # a copy of a step made inside an open `with` block is no new step
            for name, change in _by_branch(graph, step_name, value).items():
                graph = graph.replacing(changed(graph.step(name), change, name))
    return graph


def _by_branch(graph: Graph, step: str, change: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return a change by the steps that it is for: `answer.llm.0` of a list of models is the model of `answer_1`."""
    models = change.get("llm")
    if not (
        graph.is_join(step) and isinstance(models, Mapping) and all(str(key).isdigit() for key in models)
    ):
        return {step: change}
    branches = [f"{step}_{number}" for number in range(1, len(graph.predecessors(step)) + 1)]
    if branches != graph.predecessors(step):
        return {step: change}
    _check_places(models, len(branches), f"{step}.llm")
    of_branches = {branches[int(key)]: {"llm": value} for key, value in models.items()}
    others = {key: value for key, value in change.items() if key != "llm"}
    return {**of_branches, **({step: others} if others else {})}


def split_path(path: str, keys_of: Mapping[str, Collection[str]]) -> tuple[str, list[str]]:
    """Return the name of the step that a dotted path leads to, and the keys below it.

    `keys_of` has the keys that each step knows. Of several names with dots, the longest that knows the next key
    is meant.

    >>> split_path("v1.0.llm.model", {"v1": ["llm"], "v1.0": ["llm"]})
    ('v1.0', ['llm', 'model'])
    """
    if path in keys_of:
        return path, []
    names = [name for name in sorted(keys_of, key=len, reverse=True) if path.startswith(f"{name}.")]
    splits = [(name, path[len(name) + 1 :].split(".")) for name in names]
    for name, keys in splits:
        if keys[0] in keys_of[name]:
            return name, keys
    step_name, *rest = path.split(".")
    return splits[0] if splits else (step_name, rest)


def changed(spec: S, changes: Mapping[str, Any], path: str) -> S:
    """Return a copy of a spec with nested changes; `path` is for messages."""
    updates: dict[str, Any] = {}
    for key, value in changes.items():
        field = key if key in type(spec).model_fields else _holder(spec, key)
        if field is None:
            known = sorted(name for name in _keys_of(spec) if not name.isdigit())
            raise UnknownParameterError(
                f"There is no parameter {path}.{key}; {spec.kind()} has {known}.", did_you_mean(key, known)
            )
        change = value if field == key else {key: value}
        updates[field] = _merged(updates.get(field, getattr(spec, field)), change, f"{path}.{field}")
    return spec.updated(**updates)


def _check_places(change: Mapping[Any, Any], n: int, path: str) -> None:
    for key in change:
        if not (str(key).isdigit() and int(key) < n):
            raise UnknownParameterError(
                f"There is no parameter {path}.{key}; {path} is a list of {n}.", f"Count from 0 to {n - 1}."
            )


def _keys_of(spec: Spec) -> set[str]:
    return {*type(spec).model_fields, *(name for names in spec.shorthand.values() for name in names)}


def _holder(spec: Spec, key: str) -> str | None:
    return next((field for field, names in spec.shorthand.items() if key in names), None)


def _merged(old: Any, change: Any, path: str) -> Any:
    if isinstance(old, Spec) and isinstance(change, Mapping) and "kind" not in change:
        return changed(old, change, path)
    if isinstance(old, Mapping) and isinstance(change, Mapping):
        return {
            **old,
            **{key: _merged(old.get(key), value, f"{path}.{key}") for key, value in change.items()},
        }
    if isinstance(old, Sequence) and not isinstance(old, str) and isinstance(change, Mapping):
        _check_places(change, len(old), path)
        return [
            _merged(item, change.get(str(i), change.get(i, item)), f"{path}.{i}")
            for i, item in enumerate(old)
        ]
    return change


def paths_in(graph: Graph) -> list[str]:
    """Return the dotted paths of what can be set: the fields of each step, and those of its model."""
    paths = []
    for name, step in graph.steps.items():
        for key in sorted(_keys_of(step)):
            value = getattr(step, key, None)
            paths.append(f"{name}.{key}")
            if isinstance(value, Spec):
                paths += [f"{name}.{key}.{inner}" for inner in sorted(_keys_of(value))]
    return paths

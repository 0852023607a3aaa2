"""The keys of a run: where each is from is written down, the values go to the workers by pipes alone.

A literal key, and one that only this process can find (Colab's secrets, the keyring), is told by its place: the dotted
path of its field. One from the environment is found there by the workers, who have the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from distilnb.engine.building import literal_secrets
from distilnb.errors import MissingKeyError
from distilnb.llms.base import LLM
from distilnb.llms.keys import find_key, forget_keys, how_to_give
from distilnb.spec.base import Spec
from distilnb.spec.graph import Graph


def key_sources(graph: Graph) -> dict[str, str]:
    """Return where the key of each model is from (`env:OPENAI_API_KEY`), by its place; literal ones are left out.

    So is a local model's token in the environment: workers find it there, and most models need none.
    """
    found = {path: (llm.key_source(), llm.is_local) for path, llm in models_at(graph)}
    return {
        f"{path}.api_key": source
        for path, (source, is_local) in found.items()
        if ":" in source and not (is_local and source.startswith("env:"))
    }


def secrets_to_send(graph: Graph) -> dict[str, str]:
    """Return the values that workers cannot find by themselves, by their place."""
    sent = literal_secrets(graph)
    for path, llm in models_at(graph):
        if llm.key_source().partition(":")[0] in ("colab", "keyring"):
            sent[f"{path}.api_key"] = llm.key()
    return sent


def resolve_keys(sources: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Find keys anew, for a run that goes on; returns the values that its workers cannot find by themselves.

    Those `given` by their place need not be found. Raises MissingKeyError naming the variable.
    """
    forget_keys()
    sent = {}
    for place, source in sources.items():
        was, _, variable = source.partition(":")
        if place in given:
            continue
        found = find_key(variable)
        if found is None:
            raise MissingKeyError(
                f"The run was started with a key from {_WORDS.get(was, was)}, {variable}, which is not there now.",
                how_to_give(variable).replace(
                    "pass api_key=", f"give it: run.resume(secrets={{{place!r}: '...'}})"
                ),
            )
        if found.place != "env":
            sent[place] = found.value
    return sent


_WORDS = {"env": "the environment", "colab": "Colab's secrets", "keyring": "the keyring"}


def models_at(graph: Graph) -> Iterator[tuple[str, LLM]]:
    """Yield every model of a graph with the dotted path that leads to it."""
    for name, step in graph.steps.items():
        yield from _models_in(step, name)


def _models_in(value: object, path: str) -> Iterator[tuple[str, LLM]]:
    if isinstance(value, LLM):
        yield path, value
    if isinstance(value, Spec):
        for field in type(value).model_fields:
            yield from _models_in(getattr(value, field), f"{path}.{field}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _models_in(item, f"{path}.{index}")

"""Who is compared: versions of a prompt, each asked of each model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from distilnb.errors import InputError, UnknownStepError, did_you_mean
from distilnb.llms.base import LLM
from distilnb.llms.catalog import as_llm
from distilnb.pipeline import wiring
from distilnb.pipeline.versions import (
    Reference,
    models_of,
    number_all,
    read_reference,
    tasks_of,
    with_version,
)
from distilnb.spec.digest import digest_of
from distilnb.spec.draft import drafting
from distilnb.spec.graph import Graph
from distilnb.tasks.wording import wording_of


@dataclass(frozen=True)
class Candidate:
    """A version of a prompt and the model that it is asked of; `graph` is the pipeline with both, `key` names them."""

    name: str
    version: Reference
    llm: LLM
    graph: Graph
    key: str


def make_candidates(
    pipeline: str, graph: Graph, versions: Sequence[str], llms: Sequence[LLM | str] | None
) -> tuple[str, list[Candidate]]:
    """Return the step that is compared and its candidates, each version with each model, in this order.

    Raises InputError for versions of several steps, or fewer than two candidates.
    """
    references = [read_reference(version, graph) for version in versions]
    steps = list(dict.fromkeys(reference.step for reference in references))
    if len(steps) != 1:
        raise InputError(
            f"Versions of one step are compared; these are of {steps or 'none'}.",
            'p.compare("answer@1", "answer@2")',
        )
    step = steps[0]
    tasks_of(graph, step)
    current = number_all(pipeline, graph)[step]
    numbers = dict.fromkeys(reference.number or current for reference in references)
    models = _named([as_llm(llm) for llm in llms] if llms else list(models_of(graph, step).values()))
    found = []
    for number in numbers:
        reference = Reference(step, number)
        worded = with_version(pipeline, graph, reference)
        for model, llm in models.items():
            own = with_model(worded, tuple(worded.leaves()), step, llm)[0]
            found.append(Candidate(f"{reference} × {model}", reference, llm, own, _key(own, step, llm)))
    if len(found) < 2:
        raise InputError(
            f"There is one candidate, {found[0].name if found else 'none'}: nothing to compare it with.",
            'Name two versions, or two models: p.compare("answer", llms=[one, other]).',
        )
    return step, found


def with_model(graph: Graph, heads: tuple[str, ...], step: str, llm: LLM) -> tuple[Graph, tuple[str, ...]]:
    """Return the graph, and its ends, whose step asks that model alone."""
    tasks = tasks_of(graph, step)
    if len(tasks) == 1 and tasks[0].name == step and tasks[0].llm == llm:
        return graph, heads
    with drafting(None):
        single = tasks[0].updated(llm=llm, name=step)
    wired = wiring.wire(graph, heads, single, verb="", name=step, after="")
    return wired.graph, wired.heads


def find_candidate(candidates: Sequence[Candidate], word: str) -> Candidate:
    """Return the candidate of that name, or of that version or model where it is the only one.

    Raises UnknownStepError with the near match.
    """
    names = [candidate.name for candidate in candidates]
    fitting = [
        candidate
        for candidate in candidates
        if word in (candidate.name, str(candidate.version), candidate.name.partition(" × ")[2])
    ]
    if len(fitting) == 1:
        return fitting[0]
    raise UnknownStepError(f"There is no candidate {word!r}; there are {names}.", did_you_mean(word, names))


def letters(n: int) -> list[str]:
    """Return what n answers are called while their names are hidden: A to Z, then AA to ZZ, and so on."""
    return [chr(ord("A") + place % 26) * (1 + place // 26) for place in range(n)]


def _named(llms: Sequence[LLM]) -> dict[str, LLM]:
    """Return models by a short name that no other one has."""
    short = Counter(llm.model for llm in llms)
    labels = [llm.model if short[llm.model] == 1 else llm.label for llm in llms]
    found: dict[str, LLM] = {}
    for label, llm in zip(labels, llms, strict=True):
        name, number = label, 1
        while name in found and found[name] != llm:
            number += 1
            name = f"{label} ({number})"
        found[name] = llm
    return found


def _key(graph: Graph, step: str, llm: LLM) -> str:
    task = tasks_of(graph, step)[0]
    return digest_of(
        {"wording": wording_of(task).digest, "llm": llm.identity(), "k": task.num_generations}, size_bytes=8
    )

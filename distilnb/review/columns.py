"""Which columns a review is made of: found by their usual names, or named by the user."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

from typing_extensions import Self

from distilnb.errors import ReviewError, did_you_mean
from distilnb.rows import Row

Template = Literal["preference", "text generation"]

_INSTRUCTION = ("instruction", "prompt", "input", "question", "messages")
_GENERATION = ("generation", "response", "completion", "output", "answer")
_RATING = ("rating", "score", "result", "quality")
_RATIONALE = ("rationale", "feedback", "reason", "critique")
_MODELS = ("generation_models", "generation_model")


@dataclass(frozen=True)
class ReviewColumns:
    """Names of the columns that matter to a review; an empty one is looked for under its usual names.

    Inputs: instruction (str, or messages); generations (list[str], length k) or generation (str); ratings
    (list[float | None]) and rationales (list[str | None]) beside generations, or rating and rationale of
    one; models (list[str], or str) that wrote, judge (str) that rated; keep (bool); system_prompt and
    context (str).
    """

    instruction: str = ""
    generations: str = ""
    generation: str = ""
    ratings: str = ""
    rationales: str = ""
    models: str = ""
    judge: str = ""
    keep: str = ""
    system_prompt: str = ""
    context: str = ""
    template: Template = "preference"

    def checked(self, known: Iterable[str]) -> Self:
        """Return these columns; raises ReviewError when one that was named does not exist."""
        names = list(known)
        for item in fields(self):
            name = getattr(self, item.name)
            if item.name != "template" and name and name not in names:
                raise ReviewError(
                    f"The review is to use column {name!r} as {item.name}; the rows have {names}.",
                    did_you_mean(name, names),
                )
        return self


def find_columns(rows: Sequence[Row], given: ReviewColumns) -> ReviewColumns:
    """Return every column found, and the template that fits; raises ReviewError when the rows show none."""
    known = list(dict.fromkeys(name for row in rows for name in row))
    if not rows:
        raise ReviewError("There are no rows to review.", "Wait until the run has finished some.")
    given.checked(known)
    generations = given.generations or ("" if given.generation else _first(known, ("generations",)))
    generation = "" if generations else given.generation or _first(known, _GENERATION)
    instruction = given.instruction or _first(known, _INSTRUCTION)
    if not instruction or not (generations or generation):
        missing = "instruction" if not instruction else "generation"
        raise ReviewError(
            f"The rows show no {missing} to review; they have the columns {known}.",
            f"Name it: columns=ReviewColumns({missing}='...').",
        )
    several = bool(generations) and any(_length(row.get(generations)) > 1 for row in rows)
    found = replace(
        given,
        instruction=instruction,
        generations=generations,
        generation=generation,
        ratings=given.ratings or _judged(known, "ratings", () if generations else _RATING),
        rationales=given.rationales or _judged(known, "rationales", () if generations else _RATIONALE),
        models=given.models or _first(known, _MODELS),
        judge=given.judge or _find_judge(known),
        system_prompt=given.system_prompt or _first(known, ("system_prompt",)),
        context=given.context or _first(known, ("context",)),
        template="preference" if several else "text generation",
    )
    return _with_model_name(found) if "model_name" in known else found


def _first(known: Sequence[str], names: Iterable[str]) -> str:
    return next((name for name in names if name in known), "")


def _judged(known: Sequence[str], plural: str, singular: Sequence[str]) -> str:
    """Return the column of a judge: "ratings", or that of the only named judge ("honesty_ratings")."""
    if singular:
        return _first(known, singular)
    named = [name for name in known if name.endswith(f"_{plural}")]
    return plural if plural in known else named[0] if len(named) == 1 else ""


def _find_judge(known: Sequence[str]) -> str:
    if "judge_model" in known:
        return "judge_model"
    named = [name for name in known if name.endswith("_model") and name not in _MODELS]
    return named[0] if len(named) == 1 else ""


def _with_model_name(found: ReviewColumns) -> ReviewColumns:
    """Say whose `model_name` is: every task makes it, so it is the judge's where there are ratings."""
    if found.ratings:
        return found if found.judge else replace(found, judge="model_name")
    return found if found.models else replace(found, models="model_name")


def _length(value: object) -> int:
    return len(value) if isinstance(value, (list, tuple)) else 0

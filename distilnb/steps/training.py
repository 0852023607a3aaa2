"""Steps that shape rows for training: supervised fine-tuning (SFT) and preference optimisation (DPO)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any, Literal

from distilnb.errors import StepRowError
from distilnb.rows import Row, row_digest
from distilnb.spec.columns import Columns
from distilnb.spec.step import ColumnNames, DropRow, Step, StepInput, StepOutput
from distilnb.spec.template import missing_value


class FormatTextGenerationSFT(Step):
    """Shape an instruction and its answer for supervised fine-tuning.

    Inputs:  instruction (str); generation (str); system_prompt (str; optional, None and "" count as none).
    Outputs: prompt (str; the instruction); prompt_id (str; SHA-256 of the prompt in hexadecimal digits);
             messages (list of {"role", "content"}: system where there is one, user, assistant).
    Errors:  MissingValueError when instruction or generation is None or absent; StepRowError when one is no
             text.
    Source:  the step of that name of distilabel; the format of HuggingFaceH4/ultrachat_200k.

    >>> [[row]] = FormatTextGenerationSFT().process([{"instruction": "Hi", "generation": "Hello."}])
    >>> row["messages"]
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello.'}]
    """

    @property
    def inputs(self) -> ColumnNames:
        return {"instruction": True, "generation": True, "system_prompt": False}

    @property
    def outputs(self) -> ColumnNames:
        return ["prompt", "prompt_id", "messages"]

    def process(self, rows: StepInput) -> StepOutput:  # type: ignore[override]  # a join takes several
        yield [self._formatted(row) for row in rows]

    def _formatted(self, row: Row) -> Row:
        prompt = _text(row, "instruction")
        messages = [*_messages_before(row), _assistant(_text(row, "generation"))]
        return {**row, "prompt": prompt, "prompt_id": _prompt_id(prompt), "messages": messages}


class FormatTextGenerationDPO(Step):
    """Shape rated generations as a pair for preference optimisation: the best as chosen, a worse as rejected.

    The first of the best rated is chosen. `strategy="worst"` rejects the first of the worst rated, "random"
    any of those rated strictly lower, drawn by the content of the row: the same row gives the same pair in
    every run.

    Inputs:  instruction (str); generations (list of str, length k); ratings (list of float, length k; None
             where a generation was not rated); generation_models (list of str, length k; optional);
             system_prompt (str; optional).
    Outputs: prompt (str); prompt_id (str; SHA-256 of the prompt); chosen, rejected (lists of {"role",
             "content"}: system where there is one, user, assistant); chosen_rating, rejected_rating (float);
             with generation_models also chosen_model, rejected_model (str).
    Errors:  MissingValueError when a required column is None or absent; StepRowError when the lists differ in
             length or a rating is no number. A row with fewer than two rated generations, or where all are
             rated equal, is left out for that reason (`keep_ties`: the tie stays, a pair of equal ratings).
    Source:  the step of that name of distilabel, which makes a pair of one generation with itself of a tie;
             the strategies are those of its 0.x `prepare_dataset`.

    >>> row = {"instruction": "Hi", "generations": ["Hey", "Hello.", "Yo"], "ratings": [2, 5, None]}
    >>> [[pair]] = FormatTextGenerationDPO().process([row])
    >>> pair["chosen"][-1]["content"], pair["rejected"][-1]["content"], pair["chosen_rating"]
    ('Hello.', 'Hey', 5)
    """

    strategy: Literal["worst", "random"] = "worst"
    keep_ties: bool = False

    @property
    def inputs(self) -> ColumnNames:
        return {
            "instruction": True,
            "generations": True,
            "ratings": True,
            "generation_models": False,
            "system_prompt": False,
        }

    @property
    def outputs(self) -> ColumnNames:
        return {
            "prompt": True,
            "prompt_id": True,
            "chosen": True,
            "chosen_model": False,
            "chosen_rating": True,
            "rejected": True,
            "rejected_model": False,
            "rejected_rating": True,
        }

    def columns_after(self, upstream: Sequence[Columns]) -> Columns:
        arriving = upstream[0] if upstream else Columns()
        after = super().columns_after(upstream)
        if self.input_mappings.get("generation_models", "generation_models") in arriving or arriving.is_open:
            return after
        models = [self.output_mappings.get(name, name) for name in ("chosen_model", "rejected_model")]
        return after.without(set(models) - set(arriving.names))

    def process(self, rows: StepInput) -> StepOutput:  # type: ignore[override]  # a join takes several
        yield [self._paired(row) for row in rows]

    def _paired(self, row: Row) -> Row:
        prompt = _text(row, "instruction")
        generations, ratings = _list(row, "generations"), _list(row, "ratings")
        models = row.get("generation_models")
        _check_lengths(generations, ratings, models)
        chosen, rejected = self._choose(generations, ratings, row)
        before = _messages_before(row)
        pair: Row = {**row, "prompt": prompt, "prompt_id": _prompt_id(prompt)}
        for side, index in (("chosen", chosen), ("rejected", rejected)):
            pair[side] = [*before, _assistant(generations[index])]
            if models is not None:
                pair[f"{side}_model"] = models[index]
            pair[f"{side}_rating"] = ratings[index]
        return pair

    def _choose(self, generations: list[Any], ratings: list[Any], row: Row) -> tuple[int, int]:
        """Return the places of the chosen and the rejected generation, or raise DropRow."""
        rated = [i for i, rating in enumerate(ratings) if _is_rated(generations[i], rating)]
        if len(rated) < 2:
            raise DropRow("fewer than two rated generations")
        chosen = max(rated, key=lambda i: ratings[i])  # the first of equals
        lower = [i for i in rated if ratings[i] < ratings[chosen]]
        if not lower and not self.keep_ties:
            raise DropRow("tie: all generations are rated equal")
        candidates = lower or [i for i in rated if i != chosen]
        if self.strategy == "worst":
            return chosen, min(candidates, key=lambda i: ratings[i])
        content = {name: row[name] for name in ("instruction", "generations", "ratings")}
        return chosen, random.Random(row_digest(content)).choice(candidates)


def _is_rated(generation: object, rating: object) -> bool:
    if rating is None or generation is None:
        return False
    if isinstance(rating, bool) or not isinstance(rating, (int, float)):
        raise StepRowError(
            f"A rating is {rating!r}, not a number.", "Ratings are numbers, or None where there is none."
        )
    if not isinstance(generation, str):
        raise StepRowError(
            f"A generation is of type {type(generation).__name__!r}, not text.",
            "Generations are text, or None.",
        )
    return rating == rating  # NaN is no rating


def _check_lengths(generations: list[Any], ratings: list[Any], models: object) -> None:
    if len(generations) != len(ratings):
        raise StepRowError(
            f"The row has {len(generations)} generations and {len(ratings)} ratings.",
            "Rate each of them, or none.",
        )
    if models is not None and (not isinstance(models, list) or len(models) != len(generations)):
        raise StepRowError(
            f"The row has {len(generations)} generations, but generation_models is {models!r:.80}.",
            "Name the model of each generation, or drop the column.",
        )


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    if value is None:
        raise missing_value(column, row)
    if not isinstance(value, str):
        raise StepRowError(
            f"Column {column!r} holds {type(value).__name__}, not text.", "Make text of it before."
        )
    return value


def _list(row: Row, column: str) -> list[Any]:
    value = row.get(column)
    if value is None:
        raise missing_value(column, row)
    if not isinstance(value, (list, tuple)):
        raise StepRowError(
            f"Column {column!r} holds {type(value).__name__}, not a list.", "Group the rows before."
        )
    return list(value)


def _messages_before(row: Row) -> list[dict[str, str]]:
    user = {"role": "user", "content": _text(row, "instruction")}
    system = row.get("system_prompt")
    return [{"role": "system", "content": system}, user] if isinstance(system, str) and system else [user]


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _prompt_id(prompt: str) -> str:
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()

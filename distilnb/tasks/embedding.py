"""Embedding: a text of each row becomes a vector."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator

from distilnb.errors import ParseError, SpecError, StepRowError
from distilnb.llms.base import LLM
from distilnb.llms.catalog import as_embeddings
from distilnb.llms.request import Message
from distilnb.rows import Row
from distilnb.spec.step import ColumnNames
from distilnb.tasks.base import Task
from distilnb.vectors import unpack_vector

EmbeddingsField = Annotated[LLM, BeforeValidator(as_embeddings)]


class EmbeddingGeneration(Task):
    """Make a vector of a text with an embedding model.

    `embeddings` is another name of `llm`. `prefix` stands before each text ("query: "), as some models want it;
    `normalize` gives each vector the length 1. The vector of a text is kept like any reply: the same text of the same
    model is paid for once, whichever row or pipeline has it.

    Inputs:  text (str, not empty).
    Outputs: embedding (list[float], as long as the model's vectors are, or as its `dimensions` say); model_name (str).
    Errors:  MissingValueError when the text is None; StepRowError when it is empty or no text; ParseError when the
             vector has another length than `dimensions`, or holds what is no number.
    Source:  the step of that name of distilabel; `prefix` and `normalize` are ours.

    >>> embed = EmbeddingGeneration(embeddings="rehearsal")
    >>> len(embed.ask({"text": "Name three uses of argon."})["embedding"])
    64
    """

    asks_for: ClassVar[Literal["text", "vector", "image"]] = "vector"

    llm: EmbeddingsField | None = None
    prefix: str = ""
    normalize: bool = False

    def __init__(self, **values: Any) -> None:
        if "embeddings" in values:
            values.setdefault("llm", values.pop("embeddings"))
        super().__init__(**values)
        if self.num_generations != 1:
            raise SpecError(
                "EmbeddingGeneration has num_generations, but a text has one vector.", "Leave it out."
            )

    @property
    def embeddings(self) -> LLM | None:
        """The model."""
        return self.llm

    @property
    def inputs(self) -> ColumnNames:
        return ["text"]

    @property
    def outputs(self) -> ColumnNames:
        return ["embedding", "model_name"]

    def format_input(self, input: Row) -> list[Message]:
        text = input["text"]
        if not isinstance(text, str) or not text.strip():
            what = "is empty" if isinstance(text, str) else f"holds a {type(text).__name__}, and no text"
            column = self.input_mappings.get("text", "text")
            raise StepRowError(
                f"Column {column!r} {what}: it has no vector.", f"Filter such rows out: filter('{column}')."
            )
        return [{"role": "user", "content": f"{self.prefix}{text}"}]

    def format_output(self, output: str | None, input: Row) -> dict[str, Any]:
        try:
            vector = unpack_vector(output or "")
        except ValueError as error:
            raise ParseError(f"The reply is no vector: {error}.", "See the server's log.") from error
        wanted = getattr(self.llm, "dimensions", None)
        if wanted is not None and len(vector) != wanted:
            raise ParseError(
                f"The vector has {len(vector)} numbers, and dimensions={wanted} was asked for.",
                "Give the model's own number of dimensions, or choose a model that can shorten its vectors.",
            )
        length = math.hypot(*vector)
        if not math.isfinite(length):
            raise ParseError("The vector holds what is no number (NaN or infinity).", "See the server's log.")
        if self.normalize and length:
            vector = [number / length for number in vector]
        return {"embedding": vector}

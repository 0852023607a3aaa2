"""One question whose reply should have a shape, asked now."""

from __future__ import annotations

from typing import Any, Protocol

from distilnb.errors import ParseError, SpecError
from distilnb.llms.calling import Model, replies_now
from distilnb.llms.fitting import fit
from distilnb.llms.request import Message, Reply, Request
from distilnb.llms.shape import ReplyShape
from distilnb.llms.structured import model_of_output, shape_of, structured_output


class ShapedModel(Model, Protocol):
    """What this needs to know of an LLM."""

    @property
    def reply_shape(self) -> ReplyShape | None: ...


def ask_shaped(
    llm: ShapedModel, prompt: str | list[Message], schema: object, *, n: int, max_reasks: int
) -> Any:
    """Ask a question and return what the reply holds; see `LLM.ask`. Without a schema: as text, that of the model."""
    wanted = structured_output(schema)
    if wanted is not None and "column" in wanted:
        raise SpecError(
            f"The schema {schema!r} names a column, and there is no row.", "Give the schema itself."
        )
    shape = llm.reply_shape if wanted is None else shape_of(wanted)
    assert shape is not None  # else `LLM.ask` would not have come here
    model = model_of_output(wanted)
    llm.check()
    llm.probe()

    def wrong(reply: Reply) -> str:
        try:
            fit(reply.text, shape, model, is_truncated=reply.is_truncated)
        except ParseError as error:
            return error.what
        return ""

    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    request = Request(tuple(messages), n, shape)
    values: list[Any] = []
    for reply in replies_now(llm, request, wrong, max_reasks=max_reasks):
        fitted = fit(reply.text, shape, model, is_truncated=reply.is_truncated)
        values.append(fitted.text if wanted is None else fitted.read)
    return values if n > 1 else values[0]

"""Conditions on a row: an expression over columns, or a function of the user that is true or false."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator

from distilnb.errors import SpecError
from distilnb.rows import Row
from distilnb.spec.code import Code
from distilnb.spec.signature import signature_of
from distilnb.spec.template import compile_expression, evaluate_expression


def as_condition(value: object) -> Code | str:
    """Accept an expression, or a function; raises TemplateError when the expression cannot be read."""
    if isinstance(value, str):
        compile_expression(value)
        return value
    code = Code.of(value)
    if code.is_live and signature_of(code.live).batch:
        raise SpecError(
            f"The condition {code.name!r} takes whole batches.",
            "Its parameters are columns, or `row` for a whole row.",
        )
    return code


Condition = Annotated[Code | str, BeforeValidator(as_condition)]


def columns_read(condition: Code | str) -> dict[str, bool]:
    """Return the columns that a condition reads, and whether it needs each."""
    if isinstance(condition, str):
        return dict.fromkeys(compile_expression(condition).variables, True)
    if not condition.is_live:
        return {}
    signature = signature_of(condition.live)
    return {**dict.fromkeys(signature.columns, True), **dict.fromkeys(signature.optional_columns, False)}


def test_of(condition: Code | str) -> Callable[[Row], Any]:
    """Return a function that tells whether the condition holds for a row."""
    if isinstance(condition, str):
        return partial(evaluate_expression, condition)
    return partial(signature_of(condition.live).call, condition.live, settings={})

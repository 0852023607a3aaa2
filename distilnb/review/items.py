"""One row as an item of a review: its texts and verdicts in one shape, or the reason why it has none."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from distilnb.review.columns import ReviewColumns
from distilnb.rows import Row


@dataclass(frozen=True)
class Item:
    """What is reviewed of a row; the four lists have one entry a generation."""

    instruction: str
    generations: list[str | None]
    ratings: list[float | None]
    rationales: list[str | None]
    models: list[str]
    judge: str = ""
    keep: bool | None = None
    context: dict[str, str] = field(default_factory=dict)


class _UnfitError(Exception):
    """The row cannot be reviewed; the text says why."""


def read_item(row: Row, columns: ReviewColumns) -> Item | str:
    """Return the item of a row, or why it cannot be reviewed."""
    try:
        return _read(row, columns)
    except _UnfitError as reason:
        return str(reason)


def _read(row: Row, columns: ReviewColumns) -> Item:
    instruction = _text(row.get(columns.instruction), columns.instruction)
    if not instruction:
        raise _UnfitError(f"column {columns.instruction!r} is empty")
    generations = _generations(row, columns)
    n = len(generations)
    context = {
        name: text
        for name, column in (("system_prompt", columns.system_prompt), ("context", columns.context))
        if column and (text := _text(row.get(column), column))
    }
    return Item(
        instruction=instruction,
        generations=generations,
        ratings=[_number(value, columns.ratings) for value in _per_generation(row, columns.ratings, n)],
        rationales=[_text(v, columns.rationales) for v in _per_generation(row, columns.rationales, n)],
        models=[str(value or "") for value in _per_generation(row, columns.models, n, spread=True)],
        judge=_judge(row.get(columns.judge)) if columns.judge else "",
        keep=bool(row[columns.keep]) if columns.keep and row.get(columns.keep) is not None else None,
        context=context,
    )


def _generations(row: Row, columns: ReviewColumns) -> list[str | None]:
    column = columns.generations or columns.generation
    value = row.get(column)
    values = value if columns.generations else [value]
    if not isinstance(values, (list, tuple)):
        raise _UnfitError(f"column {column!r} is {_what(value)}, not a list of texts")
    texts = [_text(item, column) for item in values]
    if not any(texts):
        raise _UnfitError(f"column {column!r} holds no text")
    if columns.template == "text generation":
        return texts[:1]
    return texts


def _per_generation(row: Row, column: str, n: int, *, spread: bool = False) -> list[Any]:
    """Return one value a generation; `spread` lets a single value stand for all."""
    value = row.get(column) if column else None
    if value is None:
        return [None] * n
    if not isinstance(value, (list, tuple)):
        return (
            [value] * n if spread or n == 1 else _refuse(f"column {column!r} is {_what(value)}, not a list")
        )
    if len(value) != n:
        _refuse(f"column {column!r} has {len(value)} entries for {n} generations")
    return list(value)


def _text(value: Any, column: str) -> str | None:
    """Return text as it can be shown; None and blanks are nothing, messages become lines."""
    if value is None:
        return None
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, (list, tuple)) and value and all(_is_message(item) for item in value):
        return "\n\n".join(f"{item['role']}: {item['content']}" for item in value)
    raise _UnfitError(f"column {column!r} holds {_what(value)}, not text")


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("role"), str)
        and isinstance(value.get("content"), str)
    )


def _number(value: Any, column: str) -> float | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise _UnfitError(f"column {column!r} holds {value[:40]!r}, not a number") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _UnfitError(f"column {column!r} holds {_what(value)}, not a number")
    return float(value)


def _judge(value: Any) -> str:
    names = value if isinstance(value, (list, tuple)) else [value]
    return ", ".join(dict.fromkeys(str(name) for name in names if name))


def _what(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__} {value!r:.40}"


def _refuse(reason: str) -> Any:
    raise _UnfitError(reason)

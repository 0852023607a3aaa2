"""A task whose replies have a shape that its user chose: forced, read, validated, and made columns of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator, model_validator

from distilnb.errors import SpecError
from distilnb.llms.fitting import Fitted, fit
from distilnb.llms.request import Reply
from distilnb.llms.shape import ReplyShape
from distilnb.llms.structured import (
    fields_of,
    model_of_output,
    shape_in,
    shape_of,
    structured_output,
    types_of,
)
from distilnb.rows import Row
from distilnb.tasks.base import Task

Wanted = Annotated[dict[str, Any] | None, BeforeValidator(structured_output)]

VALUE = "value"  # the column of a reply that has no fields of its own


class ShapedTask(Task):
    """A task with a field `structured_output`, or `schema` for short: what each reply should be.

    With `group_generations` the columns of its fields are lists, as all made columns are; `unlists_fields` makes them
    plain values where there is one generation.
    """

    structured_output: Wanted = None
    unlists_fields: bool = False

    @model_validator(mode="before")
    @classmethod
    def _take_schema(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "schema" not in values:
            return values
        if values.get("structured_output") is not None and values["schema"] is not None:
            raise SpecError(
                f"{cls.__name__} was given both `schema` and `structured_output`.", "One will do."
            )
        rest = {name: value for name, value in values.items() if name != "schema"}
        return rest if values["schema"] is None else {**rest, "structured_output": values["schema"]}

    def fields(self) -> list[str]:
        """Return the columns that hold what a reply means, beside its text."""
        wanted = self.structured_output
        if wanted is None or wanted.get("format") in ("regex", "choice"):
            return []
        return fields_of(wanted) or [VALUE]

    def check(self) -> None:
        super().check()
        model_of_output(self.structured_output)

    def shaper(self) -> Callable[[Row], ReplyShape | None]:
        wanted = self.structured_output
        if wanted is None:
            return super().shaper()
        if "column" in wanted:
            return lambda row: shape_in(row.get(wanted["column"]), wanted["column"])
        shape = shape_of(wanted)
        return lambda row: shape

    def types_made(self) -> dict[str, str]:
        types = types_of(self.structured_output or {})
        is_list = self.group_generations and not (self.unlists_fields and self.num_generations == 1)
        return {
            self.output_mappings.get(name, name): f"list[{kind}]" if is_list else kind
            for name, kind in types.items()
        }

    # --- for a subclass ---

    def schema_column(self) -> dict[str, bool]:
        """Return the column that holds the schema of each row, as `inputs` lists it; none where all rows share one."""
        wanted = self.structured_output or {}
        return {wanted["column"]: True} if "column" in wanted else {}

    def check_fields(self, own: list[str]) -> None:
        """Raise SpecError when a field of the schema has the name of a column that the task itself makes."""
        if taken := sorted({*own, "model_name"}.intersection(self.fields())):
            raise SpecError(
                f"The schema of {self.kind()} has fields {taken}, which are columns of its own.",
                "Rename them in the schema.",
            )

    def fitted(self, output: str | None, row: Row, *, is_truncated: bool = False) -> Fitted | None:
        """Return what a reply holds, None where no shape is asked for; raises ParseError when it does not fit."""
        shape = self.shaper()(row)
        if shape is None:
            return None
        return fit(output, shape, model_of_output(self.structured_output), is_truncated=is_truncated)

    def columns_of_fields(self, fitted: Fitted | None) -> dict[str, Any]:
        """Return the columns of `fields`."""
        if fitted is None:
            return {}
        known = fields_of(self.structured_output or {})
        if known is not None:
            return {name: fitted.value.get(name) for name in known}
        return dict.fromkeys(self.fields(), fitted.value)

    def _columns_of(self, reply: Reply, row: Row, reasons: list[str]) -> dict[str, Any]:
        if reply.is_truncated:  # nothing is mended of what was cut off
            self.fitted(reply.text, row, is_truncated=True)
        return super()._columns_of(reply, row, reasons)

    def _single(self) -> list[str]:
        if self.num_generations > 1 or not self.unlists_fields:
            return []
        return [self.output_mappings.get(name, name) for name in self.fields()]

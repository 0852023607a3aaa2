"""Generating text from a prompt template: the task that most pipelines begin with."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, model_validator
from typing_extensions import Self

from distilnb.errors import ParseError, SpecError, did_you_mean
from distilnb.llms.images import Image, ImageType, image_of, with_images
from distilnb.llms.request import Message
from distilnb.rows import Row
from distilnb.spec.step import ColumnNames
from distilnb.spec.template import compile_template
from distilnb.tasks.prompt import PromptMessage, as_messages, may_be_none, render, variables
from distilnb.tasks.shaped import ShapedTask

Messages = Annotated[tuple[PromptMessage, ...], BeforeValidator(as_messages)]

_DEFAULT_TEMPLATE = "{{ instruction }}"


class TextGeneration(ShapedTask):
    """Ask a model for a text.

    `template` (Jinja) is the user's message; `system_prompt` is sent before it as it is, unless the row has a
    column `system_prompt` with another one. `messages` instead holds a whole prompt: text with lines
    `system:`, `user:`, `assistant:`, or pairs of role and template; then nothing else is sent.

    `structured_output`, or `schema` for short, is what the reply should be: a pydantic model, a JSON schema (a dict),
    a regular expression, a list of choices, or "{{ column }}" for a column that holds one of these for each row; or
    the dict of 1.x, {"format": "json" | "regex", "schema": ...}. A reply that does not fit is asked for again with
    what is wrong with it, at most `max_reasks` times.

    `images` names columns that hold an image, or a list of them, which is shown behind the last message of the user's:
    an address, a path, base64 text or a data URI, bytes, or PIL's (kept as a PNG). Paths lead into `image_folder` and
    nowhere else. `image_type` says which of these a column holds; left out, it is found out.

    Inputs:  the variables of the template (by default instruction: str); system_prompt (str; optional, not
             with `messages`, and not with `use_system_prompt=False`). A variable may be None only where the
             template tests it: `{% if context %}`.
    Outputs: generation (str; with a schema the JSON text, the match or the choice); model_name (str); for a JSON
             schema of objects a column for each of its fields, None where an optional one was left out; for other
             JSON, and a schema in a column, `value` (what the reply holds). With `group_generations` they are
             lists like the others, unless `unlists_fields` and there is one generation.
    Errors:  TemplateError when a template cannot be read; MissingValueError when a variable is None or
             absent; ParseError when the reply is empty, or does not fit after all re-asks; StepRowError when a
             column holds no schema, or no image.
    Source:  the task of that name of distilabel; `messages` and `schema` are ours.

    >>> TextGeneration(template="Name a {{ thing }}.", system_prompt="Be terse.").format_input(
    ...     {"thing": "fish"}
    ... )
    [{'role': 'system', 'content': 'Be terse.'}, {'role': 'user', 'content': 'Name a fish.'}]
    """

    template: str = _DEFAULT_TEMPLATE
    columns: str | list[str] | None = None
    system_prompt: str | None = None
    use_system_prompt: bool = True
    messages: Messages = ()
    images: str | list[str] | None = None
    image_folder: str = "."
    image_type: ImageType | None = None

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        self.check_fields(["generation"])
        return self

    @model_validator(mode="after")
    def _check_prompt(self) -> Self:
        if self.messages and (self.template != _DEFAULT_TEMPLATE or self.system_prompt is not None):
            raise SpecError(
                "TextGeneration was given both `messages` and a template or system prompt.",
                "`messages` is the whole prompt; put the system prompt in it.",
            )
        named = variables(self._prompt())
        declared = [self.columns] if isinstance(self.columns, str) else self.columns or []
        for column in declared:
            if column not in named:
                raise SpecError(
                    f"TextGeneration declares column {column!r}, but its template names {list(named)}.",
                    did_you_mean(column, named, "Remove it, or use it in the template."),
                )
        for name in named if declared else ():
            if name not in declared:
                raise SpecError(
                    f"The template of TextGeneration names {name!r}, but `columns` lists {declared}.",
                    did_you_mean(name, declared, "Add it, or leave `columns` out: the template tells them."),
                )
        return self

    @property
    def inputs(self) -> ColumnNames:
        needed = dict.fromkeys(variables(self._prompt()), True)
        needed |= self.schema_column()
        needed |= dict.fromkeys(self._image_columns(), True)
        return {"system_prompt": False, **needed} if self._takes_system_column() else needed

    @property
    def outputs(self) -> ColumnNames:
        return ["generation", *self.fields(), "model_name"]

    def format_input(self, input: Row) -> list[Message]:
        messages = render(self._prompt(), input)
        system = input.get("system_prompt") if self._takes_system_column() else None
        system = system or (None if self.messages else self.system_prompt)
        if system:
            messages = [{"role": "system", "content": system}, *messages]
        return with_images(messages, self._images_of(input)) if self.images else messages

    def format_output(self, output: str | None, input: Row) -> dict[str, Any]:
        if output is None or not output.strip():
            raise ParseError(
                "The reply is empty.", "Raise max_new_tokens if the model thinks first, or ask again."
            )
        fitted = self.fitted(output, input)
        return {"generation": fitted.text if fitted else output, **self.columns_of_fields(fitted)}

    def check(self) -> None:
        super().check()
        if self.images and self.llm is not None:
            self.llm.check_images()

    def _image_columns(self) -> list[str]:
        return [self.images] if isinstance(self.images, str) else self.images or []

    def _images_of(self, row: Row) -> list[Image]:
        found = []
        for column in self._image_columns():
            value = row[column]
            for one in value if isinstance(value, list) else [value]:
                found.append(image_of(one, column, kind=self.image_type, folder=self.image_folder))
        return found

    def _prompt(self) -> tuple[PromptMessage, ...]:
        if self.messages:
            return self.messages
        compile_template(self.template)
        return (PromptMessage("user", self.template),)

    def _takes_system_column(self) -> bool:
        return self.use_system_prompt and not self.messages

    def _must_have_value(self) -> list[str]:
        tested = may_be_none(self._prompt())
        return [name for name in super()._must_have_value() if name not in tested]


class TextGenerationWithImage(TextGeneration):
    """Ask a model for a text about the image of each row.

    `image_type` says what the column `image` holds: "url", "base64", "path", "bytes" or "PIL"; None finds it out.

    Inputs:  image (see TextGeneration); the variables of the template (by default instruction: str); system_prompt.
    Outputs: generation (str); model_name (str); those of a schema, as of TextGeneration.
    Errors:  those of TextGeneration; StepRowError when the column holds no image.
    Source:  the task of that name of distilabel.

    >>> TextGenerationWithImage().needed()
    ['instruction', 'image']
    """

    images: str | list[str] | None = "image"

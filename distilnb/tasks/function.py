"""Tasks made of the user's functions: the docstring is the prompt, the body reads the reply."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, overload

from pydantic import model_validator
from typing_extensions import Self

from distilnb.errors import (
    DistilnbError,
    ParseError,
    SpecError,
    TemplateError,
    UnknownParameterError,
    did_you_mean,
)
from distilnb.llms.fitting import Fitted
from distilnb.llms.request import Message
from distilnb.rows import Row
from distilnb.spec.code import Code, CodeField, source_of
from distilnb.spec.columns import Columns
from distilnb.spec.digest import digest_of
from distilnb.spec.draft import current_draft, drafting
from distilnb.spec.signature import (
    Signature,
    describe_function,
    is_only_docstring,
    literal_columns,
    signature_of,
)
from distilnb.spec.step import ColumnNames
from distilnb.tasks.generation import Messages
from distilnb.tasks.prompt import may_be_none, parse_prompt, render, variables
from distilnb.tasks.shaped import ShapedTask

_REPLY = frozenset({"reply"})


class FunctionTask(ShapedTask):
    """A task made of a function by `task`.

    Inputs:  `reads`, else the variables of the prompt and the columns that the function's parameters name.
    Outputs: `makes`, else the keys of the dict that the function returns as far as its source tells them; for
             a function that is only a docstring one column of its name, with the reply (str), and those of the
             schema as for TextGeneration. And model_name (str).
    Errors:  TemplateError when the prompt cannot be read; MissingValueError when a variable is None or
             absent; ParseError when the function raises or returns no dict, or the reply does not fit the schema.
    Source:  the decorator of that name of distilabel; the form whose docstring is the prompt is ours.
    """

    function: CodeField
    messages: Messages
    reads: list[str] | dict[str, bool] | None = None
    makes: list[str] | dict[str, bool] | None = None
    is_positional: bool = False  # called as function(reply, row), as in 1.x
    is_bare: bool = False  # the function has no body: the reply is the column

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        if self.is_bare:
            self.check_fields([self.function.name])
        return self

    @property
    def inputs(self) -> ColumnNames:
        if self.reads is not None:
            return {**_as_mapping(self.reads), **self.schema_column()}
        signature = self._signature()
        needed = dict.fromkeys([*variables(self.messages), *signature.columns], True)
        return {**dict.fromkeys(signature.optional_columns, False), **needed, **self.schema_column()}

    @property
    def outputs(self) -> ColumnNames:
        if self.makes is not None:
            return self.makes
        if self.is_bare:
            return [self.function.name, *self.fields()]
        return literal_columns(self.function.source) or []

    def columns_after(self, upstream: Sequence[Columns]) -> Columns:
        after = super().columns_after(upstream)
        return after if self.makes is not None or self.outputs else after.opened()

    def format_input(self, input: Row) -> list[Message]:
        return render(self.messages, input)

    def format_output(self, output: str | None, input: Row) -> dict[str, Any]:
        if not self.is_positional and (output is None or not output.strip()):
            raise ParseError(
                "The reply is empty.", "Raise max_new_tokens if the model thinks first, or ask again."
            )
        fitted = self.fitted(output, input)
        if self.is_bare:
            text = fitted.text if fitted else str(output).strip()
            return {self.function.name: text, **self.columns_of_fields(fitted)}
        made = self._parsed(output, input, fitted)
        if not isinstance(made, Mapping):
            raise ParseError(
                f"{self.function.name} returned {made!r:.60} ({type(made).__name__}).",
                "Return a dict of columns.",
            )
        return dict(made)

    def _parsed(self, output: str | None, row: Row, fitted: Fitted | None) -> object:
        function = self.function.live
        try:
            if self.is_positional:
                return function(fitted.text if fitted else output, row)
            reply = fitted.read if fitted else output
            return self._signature().call(function, dict(row), {}, given=self._given(reply))
        except DistilnbError:
            raise
        except Exception as error:
            raise ParseError(f"{self.function.name} raised {type(error).__name__}: {error}.") from error

    def _given(self, output: object) -> dict[str, Any]:
        parameters = inspect.signature(self.function.live).parameters
        return {"reply": output} if "reply" in parameters else {}

    def _signature(self) -> Signature:
        if self.is_positional or not self.function.is_live:
            return Signature()
        return signature_of(self.function.live, skip=_REPLY)

    def _must_have_value(self) -> list[str]:
        tested = may_be_none(self.messages)
        named = set(variables(self.messages))
        required = super()._must_have_value()
        return [name for name in required if name not in tested and (name in named or self.reads is not None)]


@dataclass(frozen=True, eq=False)
class TaskFactory:
    """What `task` makes of a function: called with `llm=`, `name=` and other fields it gives a task.

    Called with positional arguments it is the function itself, to try it in a cell.
    """

    function: Callable[..., Any]
    reads: Sequence[str] | Mapping[str, bool] | None = None
    makes: Sequence[str] | Mapping[str, bool] | None = None
    schema: object = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.function.__doc__)
        object.__setattr__(self, "__name__", self.function.__name__)
        object.__setattr__(self, "__wrapped__", self.function)
        with drafting(None):  # what is wrong with the prompt is told where it is written
            self.to_step()

    def __call__(self, *arguments: Any, **values: Any) -> Any:
        """Return a task, or with positional arguments what the function returns."""
        return self.function(*arguments, **values) if arguments else self.to_step(**values)

    def to_step(self, **fields: Any) -> FunctionTask:
        """Return a task of the function; `fields` are those of a task.

        Raises UnknownParameterError for a field that there is none of.
        """
        if "schema" not in fields and "structured_output" not in fields:
            fields["schema"] = self.schema
        for name in fields:
            if name not in FunctionTask.model_fields and name != "schema":
                raise UnknownParameterError(
                    f"A task has no field {name!r}; it has {sorted(FunctionTask.model_fields)}.",
                    did_you_mean(name, FunctionTask.model_fields),
                )
        draft = current_draft()
        if draft is not None and not fields.get("name"):
            number = 0
            while f"{self.function.__name__}_{number}" in draft.steps:
                number += 1
            fields["name"] = f"{self.function.__name__}_{number}"
        return FunctionTask(function=Code.of(self.function), **{**self._form(), **fields})

    def ask(self, row: Row, llm: object = None) -> dict[str, Any] | list[dict[str, Any]]:
        """Ask about one row now and return the new columns."""
        with drafting(None):
            asked = self.to_step()
        return asked.ask(row, llm)

    # The digest of another function that names this one asks for these two.

    @property
    def digest(self) -> str:
        """The identity of the function's own source."""
        return digest_of(source_of(self.function))

    def dump(self) -> dict[str, str]:
        """Return the JSON-ready description of the function and of all that it reaches."""
        return describe_function(self.function)

    def _form(self) -> dict[str, Any]:
        text = inspect.getdoc(self.function)
        if not text:
            raise TemplateError(
                f"The function {self.function.__name__!r} has no docstring.",
                "The docstring of a task is its prompt.",
            )
        reads = None if self.reads is None else _listed(self.reads)
        makes = None if self.makes is None else _listed(self.makes)
        if text.count("---") >= 2 and "user_message_template" in text:
            messages = _parse_document(text, reads)
            return {"messages": messages, "reads": reads or [], "makes": makes or [], "is_positional": True}
        is_bare = makes is None and is_only_docstring(Code.of(self.function).source)
        return {"messages": parse_prompt(text), "reads": reads, "makes": makes, "is_bare": is_bare}


@overload
def task(function: Callable[..., Any], /) -> TaskFactory: ...


@overload
def task(
    *,
    inputs: Sequence[str] | Mapping[str, bool] | None = None,
    outputs: Sequence[str] | Mapping[str, bool] | None = None,
    schema: object = None,
) -> Callable[[Callable[..., Any]], TaskFactory]: ...


def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    inputs: Sequence[str] | Mapping[str, bool] | None = None,
    outputs: Sequence[str] | Mapping[str, bool] | None = None,
    schema: object = None,
) -> TaskFactory | Callable[[Callable[..., Any]], TaskFactory]:
    """Make a task of a function whose docstring is the prompt.

    The prompt's variables are columns. The function reads the reply: its parameter `reply` is the text, `row`
    the whole row, any other a column; it returns a dict of columns. One without a body makes a column of its
    own name.

    With `schema=` (a pydantic model, a JSON schema, a regular expression, a list of choices) `reply` is what the reply
    holds: an instance of the model, the data, or the text. It is asked for again where it does not fit, or where the
    function raises ParseError.

    In the form of 1.x, `@task(inputs=[...], outputs=[...])`, the docstring holds YAML between two lines `---`
    with `system_prompt` and `user_message_template`, columns stand in `{braces}`, and the function takes
    (reply, row).

    >>> @task
    ... def keywords(reply):
    ...     '''List three keywords of this text, with commas between: {{ text }}'''
    ...     return {"keywords": [word.strip() for word in reply.split(",")]}
    >>> keywords.to_step().format_output("salt, sea, sun", {"text": "…"})
    {'keywords': ['salt', 'sea', 'sun']}
    """

    def decorate(function: Callable[..., Any]) -> TaskFactory:
        return TaskFactory(function, inputs, outputs, schema)

    return decorate if function is None else decorate(function)


# --- the form of 1.x --------------------------------------------------------------

_DOCUMENT = re.compile(r"^---[ \t]*\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)


def _parse_document(text: str, reads: list[str] | dict[str, bool] | None) -> list[tuple[str, str]]:
    """Return the messages of a docstring in YAML; raises TemplateError when it cannot be read."""
    import yaml

    found = _DOCUMENT.search(text)
    try:
        document = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError as error:
        raise TemplateError(f"The docstring holds no YAML between its lines `---`: {error}.") from error
    known = {"system_prompt", "user_message_template"}
    if not isinstance(document, dict) or not known & document.keys() or document.keys() - known:
        held = sorted(map(str, document)) if isinstance(document, dict) else type(document).__name__
        raise TemplateError(
            f"The docstring's YAML holds {held}.",
            f"Between two lines `---` it holds {sorted(known)}, and no more.",
        )
    system, user = document.get("system_prompt"), document.get("user_message_template")
    messages = [("system", system)] if system else []
    messages.append(("user", user or ""))
    return [(role, _to_jinja(str(template).strip(), set(reads or ()))) for role, template in messages]


def _to_jinja(template: str, columns: set[str]) -> str:
    """Return a template with `{column}` as one with `{{ column }}`, all other text kept as it is."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise TemplateError(
            f"The template cannot be read: {error}.", "A brace that is text is written twice: {{ and }}."
        ) from error
    text = ""
    for literal, column, form, conversion in parts:
        text += _literal(literal)
        if column is None:
            continue
        if column not in columns or not column.isidentifier() or form or conversion:
            raise TemplateError(
                f"The template names {column!r}, but the task reads {sorted(columns)}.",
                did_you_mean(column, columns, f"Add it: inputs=[{column!r}]."),
            )
        text += "{{ " + column + " }}"
    return text


def _literal(text: str) -> str:
    return "{{ " + repr(text) + " }}" if "{" in text or "}" in text else text


def _as_mapping(names: Sequence[str] | Mapping[str, bool]) -> dict[str, bool]:
    return dict(names) if isinstance(names, Mapping) else dict.fromkeys(names, True)


def _listed(names: Sequence[str] | Mapping[str, bool]) -> list[str] | dict[str, bool]:
    if isinstance(names, str):
        raise SpecError(f"Columns were given as the text {names!r}.", f"Give a list: [{names!r}].")
    return dict(names) if isinstance(names, Mapping) else list(names)

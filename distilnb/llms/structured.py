"""What a user gives as `schema=`, as plain data that a pipeline's file holds.

That is a pydantic model, a JSON schema, a regular expression, a list of choices, or a column with one for each row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Literal, TypeAlias, get_args, get_origin

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError

from distilnb.errors import SpecError, StepRowError
from distilnb.llms.shape import ReplyShape, root_of
from distilnb.spec.code import Code, code_digest, source_of
from distilnb.spec.digest import digest_of

# {"format": "json" | "regex" | "choice", "schema": …}, with the pydantic model as code under "model"; JSON without a
# schema is any object. Or {"column": name}: each row brings its own.
StructuredOutput: TypeAlias = dict[str, Any]

_FORMATS = ("json", "regex", "choice")
_KEYS = frozenset(
    {"format", "schema", "model", "column", "mode", "max_retries"}
)  # the last two: of 1.x, not needed
_DEEPEST = 3  # alternatives within alternatives, of a type that is told
_COLUMN = re.compile(r"\{\{\s*([^\W\d]\w*)\s*\}\}")
_GIVE = (
    "Give a pydantic model, a JSON schema (a dict), a regular expression (text), a list of choices, "
    "or '{{ column }}' for a column that holds one of these."
)


def structured_output(value: object) -> StructuredOutput | None:
    """Return what `schema=` or `structured_output=` was given, as plain data.

    Raises SpecError for what is no pydantic model, JSON schema, regular expression or list of choices.

    >>> structured_output(["yes", "no"])
    {'format': 'choice', 'schema': ['yes', 'no']}
    >>> structured_output(r"[A-Z]{3}-[0-9]+")
    {'format': 'regex', 'schema': '[A-Z]{3}-[0-9]+'}
    """
    if value is None:
        return None
    if isinstance(value, Mapping) and _is_wrapping(value):
        return _unwrapped(value)
    if isinstance(value, str) and (column := _COLUMN.fullmatch(value.strip())):
        return {"column": column[1]}
    return _of_schema(value)


def plain_output(value: object) -> StructuredOutput | None:
    """Return the same for a model, whose replies are text: a pydantic model counts as its JSON schema there.

    Raises SpecError for a column too: a model sees no rows.
    """
    wanted = structured_output(value)
    if wanted is not None and "column" in wanted:
        raise SpecError(
            f"The structured_output of a model names a column: {value!r:.80}.", "Give it to the task."
        )
    return wanted and {name: item for name, item in wanted.items() if name != "model"}


def shape_of(wanted: StructuredOutput) -> ReplyShape:
    """Return the shape that plain data of `structured_output` names; not for that of a column."""
    schema: Any = wanted.get("schema")
    if wanted["format"] == "regex":
        return ReplyShape("regex", pattern=schema)
    if wanted["format"] == "choice":
        return ReplyShape("choice", choices=tuple(schema))
    return ReplyShape("json", schema)


def shape_in(value: object, column: str) -> ReplyShape:
    """Return the shape that a row brings in a column: what `schema=` takes, as data or as JSON text.

    Raises StepRowError for anything else.
    """
    try:
        wanted = structured_output(value)
        if wanted is not None and "column" not in wanted:
            return shape_of(wanted)
    except SpecError as error:
        raise StepRowError(f"Column {column!r} holds no schema: {error.what}", error.fix) from error
    raise StepRowError(f"Column {column!r} holds no schema: {value!r:.80}.", _GIVE)


def model_of_output(wanted: StructuredOutput | None) -> type[BaseModel] | None:
    """Return the pydantic model that validates the replies; None where there is none.

    Raises SpecError when it came from a file that was not trusted.
    """
    model = None if wanted is None else wanted.get("model")
    if not isinstance(model, Code):
        return None
    live: Any = model.live
    assert issubclass(live, BaseModel)
    return live  # type: ignore[no-any-return]  # mypy does not narrow a class


def fields_of(wanted: StructuredOutput) -> list[str] | None:
    """Return the names of the fields of a reply that is an object with known ones, else None."""
    schema = wanted.get("schema")
    if wanted.get("format") != "json" or not isinstance(schema, Mapping):
        return None
    properties = root_of(schema).get("properties")
    return list(properties) if isinstance(properties, Mapping) and properties else None


def types_of(wanted: StructuredOutput) -> dict[str, str]:
    """Return the types of the fields of a reply, in Python's words.

    >>> types_of(
    ...     {
    ...         "format": "json",
    ...         "schema": {"properties": {"a": {"type": "array", "items": {"type": "integer"}}}},
    ...     }
    ... )
    {'a': 'list[int] | None'}
    """
    names, schema = fields_of(wanted), wanted.get("schema")
    if names is None or not isinstance(schema, Mapping):
        return {}
    root = root_of(schema)
    return {
        name: _type_in(root["properties"][name], root, is_optional=name not in root.get("required", ()))
        for name in names
    }


_TYPES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "object": "dict",
    "null": "None",
}


def _type_in(schema: Any, root: Mapping[str, Any], *, is_optional: bool = False) -> str:
    """Return the type of a value; one that may be left out is None then, unless the schema has a default for it."""
    found = _types_in(schema, root, 0)
    if is_optional and not (isinstance(schema, Mapping) and "default" in schema):
        found.append("None")
    found = [*dict.fromkeys(one for one in found if one != "None"), *(["None"] if "None" in found else [])]
    return "Any" if "Any" in found else " | ".join(found)


def _types_in(schema: Any, root: Mapping[str, Any], depth: int) -> list[str]:
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return ["Any"]
    if "$ref" in schema:
        shared = {name: root[name] for name in ("$defs", "definitions") if name in root}
        schema = root_of({**shared, **schema})
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return [one for option in schema[key] for one in _types_in(option, root, depth + 1)]
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ["None" if value is None else type(value).__name__ for value in values]
    kinds = schema.get("type", ())
    return [
        f"list[{_type_in(schema.get('items'), root)}]" if kind == "array" else _TYPES.get(str(kind), "Any")
        for kind in ([kinds] if isinstance(kinds, str) else kinds)
    ] or ["Any"]


# --- the forms ------------------------------------------------------------------


def _is_wrapping(value: Mapping[Any, Any]) -> bool:
    """Whether a dict is the form of 1.x around a schema, and no JSON schema itself."""
    if not value.keys() <= _KEYS or not value:
        return False
    return "schema" in value or "column" in value or value.get("format") in _FORMATS


def _unwrapped(value: Mapping[str, Any]) -> StructuredOutput:
    if "column" in value:
        if not isinstance(value["column"], str) or value.keys() != {"column"}:
            raise SpecError(f"A schema names the column {value!r:.80}.", "{'column': 'its name'}")
        return dict(value)
    schema, form = value.get("schema"), value.get("format")
    if form not in (None, *_FORMATS):
        raise SpecError(f"structured_output has format {form!r}; there are {list(_FORMATS)}.")
    if schema is None:
        if form not in (None, "json"):
            raise SpecError(f"structured_output has format {form!r} and no schema.", _GIVE)
        return {"format": "json"}
    found = _of_regex(schema) if form == "regex" else _of_schema(schema)
    if form is not None and found["format"] != form:
        raise SpecError(
            f"structured_output has format {form!r} and a schema that is {found['format']}.", _GIVE
        )
    if isinstance(value.get("model"), Code):
        found["model"] = value["model"]
    return found


def _of_schema(value: object) -> StructuredOutput:
    if isinstance(value, type) and issubclass(value, BaseModel):
        return _of_model(value)
    if isinstance(value, type) and issubclass(value, Enum):
        return _of_choices([member.value for member in value])
    if get_origin(value) is Literal:
        return _of_choices(list(get_args(value)))
    if isinstance(value, (list, tuple)):
        return _of_choices(list(value))
    if isinstance(value, (str, re.Pattern)):
        text = value if isinstance(value, str) else value.pattern
        if isinstance(text, str) and text.lstrip()[:1] in ("{", "[") and (data := _json_in(text)) is not None:
            return structured_output(data) or {}
        return _of_regex(value)
    if isinstance(value, Mapping):
        schema = json.loads(_as_json(value))
        check_schema(schema)
        return {"format": "json", "schema": schema}
    raise SpecError(f"A schema was given as {type(value).__name__!r}.", _GIVE)


def _of_regex(value: object) -> StructuredOutput:
    if isinstance(value, re.Pattern) and value.flags & ~re.UNICODE:
        raise SpecError("A schema is a compiled pattern with flags.", "Write them into it: '(?i)yes|no'.")
    pattern = value.pattern if isinstance(value, re.Pattern) else value
    if not isinstance(pattern, str) or not pattern:
        raise SpecError(f"A regular expression was given as {value!r:.80}.", "Write it as text, not empty.")
    try:
        re.compile(pattern)
    except re.error as error:
        raise SpecError(f"{pattern!r:.80} is no regular expression: {error}.", _GIVE) from error
    return {"format": "regex", "schema": pattern}


def _of_choices(choices: list[Any]) -> StructuredOutput:
    if not choices or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise SpecError(
            f"A list of choices holds {choices!r:.80}.",
            "List texts, at least one. For numbers: {'enum': [1, 2, 3]}.",
        )
    return {"format": "choice", "schema": list(dict.fromkeys(choices))}


def _of_model(model: type[BaseModel]) -> StructuredOutput:
    try:
        schema = model.model_json_schema()
    except (PydanticInvalidForJsonSchema, PydanticUserError) as error:
        raise SpecError(
            f"{model.__name__} has a field that no JSON schema can describe: {error.message}.",
            "Use types that JSON has: text, numbers, booleans, lists, dicts, dates, enums, other models.",
        ) from error
    schema = json.loads(_as_json(schema))
    reached = [*_models_in(model, {})]
    digest = digest_of([schema, *(code_digest(one) for one in reached), *_validators(reached)])
    return {
        "format": "json",
        "schema": schema,
        "model": Code(model.__name__, source_of(model), digest, model),
    }


def _models_in(value: Any, seen: dict[int, object]) -> Iterator[type]:
    """Yield the models and enumerations that an annotation reaches, through the fields of those too."""
    if isinstance(value, type) and issubclass(value, (BaseModel, Enum)) and id(value) not in seen:
        seen[id(value)] = value
        yield value
        if issubclass(value, BaseModel):
            for info in value.model_fields.values():
                yield from _models_in(info.annotation, seen)
    for argument in get_args(value):
        yield from _models_in(argument, seen)


def _validators(models: list[type]) -> Iterator[str]:
    """Yield the digests of functions that stand in annotations: `Annotated[str, AfterValidator(function)]`."""
    for model in models:
        for info in model.model_fields.values() if issubclass(model, BaseModel) else ():
            for item in info.metadata:
                if callable(function := getattr(item, "func", None)):
                    yield code_digest(function)


def _json_in(text: str) -> Any:
    try:
        data = json.loads(text)
    except ValueError:
        return None
    return data if isinstance(data, (dict, list)) else None


def _as_json(schema: object) -> str:
    try:
        return json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(f"A JSON schema holds what JSON has not: {error}.", _GIVE) from error


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise SpecError when a JSON schema is none, naming the place in it."""
    import jsonschema
    from jsonschema.validators import validator_for

    kind = validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise SpecError(
            f"This is no JSON schema: at {error.json_path}: {error.message:.200}.", _GIVE
        ) from error

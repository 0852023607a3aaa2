"""The base of everything that a pipeline is written in: frozen data that dumps to JSON and builds back."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from typing_extensions import Self

from distilnb.errors import SpecError, UnknownParameterError, did_you_mean
from distilnb.spec.code import _SECRET_PREFIXES, Code, code_digest
from distilnb.spec.digest import digest_of
from distilnb.spec.inline import Inline

_SECRET_FIELDS = re.compile(r"(keys?|token|secrets?|passwords?)$", re.IGNORECASE)  # `max_tokens` is none


class Spec(BaseModel):
    """Frozen, strict data with a kind: a step, a task or a model.

    Two specs are equal when they dump to the same data. Live things (clients, open files) are made by `load` and
    held in private attributes; they are no part of the data.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        protected_namespaces=(),  # `model` is the field's word for a model
        hide_input_in_errors=True,  # pydantic's own error is the cause of ours, and the input may hold a key
        # Lets a subclass say `inputs = ["text"]` without an annotation, as step classes of 1.x do.
        ignored_types=(list, dict, tuple),
    )

    # Fields that change how the work is done, not what comes out: no part of the digest.
    not_in_digest: ClassVar[frozenset[str]] = frozenset()

    # Names that a parameter path may use without the dict field that holds them (field → names).
    shorthand: ClassVar[Mapping[str, frozenset[str]]] = {}

    @classmethod
    def kind(cls) -> str:
        """Return the name under which files know this class."""
        return cls.__name__

    def dump(self) -> dict[str, Any]:
        """Return the data as JSON-ready values: the kind and every field that differs from its default.

        Secrets are never part of it.
        """
        return {"kind": self.kind(), **{name: dump_value(value) for name, value in self.set_fields()}}

    def set_fields(self) -> Iterator[tuple[str, Any]]:
        """Yield name and value of the fields that differ from their default; secrets are left out."""
        for name, info in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                continue
            if info.is_required() or value != info.get_default(call_default_factory=True):
                yield name, value

    @property
    def digest(self) -> str:
        """The identity of the work: equal digest means equal results from equal rows and replies.

        Code counts by what it does: comments, and the text around a lambda, change nothing.
        """
        return digest_of(_identity(self))

    def digest_without(self, names: Collection[str]) -> str:
        """Return the digest as if the fields of these names had their defaults."""
        identity = _identity(self)
        return digest_of({name: value for name, value in identity.items() if name not in names})

    def updated(self, **changes: Any) -> Self:
        """Return a copy with other values of some fields, validated."""
        values = {name: getattr(self, name) for name in self.model_fields_set}
        unknown = changes.keys() - type(self).model_fields.keys()
        for name in sorted(unknown):
            raise UnknownParameterError(
                f"{self.kind()} has no field {name!r}; it has {sorted(type(self).model_fields)}.",
                did_you_mean(name, type(self).model_fields),
            )
        return type(self)(**{**values, **changes})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Spec):
            return NotImplemented
        return self is other or (type(self) is type(other) and self.dump() == other.dump())

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.digest))


def _identity(value: object) -> Any:
    """Return what makes a value what it is, as JSON-ready data."""
    if isinstance(value, (Code, Inline)):
        return value.digest
    if isinstance(value, Spec):
        data = {name: _identity(item) for name, item in value.set_fields() if name not in value.not_in_digest}
        own = {} if type(value).__module__.startswith("distilnb.") else {"class": code_digest(type(value))}
        return {"kind": value.kind(), **own, **data}
    if isinstance(value, dict):
        return {str(key): _identity(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_identity(item) for item in value]
    return dump_value(value)


def dump_value(value: Any) -> Any:
    """Return JSON-ready data for any value that a spec holds."""
    if isinstance(value, (Spec, Code, Inline)):
        return value.dump()
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, type) and issubclass(value, BaseModel):
        return value.model_json_schema()
    if isinstance(value, dict):
        return {str(key): dump_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [dump_value(item) for item in items]
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return str(value)


def explain_validation(kind: str, error: ValidationError, fields: set[str]) -> SpecError:
    """Turn pydantic's report into one sentence a field, with the near match for an unknown one."""
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "value"
        if problem["type"] == "extra_forbidden":
            return UnknownParameterError(
                f"{kind} has no field {where!r}; it has {sorted(fields)}.", did_you_mean(where, fields)
            )
        # The input of a missing field is all the others, keys among them.
        got = "" if problem["type"] == "missing" else _shown(where, problem.get("input"))
        lines.append(f"{where}: {problem['msg']}{got}")
    return SpecError(f"{kind} cannot be made: {'; '.join(lines)}.")


def _shown(where: str, value: object) -> str:
    """Return " (got …)" for a value that holds no secret, as far as its type, its place and its look tell."""
    is_number = isinstance(value, (int, float))
    is_secret = any(_SECRET_FIELDS.search(part) for part in where.split(".")) and not is_number
    if is_secret or _holds_dict(value) or _SECRET_PREFIXES.search(repr(value).encode("utf-8", "replace")):
        return ""
    return f" (got {value!r:.80})"


def _holds_dict(value: object) -> bool:
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(_holds_dict(item) for item in value)
    return isinstance(value, Mapping)

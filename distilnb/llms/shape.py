"""The shape that a reply should have: JSON, a text that matches a pattern, or one of a few choices."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

ShapeKind: TypeAlias = Literal["json", "regex", "choice"]

# The last way to a shape, which every model knows: the messages say what is wanted. `Caller` puts it there; a client
# that is given a request of this mode sends its messages and nothing else.
PROMPT = "prompt"

_SHARED = ("$defs", "definitions")  # keys at the root of a schema, to which its references lead
WRAPPED = "value"  # the one field of an object that stands for what is no object


@dataclass(frozen=True)
class ReplyShape:
    """What every reply to a request should be, as plain data.

    `json`: a document that satisfies `schema`, or any object where that is None. `regex`: a text that `pattern`
    matches as a whole. `choice`: one of `choices`, to the letter.
    """

    kind: ShapeKind
    schema: Mapping[str, Any] | None = None
    pattern: str = ""
    choices: tuple[str, ...] = ()

    @cached_property
    def key(self) -> str:
        """The shape as text: equal shapes have equal text."""
        data = self.schema if self.kind == "json" else self.pattern or list(self.choices)
        return json.dumps([self.kind, data], sort_keys=True, ensure_ascii=False, default=str)

    @property
    def name(self) -> str:
        """A name for it, as protocols take one: letters, digits, `_` and `-`, at most 64 of them."""
        title = str((self.schema or {}).get("title") or "")
        return re.sub(r"[^a-zA-Z0-9_-]+", "_", title)[:64] or "reply"

    @property
    def is_object(self) -> bool:
        """Whether replies are JSON objects, which is all that some servers can force."""
        if self.kind != "json":
            return False
        root = root_of(self.schema or {})
        return self.schema is None or root.get("type") == "object" or "properties" in root

    def as_object(self) -> dict[str, Any]:
        """Return a JSON schema of objects: the own one, or that of an object whose field `value` is the reply.

        Replies in the latter form are read as what they hold.
        """
        if self.is_object:
            return dict(self.schema or {"type": "object"})
        inner = dict(self.schema or {}) if self.kind == "json" else {"type": "string", **self._of_text()}
        shared: dict[str, Any] = {name: inner.pop(name) for name in _SHARED if name in inner}
        return {
            **shared,
            "type": "object",
            "properties": {WRAPPED: inner},
            "required": [WRAPPED],
            "additionalProperties": False,
        }

    def as_pattern(self) -> str:
        """Return the regular expression of a `regex` or a `choice`, for servers that know no list of choices."""
        return self.pattern or "|".join(map(re.escape, self.choices))

    def in_words(self) -> str:
        """Return what is wanted, as a model is told it: "one of these, to the letter: yes | no"."""
        if self.kind == "choice":
            return f"exactly one of these, to the letter: {' | '.join(self.choices)}"
        if self.kind == "regex":
            return f"a text that matches, as a whole, the regular expression {self.pattern}"
        if self.schema is None:
            return "one JSON object"
        what = "object" if self.is_object else "document"
        return f"one JSON {what} that fits this JSON schema: {json.dumps(self.schema, ensure_ascii=False)}"

    def _of_text(self) -> dict[str, Any]:
        if self.kind == "choice":
            return {"enum": list(self.choices)}
        return {"pattern": f"^(?:{self.pattern})$"}  # a schema's pattern may match anywhere


def root_of(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema with the reference at its root followed, which is how pydantic writes a recursive model.

    >>> root_of({"$ref": "#/$defs/Node", "$defs": {"Node": {"type": "object"}}})["type"]
    'object'
    """
    seen: set[str] = set()
    while isinstance(reference := schema.get("$ref"), str) and reference not in seen:
        seen.add(reference)
        node: Any = schema
        for part in reference.removeprefix("#").strip("/").split("/"):
            name = part.replace("~1", "/").replace("~0", "~")
            node = node.get(name) if isinstance(node, Mapping) and part else node
        if not isinstance(node, Mapping) or node is schema:
            break
        shared = {name: schema[name] for name in _SHARED if name in schema}
        schema = {**shared, **{name: value for name, value in schema.items() if name != "$ref"}, **node}
    return schema


def told(messages: Sequence[dict[str, Any]], shape: ReplyShape) -> tuple[dict[str, Any], ...]:
    """Return messages whose last one of the user also says what shape the reply should have."""
    words = f"Reply with {shape.in_words()}\nWrite nothing before or after it."
    last = max((i for i, message in enumerate(messages) if message.get("role") == "user"), default=None)
    if last is None:
        return (*messages, {"role": "user", "content": words})
    content = messages[last].get("content")
    if isinstance(content, list):  # text among images
        added: Any = [*content, {"type": "text", "text": words}]
    else:
        added = f"{content}\n\n{words}"
    return (*messages[:last], {**messages[last], "content": added}, *messages[last + 1 :])

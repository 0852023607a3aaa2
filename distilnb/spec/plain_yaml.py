"""YAML of plain data: no tags, no aliases, nothing that a reader could mistake or a parser could run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from distilnb.errors import SpecError, UnsafeFileError

if TYPE_CHECKING:
    _FastLoader = yaml.SafeLoader
    _FastDumper = yaml.SafeDumper
else:
    _FastLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    _FastDumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

MAX_DEPTH = 100
_LINE_BREAKS_OF_YAML_ONLY = re.compile("[\r\x85\u2028\u2029]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class OneLine(list[Any]):
    """A list that is written on one line: `[a, b]`."""


def dump_yaml(data: Any, *, quickly: bool = False) -> str:
    """Return plain data as YAML: keys in their order, text of several lines as blocks, Unicode as it is.

    `quickly` takes a ninth of the time where libyaml is there: lists then do not stand to the right of their key, and
    emoji are escaped. Raises SpecError for text that no YAML file can hold (half of a surrogate pair).
    """
    dumper = _QuickDumper if quickly else _Dumper
    return yaml.dump(data, Dumper=dumper, sort_keys=False, allow_unicode=True, width=1_000_000)


def load_yaml(text: str) -> Any:
    """Read plain data.

    Raises UnsafeFileError for tags, aliases and nesting deeper than 100, SpecError for what is no YAML.
    """
    try:
        _check_events(text)
        return yaml.load(text, Loader=_Loader)
    except UnsafeFileError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number of more digits than Python reads
        raise SpecError(f"The file is no YAML: {_one_line(error)}.", "Mend that place.") from error


def _check_events(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_FastLoader):
        if isinstance(event, yaml.AliasEvent):
            raise UnsafeFileError(
                f"The file uses the alias *{event.anchor} in line {_line(event)}.",
                "Write the value out in full.",
            )
        tag = getattr(event, "tag", None)
        if tag:
            raise UnsafeFileError(
                f"The file holds the tag {tag!r} in line {_line(event)}; tags can make objects.",
                "Pipeline files hold plain text, numbers, lists and mappings only.",
            )
        depth += isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent))
        depth -= isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent))
        if depth > MAX_DEPTH:
            raise UnsafeFileError(f"The file is nested deeper than {MAX_DEPTH} levels.")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _one_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)  # items of a list stand to the right of its key


class _QuickDumper(_FastDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if lone := _LONE_SURROGATE.search(text):
        raise SpecError(
            f"The pipeline holds half of a character, {lone.group()!r}, which a YAML file cannot hold.",
            "Remove it, or save as JSON.",
        )
    style = None
    if _LINE_BREAKS_OF_YAML_ONLY.search(text):
        style = '"'  # elsewhere a reader makes blanks of them
    elif "\n" in text and not text[0].isspace():
        style = "|"  # not with a blank first: the hint that it then needs is read differently by parsers
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _write_one_line(dumper: yaml.SafeDumper, items: OneLine) -> yaml.SequenceNode:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)


for _dumper in (_Dumper, _QuickDumper):
    _dumper.add_representer(str, _write_text)
    _dumper.add_representer(OneLine, _write_one_line)


class _Loader(_FastLoader):
    """A safe loader that knows the types of JSON only: a date is text, `<<` and `=` mean nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, (str, int, float, bool)) and key is not None:
                raise yaml.constructor.ConstructorError(None, None, "a key is no text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} twice", key_node.start_mark)
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


_BOOL, _INT, _FLOAT = (f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float"))
_DROPPED = {f"tag:yaml.org,2002:{name}" for name in ("timestamp", "merge", "value")} | {_BOOL, _INT, _FLOAT}
_Loader.yaml_implicit_resolvers = {
    first: kept
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    if (kept := [(tag, pattern) for tag, pattern in resolvers if tag not in _DROPPED])
}
# `no` and `off` are words here, as in YAML 1.2; the writer quotes them for older readers.
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
# Numbers as in JSON, so that 12:30:45, 010 and 1_000 are text; `.inf` and `.nan` are how the writer says those.
_JSON_INT = re.compile(r"^-?(?:0|[1-9][0-9]*)$")
_JSON_FLOAT = re.compile(r"^(?:-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|-?\.inf|\.nan)$")
_Loader.add_implicit_resolver(_INT, _JSON_INT, list("-0123456789"))
_Loader.add_implicit_resolver(_FLOAT, _JSON_FLOAT, list("-.0123456789"))
# The writer quotes text such as `1e3`, which is no number in YAML 1.1 but is one here.
for _dumper in (_Dumper, _QuickDumper):
    _dumper.add_implicit_resolver(_FLOAT, _JSON_FLOAT, list("-.0123456789"))

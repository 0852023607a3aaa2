"""A pipeline as a Python script: the class form, which builds an equal pipeline wherever it is run."""

from __future__ import annotations

import ast
import json
import linecache
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from pydantic import BaseModel, SecretStr

from distilnb.errors import DistilnbError, SpecError
from distilnb.pipeline.defining import Definitions
from distilnb.pipeline.layout import INDENT, WIDTH, Bracket, Node, call, laid_out, node_of
from distilnb.rows import dump_json
from distilnb.spec.base import Spec, dump_value
from distilnb.spec.code import Code
from distilnb.spec.digest import digest_of
from distilnb.spec.files import MAX_INLINE_BYTES, PipelineFile, refuse_secrets
from distilnb.spec.graph import Edge, Graph
from distilnb.spec.inline import Inline
from distilnb.spec.registry import KINDS, STEPS, TASKS
from distilnb.spec.step import Step
from distilnb.tasks.prompt import PromptMessage, as_messages

_MAKE_IT = (
    "Give a lambda a name with `def`, make live objects inside the function or in `load` of a step class, and keep "
    "the source where it can be read: a cell, a script or a module."
)


def script_of(file: PipelineFile) -> str:
    """Return the source of a script that builds a pipeline of the same digest, and runs it when it is the program.

    Functions and classes of a cell are in it by source, those of a module are imported. Keys are not: models find
    them as they do elsewhere. Rows given in the program are, up to 256 KB.

    Raises SpecError naming what cannot be written, UnsafeFileError when the text would hold a secret.
    """
    writer = _Writer(file)
    text = writer.text()
    if missing := dict.fromkeys(writer.defined.missing):
        raise SpecError(
            f"Pipeline {file.name!r} cannot be written as a script: {'; '.join(missing)}.",
            _MAKE_IT,
        )
    refuse_secrets(file, text)
    if writer.defined.has_source:
        _check_equal(text, writer.variable, file.graph)
    return text


class _Writer:
    """Writes one file; a name is taken once, by whatever comes first."""

    def __init__(self, file: PipelineFile) -> None:
        self.file = file
        self.defined = Definitions()
        self.defined.imports["import distilnb as dn"] = None
        self.defined.reserve("dn", "distilnb")
        self._models: dict[str, str] = {}  # names of models, by what they dump to
        self._model_lines: list[str] = []
        self._remarks: list[str] = []
        self.variable = ""

    def text(self) -> str:
        self._define_users_code()
        self.variable = self.defined.take(self.file.name, self.file)
        steps = {
            name: self._construction(step, f"step {name!r}") for name, step in self.file.graph.steps.items()
        }
        given: dict[str, Node] = {}
        if self.file.llm is not None:
            given["llm"] = self._node(self.file.llm, "the default model")
        if self.file.description:
            given["description"] = node_of(self.file.description)
        variables = {name: self.defined.take(name, step) for name, step in self.file.graph.steps.items()}
        opened = call("dn.Pipeline", [node_of(self.file.name)], given)
        body = [laid_out(steps[name], before=f"{variables[name]} = ", indent=INDENT) for name in steps] or [
            "pass"
        ]
        chains = connections(self.file.graph.edges, variables)
        block = laid_out(opened, before="with ", after=f" as {self.variable}:")
        lines = [block, *(INDENT + line for line in body)]
        if chains:
            lines += ["", *(INDENT + chain for chain in chains)]
        parts = [
            _imports(self.defined.imports, self.defined.own_modules),
            *self.defined.blocks,
            "\n".join(self._model_lines),
            "\n".join(lines),
            f'if __name__ == "__main__":\n{INDENT}print({self.variable}.run())',
        ]
        return _title(self.file.name) + _apart(
            [*parts[:-2], "\n".join([*self._remarks, parts[-2]]), parts[-1]]
        )

    def _define_users_code(self) -> None:
        """Define functions and classes first: variables of the script keep out of their way, not they of it."""
        for step in self.file.graph.steps.values():
            for spec in [step, *_inside(step)]:
                if isinstance(spec, Code):
                    self.defined.function(spec, f"step {step.name!r}")
                elif isinstance(spec, Spec) and spec.kind() not in KINDS:
                    self.defined.user_class(type(spec), f"step {step.name!r}")

    def _construction(self, spec: Spec, owner: str) -> Bracket:
        fields = {name: self._node(value, owner) for name, value in self._fields(spec)}
        return call(self._class_name(spec, owner), named=fields)

    def _fields(self, spec: Spec) -> Iterator[tuple[str, Any]]:
        fields = dict(spec.set_fields())
        if isinstance(spec, Step):  # its name is said also where the class gives it
            fields = {"name": spec.name, **fields}
        yield from fields.items()

    def _class_name(self, spec: Spec, owner: str) -> str:
        kind = spec.kind()
        if kind not in KINDS:
            return self.defined.user_class(type(spec), owner)
        home = KINDS[kind].partition(":")[0]
        short = "distilnb.steps" if kind in STEPS else "distilnb.tasks" if kind in TASKS else "distilnb.llms"
        return self.defined.import_from(short if _is_public(short, kind) else home, kind)

    def _node(self, value: Any, owner: str) -> Node:
        if isinstance(value, Spec):
            return self._model(value, owner)
        if isinstance(value, Code):
            return self.defined.function(value, owner)
        if isinstance(value, Inline):
            return self._rows(value, owner)
        if isinstance(value, tuple) and value and all(isinstance(item, PromptMessage) for item in value):
            return _prompt(value)
        if isinstance(value, Mapping):
            parts = tuple((f"{node_of(key)}: ", self._node(item, owner)) for key, item in value.items())
            return Bracket("{", parts, "}")
        if isinstance(value, (list, tuple)):
            head, tail = "[]" if isinstance(value, list) else "()"
            return Bracket(head, tuple(("", self._node(item, owner)) for item in value), tail)
        if isinstance(value, (BaseModel, type)):
            return node_of(dump_value(value))
        try:
            return node_of(value)
        except TypeError:
            return node_of(dump_value(value))

    def _model(self, spec: Spec, owner: str) -> str:
        """Return the variable of a model; equal ones have one."""
        key = digest_of([spec.kind(), spec.dump()])
        if key not in self._models:
            made = self._construction(spec, owner)
            name = self.defined.take(str(getattr(spec, "model", "") or spec.kind()), spec)
            self._models[key] = name
            self._model_lines += [
                f"# {field} is not written: give it here, or where the provider looks for it."
                for field in type(spec).model_fields
                if isinstance(getattr(spec, field), SecretStr)
            ]
            self._model_lines.append(laid_out(made, before=f"{name} = "))
        return self._models[key]

    def _rows(self, inline: Inline, owner: str) -> Node:
        text = _json_rows(inline)
        if text is None:
            self._remarks.append(
                f"# The {inline.n_rows} rows of {owner} are not in here. Give them: .with_rows(rows)"
            )
            return node_of(inline.dump())
        rows = json.loads(text)
        if _is_plain(inline.rows):
            return node_of(list(inline.rows))
        self.defined.import_from("distilnb.rows", "load_json")
        return call("load_json", [node_of(json.dumps(rows, ensure_ascii=False))])


def _inside(value: object) -> Iterator[object]:
    """Yield the specs and functions that a value holds, at any depth."""
    parts: Iterable[object] = ()
    if isinstance(value, Spec):
        parts = (item for _, item in value.set_fields())
    elif isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, (list, tuple)):
        parts = value
    for part in parts:
        if isinstance(part, (Spec, Code)):
            yield part
        yield from _inside(part)


def _json_rows(inline: Inline) -> str | None:
    """Return rows as JSON; None where they are not here, or too many for a script."""
    if not inline.is_here:
        return None
    written, n_characters = [], 0
    for row in inline.rows:  # one by one: there may be millions
        written.append(dump_json(row))
        n_characters += len(written[-1])
        if n_characters > MAX_INLINE_BYTES:
            return None
    return f"[{','.join(written)}]"


def _is_plain(rows: Sequence[Any]) -> bool:
    """Whether rows mean the same when they are written as Python: no bytes, dates or types of a library."""
    return all(_is_json(row) for row in rows)


def _is_json(value: Any) -> bool:
    if type(value) is dict:
        return all(type(key) is str and _is_json(item) for key, item in value.items())
    if type(value) is list:
        return all(_is_json(item) for item in value)
    return value is None or type(value) in (str, int, float, bool)


def _prompt(messages: tuple[PromptMessage, ...]) -> Node:
    """Return a prompt as its cell would have it, if that means the same."""
    text = "\n".join(f"{one.role}:\n{one.template}" for one in messages)
    if len(messages) == 1 and messages[0].role == "user":
        text = messages[0].template
    try:
        if as_messages(text) == messages:
            return node_of(text)
    except SpecError:
        pass
    return node_of([tuple(one) for one in messages])


def _is_public(package: str, name: str) -> bool:
    from importlib import import_module

    return name in dir(import_module(package))


# --- the layout of the whole ----------------------------------------------------


def connections(edges: Sequence[Edge], variables: Mapping[str, str]) -> list[str]:
    """Return statements that connect steps in the order of the edges, which joins lean on.

    >>> names = {name: name for name in "abcd"}
    >>> connections([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")], names)
    ['a >> [b, c] >> d']
    """
    hops: list[tuple[list[str], list[str]]] = []
    rest = list(edges)
    while rest:
        (before, after), *_ = rest
        joined = list(takewhile(lambda edge: edge[1] == after, rest))  # noqa: B023 - taken at once
        spread = list(takewhile(lambda edge: edge[0] == before, rest))  # noqa: B023
        if len(joined) > len(spread):
            hops.append(([edge[0] for edge in joined], [after]))
        else:
            hops.append(([before], [edge[1] for edge in spread]))
        rest = rest[max(len(joined), len(spread)) :]
    chains: list[str] = []
    last: list[str] = []
    for sources, targets in hops:
        link = f" >> {_several(targets, variables)}"
        follows = bool(chains) and last == sources and 1 in (len(sources), len(targets))
        if follows and len(INDENT + chains[-1] + link) <= WIDTH:
            chains[-1] += link
        else:
            chains.append(_several(sources, variables) + link)
        last = targets
    return [line for chain in chains for line in _fitting(chain)]


def _several(names: Sequence[str], variables: Mapping[str, str]) -> str:
    words = [variables[name] for name in names]
    return words[0] if len(words) == 1 else f"[{', '.join(words)}]"


def _fitting(chain: str) -> list[str]:
    """Return a chain, or where it is too long its connections one by one."""
    if len(INDENT + chain) <= WIDTH:
        return [chain]
    sources, targets = ([word.strip("[]") for word in side.split(", ")] for side in chain.split(" >> "))
    return [f"{before}.connect({after})" for before in sources for after in targets]


def _title(name: str) -> str:
    shown = "".join(char for char in name if char.isprintable() and char not in '\\"')
    return f'"""The pipeline {shown}, as distilnb wrote it."""\n\n'


def _imports(lines: Iterable[str], own: Collection[str]) -> str:
    """Return import statements in the order of isort, those from one module as one; `own` modules come last."""
    names: dict[str, list[str]] = {}
    written: list[tuple[int, bool, str, str]] = []
    for line in lines:
        module = line.split()[1]
        place = 0 if module.split(".")[0] in sys.stdlib_module_names else 1 + (module in own)
        if line.startswith("from "):
            names.setdefault(module, []).append(line.partition(" import ")[2])
        else:
            written.append((place, False, module.lower(), line))
    for module, imported in names.items():
        place = 0 if module.split(".")[0] in sys.stdlib_module_names else 1 + (module in own)
        imported.sort(key=_kind_of_name)
        flat = f"from {module} import {', '.join(imported)}"
        several = Bracket("(", tuple(("", name) for name in imported), ")")
        line = flat if len(flat) <= WIDTH else laid_out(several, before=f"from {module} import ")
        written.append((place, True, module.lower(), line))
    written.sort()
    groups = ["\n".join(line for place, *_, line in written if place == group) for group in range(3)]
    return "\n\n".join(filter(None, groups))


def _kind_of_name(name: str) -> tuple[int, str]:
    word = name.split(maxsplit=1)[0]
    kind = 0 if word.isupper() and len(word) > 1 else 1 if word[0].isupper() else 2
    return kind, word.lower()


def _apart(parts: Sequence[str]) -> str:
    """Return the parts of a module, as far apart as a formatter would have them."""
    text = ""
    is_definition = False
    for part in filter(None, parts):
        was_definition, is_definition = is_definition, _is_definition(part)
        text += ("\n\n" if text and (was_definition or is_definition) else "\n" * bool(text)) + part + "\n"
    return text


def _is_definition(part: str) -> bool:
    return part.startswith(("def ", "async def ", "class ", "@"))


# --- the proof ------------------------------------------------------------------


def _check_equal(text: str, variable: str, graph: Graph) -> None:
    """Run the definitions of a script and raise SpecError unless it builds an equal graph.

    Only where code of the user is in it: elsewhere nothing can differ. That code runs in this process already.
    """
    name = f"<script {digest_of(text, size_bytes=6)}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"__name__": name}  # no module: what it defines counts as the user's
    try:
        exec(compile(ast.parse(text), name, "exec", dont_inherit=True), namespace)
        built: Graph = namespace[variable].graph
        is_equal = built.digest == graph.digest
        other = [name for name, step in graph.steps.items() if step.digest != built.steps[name].digest]
    except DistilnbError:
        raise
    except Exception as error:
        raise SpecError(f"The script would not run: {type(error).__name__}: {error}.", _MAKE_IT) from error
    finally:
        del linecache.cache[name]
    if not is_equal:
        raise SpecError(
            f"The functions or classes of the steps {other} do something else when they are run from a script: they "
            "hold values that have no source, such as what a function around them has set.",
            _MAKE_IT,
        )

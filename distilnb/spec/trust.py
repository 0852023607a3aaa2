"""Code that a pipeline file carries: written with what it needs, shown before it runs, made live on trust."""

from __future__ import annotations

import ast
import builtins
import inspect
import linecache
import os
import re
import sys
import textwrap
import types
from collections.abc import Iterator, Mapping
from typing import Any

from distilnb.errors import SpecError, UnsafeFileError
from distilnb.spec import step as step_types
from distilnb.spec.code import _SECRET_NAMES, _SECRET_PREFIXES, code_digest, is_users_module, source_of
from distilnb.spec.digest import digest_of

_SOURCE_MARK = "__distilnb_source__"  # a class made from a file keeps its source here, for the next save,
_DIGEST_MARK = "__distilnb_digest__"  # and the digest that the file says
_MAX_PLAIN_CHARACTERS = 10_000
SHORTEST_SECRET = 8  # characters: `KEY = "id"` names a column
_NO_SECRET = re.compile(r"<.*>|\[.*\]|\**")  # `pad_token="<pad>"`; the stars are what a SecretStr shows
_COLUMN_NAMES = {"columns", "input_mappings", "output_mappings"}  # there `token: word` maps a column
_OWN_TYPES = ("StepInput", "StepOutput", "GeneratorStepOutput", "RuntimeParameter")
_OWN_DECORATORS = {"routing_batch_function", "step", "task"}  # what they wrap is the function itself


# --- writing ------------------------------------------------------------------


def source_in(value: object) -> str:
    """Return the source of a class or function, also of one that came from a file."""
    marked = str(getattr(value, "__dict__", {}).get(_SOURCE_MARK, ""))
    return marked or source_of(value) or (_source_beside(value) if isinstance(value, type) else "")


def _source_beside(cls: type) -> str:
    """Return the source of a class of a cell, which is where its methods have theirs, or ""."""
    for method in vars(cls).values():
        method = getattr(method, "fget", None) or getattr(method, "__func__", method)
        code = getattr(method, "__code__", None)
        if code is None or getattr(method, "__qualname__", "").split(".")[0] != cls.__qualname__:
            continue
        text = "".join(linecache.getlines(code.co_filename))
        try:
            nodes = ast.walk(ast.parse(text))
        except SyntaxError:
            continue
        for node in nodes:
            if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
                first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
                if first <= code.co_firstlineno <= (node.end_lineno or 0):
                    return textwrap.dedent(
                        "".join(text.splitlines(keepends=True)[first - 1 : node.end_lineno])
                    )
    return ""


def digest_in(value: object) -> str:
    """Return the digest of a class or function, also of one that came from a file."""
    return str(getattr(value, "__dict__", {}).get(_DIGEST_MARK, "")) or code_digest(value)


def needs_of(value: object, source: str) -> str:
    """Return source of the globals that user code names: imports, plain values, the user's own functions.

    A live object (a client, an open file) has no source and is left out; whoever opens the file is told. Raises
    UnsafeFileError for a global that seems to hold a secret, by its name.
    """
    lines: list[str] = []
    _collect_needs(value, source, lines, {id(value)})
    return "".join(f"{line}\n" for line in lines)


def _collect_needs(value: object, source: str, lines: list[str], seen: set[int]) -> None:
    namespace = namespace_of(value)
    tree = parse_definition(source)
    if tree is None:
        return
    for name in sorted(free_names(tree)):
        if name not in namespace or id(namespace[name]) in seen:
            continue
        needed = namespace[name]
        if is_users_code(needed):
            seen.add(id(needed))
            its_source = source_in(needed)
            if its_source and needed.__name__ == name:
                _collect_needs(needed, its_source, lines, seen)
                lines.append(its_source.rstrip("\n"))
        elif (line := definition_of(name, needed)) and line not in lines:
            lines.append(line)


def namespace_of(value: object) -> Mapping[str, Any]:
    """Return what the names mean that the code of a function or class reads."""
    functions = [value] if isinstance(value, types.FunctionType) else list(vars(value).values())
    for function in functions:
        if isinstance(function, types.FunctionType):
            closure = inspect.getclosurevars(function).nonlocals
            return {**function.__globals__, **closure}
    module = sys.modules.get(getattr(value, "__module__", "") or "")
    return vars(module) if module else {}


def is_users_code(value: Any) -> bool:
    """Whether a value is a function or class that the user wrote."""
    if not isinstance(value, (types.FunctionType, type)):
        return False
    module = sys.modules.get(value.__module__ or "")
    return module is None or module.__name__ == "__main__" or is_users_module(module)


def definition_of(name: str, value: Any) -> str:
    """Return the line that makes `name` mean `value` again, or "" where there is none."""
    if isinstance(value, types.ModuleType):
        return f"import {name}" if value.__name__ == name else f"import {value.__name__} as {name}"
    for alias in _OWN_TYPES:  # they have no name of their own
        if getattr(step_types, alias) is value:
            return f"from {step_types.__name__} import {alias}" + (f" as {name}" if alias != name else "")
    module_name = getattr(value, "__module__", None)
    module = sys.modules.get(module_name) if isinstance(module_name, str) else None
    if module is not None and module_name != "__main__":
        for home in (getattr(value, "__name__", None), name):
            if isinstance(home, str) and getattr(module, home, None) is value:
                return f"from {module_name} import {home}" + (f" as {name}" if home != name else "")
    text = repr(value)
    try:
        is_plain = len(text) <= _MAX_PLAIN_CHARACTERS and bool(ast.literal_eval(text) == value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        is_plain = False
    is_short = isinstance(value, str) and len(value) < SHORTEST_SECRET
    if is_plain and not is_short and (place := next(find_named_secrets({name: value}), "")):
        raise UnsafeFileError(
            f"The file would hold the text of the global {place!r}, whose name is that of a secret.",
            f"Read it from the environment inside the function: os.environ[{name!r}].",
        )
    return f"{name} = {text}" if is_plain else ""


# --- making live --------------------------------------------------------------


def make_live(name: str, source: str, needs: str = "", digest: str = "") -> Any:
    """Run the source of one function or class in a namespace of its own and return the function or class.

    Only for code that the user has read and trusts. Raises SpecError when the source is not whole.
    """
    if not source:
        raise SpecError(
            f"The file names {name!r} but holds no source of it.",
            "Save it from where the code can be read: a cell, a script or a module.",
        )
    tree = parse_definition(source)
    missing = sorted(free_names(tree) - _bound_names(ast.parse(needs))) if tree else []
    if tree is None or missing:
        raise SpecError(
            f"The source of {name!r} in the file is not whole: "
            + (
                f"it names {missing}, which nothing defines."
                if missing
                else "it is no function or class alone."
            ),
            "Import what it uses inside the function, give a lambda a name with `def`, and save again.",
        )
    namespace = _run(tree, source, needs)
    live = namespace.get("_lambda" if isinstance(tree.body[0], ast.Assign) else name)
    if not callable(live):
        raise SpecError(f"The source in the file defines no {name!r}.", "The name and the source must agree.")
    if isinstance(live, type):
        setattr(live, _SOURCE_MARK, source)
        setattr(live, _DIGEST_MARK, digest)
    return live


def _run(tree: ast.Module, source: str, needs: str) -> dict[str, Any]:
    # `__main__`: classes and functions of that module travel to workers by value, as those of a cell do.
    namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
    exec(compile(needs, _readable(needs), "exec", dont_inherit=True), namespace)
    exec(compile(tree, _readable(source), "exec", dont_inherit=True), namespace)
    return namespace


def _readable(source: str) -> str:
    """Return a file name under which tracebacks and `inspect` find the source."""
    name = f"<from a pipeline file {digest_of(source, size_bytes=6)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    return name


def parse_definition(source: str) -> ast.Module | None:
    """Return the syntax tree of one def, class or lambda, without our own decorators, else None."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return _parse_lambda(source)
    if len(tree.body) == 1 and isinstance(
        tree.body[0], (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    ):
        definition = tree.body[0]
        definition.decorator_list = [item for item in definition.decorator_list if not is_own_decorator(item)]
        return tree
    return _parse_lambda(source)


def is_own_decorator(node: ast.expr) -> bool:
    """Whether a decorator is one of the library, whose result is used by the function that it wraps."""
    node = node.func if isinstance(node, ast.Call) else node
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name in _OWN_DECORATORS


def _parse_lambda(source: str) -> ast.Module | None:
    """Find the one lambda in a line such as `.map(lambda row: row, into="x")`; None if there are more."""
    starts = [i for i in range(len(source)) if source.startswith("lambda", i)]
    if len(starts) != 1:
        return None
    for end in range(len(source), starts[0], -1):
        try:
            found = ast.parse(source[starts[0] : end].strip(), mode="eval").body
        except SyntaxError:
            continue
        if isinstance(found, ast.Lambda):
            target = ast.Name(id="_lambda", ctx=ast.Store())
            return ast.fix_missing_locations(ast.Module([ast.Assign([target], found)], type_ignores=[]))
    return None


def free_names(tree: ast.AST) -> set[str]:
    """Return the names that code reads and neither binds itself nor finds among the builtins."""
    read = {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    return {name for name in read - _bound_names(tree) if not hasattr(builtins, name)}


def _bound_names(tree: ast.AST) -> set[str]:
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound |= {node.name, "__class__"}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name:
            bound.add(node.name)
    return bound


# --- secrets ------------------------------------------------------------------


def find_secret(text: str) -> str:
    """Return what secret a text seems to hold ("the value of OPENAI_API_KEY"), or ""."""
    for name, value in os.environ.items():
        if _SECRET_NAMES.search(name) and len(value) >= SHORTEST_SECRET and value in text:
            return f"the value of the environment variable {name}"
    if _SECRET_PREFIXES.search(text.encode("utf-8", "replace")):
        return "what looks like an API key"
    return ""


def find_named_secrets(data: object, path: str = "") -> Iterator[str]:
    """Yield the dotted paths of the texts in plain data whose name is that of a secret (`api_key`, `token`).

    >>> [*find_named_secrets({"load": {"options": {"secret": "wJalr", "max_tokens": 9}}})]
    ['load.options.secret']
    """
    if isinstance(data, Mapping):
        for key, item in data.items():
            place = f"{path}.{key}" if path else str(key)
            if isinstance(item, str):
                if _SECRET_NAMES.search(str(key)) and not _NO_SECRET.fullmatch(item):
                    yield place
            elif key not in _COLUMN_NAMES:
                yield from find_named_secrets(item, place)
    elif isinstance(data, (list, tuple)):
        for index, item in enumerate(data):
            yield from find_named_secrets(item, f"{path}.{index}" if path else str(index))


def without_secrets(text: str) -> str:
    """Return text with every secret that it seems to hold taken out."""
    for name, value in os.environ.items():
        if _SECRET_NAMES.search(name) and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, "[secret removed]")
    return re.sub(_SECRET_PREFIXES.pattern.decode(), "[secret removed]", text)

"""What a user's function says of itself: the columns that it reads, and those that it makes."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import Annotated, Any, get_args, get_origin

from distilnb.errors import MissingColumnError, SpecError
from distilnb.spec.code import code_digest, source_of
from distilnb.spec.columns import Columns, check_columns
from distilnb.spec.digest import digest_of
from distilnb.spec.step import StepInput
from distilnb.spec.template import missing_value

_CALLS_AT_ONCE = 50
BATCH_PARAMETERS = frozenset({"rows", "inputs"})


@dataclass(frozen=True)
class Signature:
    """The parameters of a function, by what each is given.

    A parameter is the column of its name; one with a default is read where the row has it. `row` is the whole
    row, `rows` (or one annotated `StepInput`) the whole batch, `*inputs` one batch of each predecessor. What
    stands after `*`, or is annotated `RuntimeParameter`, is a setting.
    """

    columns: tuple[str, ...] = ()
    optional_columns: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    positional_only: tuple[str, ...] = ()
    batch: str = ""  # the parameter that takes whole batches
    takes_row: bool = False
    takes_several: bool = False
    takes_rest: bool = False  # **columns: every other column of the row
    skip: frozenset[str] = frozenset()

    def call(
        self,
        function: Callable[..., Any],
        row: Mapping[str, Any],
        settings: Mapping[str, Any],
        given: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function on one row; `given` holds values for parameters that are no columns.

        Raises MissingValueError when the row lacks a column that it reads.
        """
        values: dict[str, Any] = {**settings, **(given or {})}
        for name in self.columns:
            if name not in values:
                if name not in row:
                    raise missing_value(name, row)
                values[name] = row[name]
        for name in self.optional_columns:
            if name in row and name not in values:
                values[name] = row[name]
        if self.takes_row:
            values["row"] = row
        if self.takes_rest:
            values = {**row, **values}
        leading = [values.pop(name) for name in self.positional_only if name in values]
        return function(*leading, **values)

    def map(
        self,
        function: Callable[..., Any],
        columns: Mapping[str, list[Any]],
        moved: Callable[[], None],
        settings: Mapping[str, Any] | None = None,
    ) -> list[Any] | None:
        """Call the function on each row of columns; None where it takes more than values of columns.

        `moved` is called whenever some rows are through. Raises KeyError when there is no such column, and
        whatever the function raises.
        """
        names = (*self.columns, *(name for name in self.optional_columns if name in columns))
        takes_more = self.takes_row or self.takes_rest or self.batch
        if takes_more or not names or _positional(function)[: len(names)] != names:
            return None
        call = partial(function, **settings) if settings else function
        results: list[Any] = []
        calls = map(call, *(columns[name] for name in names))
        while piece := list(islice(calls, _CALLS_AT_ONCE)):
            results += piece
            moved()
        return results


@lru_cache(maxsize=512)
def _positional(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the parameters that can be given by position."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(one.name for one in inspect.signature(function).parameters.values() if one.kind in kinds)


@lru_cache(maxsize=512)
def signature_of(function: Callable[..., Any], skip: frozenset[str] = frozenset()) -> Signature:
    """Return what the parameters of a function stand for; those in `skip` are neither columns nor settings.

    Raises SpecError when Python cannot tell the parameters (some built-in functions).

    >>> def shorten(text, language="en", *, limit=10): ...
    >>> found = signature_of(shorten)
    >>> found.columns, found.optional_columns, found.settings
    (('text',), ('language',), ('limit',))
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise SpecError(
            f"The parameters of {function!r} are unknown.", "Wrap it: def f(text): return {'made': ...}."
        ) from error
    found: dict[str, list[str]] = {"columns": [], "optional": [], "settings": [], "positional": []}
    flags: dict[str, Any] = {}
    for parameter in parameters:
        name = parameter.name
        if parameter.kind is parameter.VAR_KEYWORD:
            flags["takes_rest"] = True
        elif parameter.kind is parameter.VAR_POSITIONAL:
            flags["takes_several"], flags["batch"] = True, name
        elif name in skip:
            continue
        elif _is_named(parameter.annotation, "StepInput") or name in BATCH_PARAMETERS:
            flags["batch"] = name
        elif name == "row":
            flags["takes_row"] = True
        elif parameter.kind is parameter.KEYWORD_ONLY or _is_named(parameter.annotation, "RuntimeParameter"):
            found["settings"].append(name)
        elif parameter.default is parameter.empty:
            found["columns"].append(name)
        else:
            found["optional"].append(name)
        if parameter.kind is parameter.POSITIONAL_ONLY:
            found["positional"].append(name)
    return Signature(
        columns=tuple(found["columns"]),
        optional_columns=tuple(found["optional"]),
        settings=tuple(found["settings"]),
        positional_only=tuple(found["positional"]),
        skip=skip,
        **flags,
    )


def check_reads(step: str, needs: Iterable[str], has: Columns) -> None:
    """Raise MissingColumnError as `check_columns` does, telling what a parameter's name means."""
    try:
        check_columns(step, needs, has)
    except MissingColumnError as error:
        fix = f"{error.fix} A function's parameters are columns; one named 'row' takes the whole row."
        raise MissingColumnError(error.what, fix) from None


def literal_columns(source: str) -> list[str] | None:
    """Return the keys of the dicts that a function returns, or None when they cannot be read off its source.

    >>> literal_columns("def f(text): return {'loud': text.upper()}")
    ['loud']
    """
    body = _body(source)
    if body is None:
        return None
    keys: dict[str, None] = {}
    for value in _returned(body):
        if isinstance(value, ast.Constant) and value.value is None:
            continue
        items = value.elts if isinstance(value, (ast.List, ast.Tuple)) else [value]
        if isinstance(value, ast.ListComp):
            items = [value.elt]
        for item in items:
            if not isinstance(item, ast.Dict):
                return None
            for key in item.keys:
                if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
                    return None
                keys[key.value] = None
    return list(keys) or None


def returns_several(function: Callable[..., Any], source: str) -> bool:
    """Whether a function returns or yields several rows for one, as far as its source tells."""
    if inspect.isgeneratorfunction(function):
        return True
    annotation = getattr(function, "__annotations__", {}).get("return")
    if str(annotation).startswith(
        ("list", "typing.List", "List", "Iter", "typing.Iter", "collections.abc.Iter")
    ):
        return True
    several = (ast.List, ast.ListComp, ast.Tuple, ast.GeneratorExp)
    return any(isinstance(value, several) for value in _returned(_body(source) or []))


_described: ContextVar[frozenset[int]] = ContextVar("distilnb_described", default=frozenset())


def describe_function(function: Callable[..., Any]) -> dict[str, str]:
    """Return the name and the digest of a function that a decorator holds.

    Such functions may name each other in a circle; there the digest is that of the source alone.
    """
    name = getattr(function, "__name__", "function")
    open_ones = _described.get()
    if id(function) in open_ones:
        return {"code": name, "digest": digest_of(source_of(function))}
    token = _described.set(open_ones | {id(function)})
    try:
        return {"code": name, "digest": code_digest(function)}
    finally:
        _described.reset(token)


def is_only_docstring(source: str) -> bool:
    """Whether a function's body is its docstring and nothing else (or `...`, or `pass`)."""
    body = _body(source)
    return body is not None and all(
        isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in body
    )


def _is_named(annotation: object, name: str) -> bool:
    """Whether an annotation is one of ours, given as itself or as text."""
    if isinstance(annotation, str):
        return annotation.split("[")[0].rsplit(".", 1)[-1] == name
    if name == "RuntimeParameter":
        return get_origin(annotation) is Annotated and "runtime parameter" in get_args(annotation)
    return annotation == StepInput


@lru_cache(maxsize=512)
def _body(source: str) -> list[ast.stmt] | None:
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    functions = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return functions[0].body if len(functions) == 1 else None


def _returned(body: list[ast.stmt]) -> list[ast.expr]:
    """Return what the `return` and `yield` of a function give, leaving out functions inside it."""
    found: list[ast.expr] = []
    todo: list[ast.AST] = list(body)
    while todo:
        node = todo.pop(0)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(node, (ast.Return, ast.Yield)) and node.value is not None:
            found.append(node.value)
        todo = [*ast.iter_child_nodes(node), *todo]  # in the order of the source
    return found

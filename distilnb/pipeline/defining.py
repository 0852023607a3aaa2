"""The user's functions and classes as source that stands in a script before the pipeline that uses them."""

from __future__ import annotations

import ast
import builtins
import keyword
import sys
import textwrap
from typing import Any

from distilnb.pipeline.layout import laid_out, node_of
from distilnb.spec.code import Code, code_digest, is_users_module
from distilnb.spec.trust import (
    definition_of,
    free_names,
    is_own_decorator,
    is_users_code,
    namespace_of,
    parse_definition,
    source_in,
)


class Definitions:
    """The names of a script, and what defines them: imports, plain values, functions and classes.

    What cannot be written is kept in `missing`, in words.
    """

    def __init__(self) -> None:
        self.imports: dict[str, None] = {}  # lines, in no order
        self.blocks: list[str] = []  # each defines one name
        self.missing: list[str] = []
        self.own_modules: set[str] = set()  # of the user, from which something is imported
        self.has_source = False  # whether source of the user is part of it
        self._meant: dict[str, object] = {}  # what each name of the script means
        self._names: dict[str, str] = {}  # of functions, by their digest

    def reserve(self, name: str, value: object) -> None:
        """Let a name mean something that the script imports."""
        self._meant[name] = value

    def take(self, base: str, value: object) -> str:
        """Return a name that means nothing else yet, and let it mean `value`."""
        word = "".join(char if f"a{char}".isidentifier() else "_" for char in base).strip("_").lower()
        if not word.isidentifier():
            word = f"n_{word}" if word else "value"
        if (
            keyword.iskeyword(word) or word in _ALONE or hasattr(builtins, word)
        ):  # the user's functions read those
            word = f"{word}_"
        name, number = word, 1
        while name in self._meant:
            number += 1
            name = f"{word}_{number}"
        self._meant[name] = value
        return name

    def import_from(self, module: str, name: str, value: object = None) -> str:
        """Import a name of the library, under that name if it means nothing else."""
        if self._meant.setdefault(name, (module, name) if value is None else value) not in (
            (module, name),
            value,
        ):
            own = self.take(f"{name}_of_distilnb", (module, name))
            self.imports[f"from {module} import {name} as {own}"] = None
            return own
        self.imports[f"from {module} import {name}"] = None
        return name

    # --- functions ---

    def function(self, code: Code, owner: str) -> str:
        """Return an expression for a function, which is defined before."""
        if not code.is_live:
            self.missing.append(
                f"the function {code.name!r} of {owner} came from a file that was not trusted"
            )
            return "None"
        live, source = code.live, code.source or source_in(code.live)
        if home := _home_of(live):
            return self._imported(live, home)
        tree = parse_definition(source) if source else None
        if tree is None:
            self.missing.append(f"the source of the function {code.name!r} of {owner} cannot be read")
            return "None"
        self.has_source = True
        if isinstance(tree.body[0], ast.Assign):  # a lambda
            self._define_needs(live, tree, owner)
            return ast.unparse(tree.body[0].value)
        name = self._names.get(code.digest)
        if name is None:
            name = self._names[code.digest] = self._defined(live, source, tree, owner)
        return f"{name}.function" if _is_wrapped(source) else name

    def user_class(self, cls: type, owner: str) -> str:
        """Return the name of a class, which is defined or imported before."""
        if home := _home_of(cls):
            return self._imported(cls, home)
        source = source_in(cls)
        tree = parse_definition(source) if source else None
        if tree is None:
            self.missing.append(f"the source of the class {cls.__name__!r} of {owner} cannot be read")
            return cls.__name__
        self.has_source = True
        return self._defined(cls, source, tree, owner)

    def _imported(self, value: Any, module: str) -> str:
        self.own_modules.add(module)
        return self.import_from(module, value.__name__, value)

    def _defined(self, value: Any, source: str, tree: ast.Module, owner: str) -> str:
        name = str(getattr(tree.body[0], "name", ""))
        if name in self._meant and not _mean_the_same(self._meant[name], value):
            return self._defined_inside(value, name, source, tree, owner)
        if name not in self._meant:
            self._meant[name] = value
            self._define_needs(value, tree, owner)
            self._import_decorators(source)
            self.blocks.append(source.strip("\n"))
        return name

    def _defined_inside(self, value: Any, name: str, source: str, tree: ast.Module, owner: str) -> str:
        """Define in a function of its own what has the name of something else; its needs stand there with it."""
        inner = Definitions()
        inner._meant[name] = value
        inner._define_needs(value, tree, owner)
        inner._import_decorators(source)
        self.missing += inner.missing
        made = self.take(name, value)
        maker = self.take(f"make_{made}", (value, "maker"))
        lines = [*inner.imports, *inner.blocks, source.strip("\n")]
        body = textwrap.indent("\n\n".join([*lines, f"return {name}"]), "    ")
        self.blocks += [f"def {maker}():\n{body}", f"{made} = {maker}()"]
        return made

    def _define_needs(self, value: Any, tree: ast.AST, owner: str) -> None:
        """Define the globals that code names."""
        namespace = namespace_of(value)
        for name in sorted(free_names(tree)):
            if name in namespace:
                self._define_global(name, namespace[name], owner)

    def _define_global(self, name: str, value: Any, owner: str) -> None:
        if name in self._meant and not _mean_the_same(self._meant[name], value):
            self.missing.append(f"{owner} needs a {name!r} that is another than that of the rest")
            return
        if is_users_code(value) and not _home_of(value):
            source = source_in(value)
            tree = parse_definition(source) if source else None
            if tree is None or getattr(value, "__name__", "") != name:
                self.missing.append(f"{name!r}, which {owner} uses, has no source of that name")
            else:
                self._defined(value, source, tree, owner)
            return
        line = definition_of(name, value)
        if not line:
            self.missing.append(f"{owner} uses {name!r}, a {type(value).__name__}, which has no source")
        elif line.startswith(("import ", "from ")):
            self.imports[line] = None
        elif name not in self._meant:
            plain = line.startswith(f"{name} = ")
            self.blocks.append(laid_out(node_of(value), before=f"{name} = ") if plain else line)
        self._meant[name] = value

    def _import_decorators(self, source: str) -> None:
        """Import what the library's own decorators in a source are called by."""
        for node in getattr(ast.parse(source).body[0], "decorator_list", ()):
            if is_own_decorator(node):
                target = node.func if isinstance(node, ast.Call) else node
                if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                    alias = target.value.id
                    self.imports["import distilnb" + (f" as {alias}" if alias != "distilnb" else "")] = None
                elif isinstance(target, ast.Name):
                    home = "distilnb.pipeline" if target.id == "routing_batch_function" else "distilnb"
                    self.imports[f"from {home} import {target.id}"] = None


_ALONE = frozenset({"l", "O", "I"})  # names that linters refuse


def _home_of(value: Any) -> str:
    """Return the module from which a script can import a function or class of the user, or ""."""
    module = sys.modules.get(getattr(value, "__module__", "") or "")
    if module is None or module.__name__ == "__main__" or not is_users_module(module):
        return ""
    found = getattr(module, getattr(value, "__name__", ""), None)
    return module.__name__ if found is value else ""


def _mean_the_same(one: object, other: object) -> bool:
    """Whether a name may stand for both: equal functions of two cells, or of two parts of a file, are one."""
    if one is other:
        return True
    if is_users_code(one) and is_users_code(other):
        return code_digest(one) == code_digest(other)
    plain = (str, int, float, tuple, list, dict, set)
    return type(one) is type(other) and isinstance(one, plain) and one == other


def _is_wrapped(source: str) -> bool:
    decorators = getattr(ast.parse(source).body[0], "decorator_list", ())
    return any(is_own_decorator(node) for node in decorators)

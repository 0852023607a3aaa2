"""Functions and classes of the user as part of a pipeline: their identity, and their trip to a worker."""

from __future__ import annotations

import ast
import builtins
import copyreg
import dis
import functools
import inspect
import io
import os
import re
import sys
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, SecretBytes, SecretStr
from pydantic_core import PydanticUndefined

from distilnb.errors import CodeNotPortableError, SpecError
from distilnb.spec.digest import digest_of

MAX_BLOB_BYTES = 10_000_000
_SCALARS = (str, int, float, bool, complex, bytes)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_CODE = (types.FunctionType, types.ModuleType, type)
_WRAPPERS: dict[type, tuple[str, ...]] = {
    types.MethodType: ("__func__", "__self__"),
    property: ("fget", "fset", "fdel"),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    functools.cached_property: ("func",),
    functools._lru_cache_wrapper: ("__wrapped__",),
}
_KINDS_OF_CODE = 0x3AC  # `*args`, `**kwargs`, generator, coroutine; the other flags tell of the text around
_SECRET_NAMES = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
_SECRET_PREFIXES = re.compile(
    rb"\b(sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,}|gsk_[A-Za-z0-9]{16,}|ghp_[A-Za-z0-9]{20,})"
)


class Code:
    """A function or class that travels by value; equal when its source and all that it reaches are equal."""

    def __init__(self, name: str, source: str, digest: str, live: object = None) -> None:
        self.name = name
        self.source = source
        self.digest = digest
        self._live = live

    @classmethod
    def of(cls, value: object) -> Code:
        """Wrap a function or class, or what `dump` made of one."""
        if isinstance(value, Code):
            return value
        if isinstance(value, Mapping) and "code" in value:
            return cls(str(value["code"]), str(value.get("source", "")), str(value["digest"]))
        if callable(value):
            name = getattr(value, "__name__", type(value).__name__)
            return cls(name, source_of(value), code_digest(value), value)
        raise SpecError(f"A function was expected, not {type(value).__name__!r}.")

    def dump(self) -> dict[str, Any]:
        """Return the JSON-ready form; the live object is not part of it."""
        return {"code": self.name, "source": self.source, "digest": self.digest}

    @property
    def live(self) -> Callable[..., Any]:
        """The function itself; raises SpecError when only its description is here."""
        if self._live is None:
            raise SpecError(
                f"The function {self.name!r} came from a file and was not trusted, so it cannot run.",
                "Open the file with trust_code=True after reading it.",
            )
        return self._live  # type: ignore[return-value]  # only callables get in

    @property
    def is_live(self) -> bool:
        """Whether the function itself is here."""
        return self._live is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Code) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Code({self.name})"


CodeField = Annotated[Code, BeforeValidator(Code.of)]


# --- identity -----------------------------------------------------------------


def source_of(value: object) -> str:
    """Return the source text of a function or class, or "" where none can be found."""
    try:
        return textwrap.dedent(inspect.getsource(value))  # type: ignore[arg-type]
    except (OSError, TypeError):
        return ""


def code_digest(value: object) -> str:
    """Return the identity of user code: its syntax, the code and plain values it reaches, package versions."""
    return digest_of(_describe(value, _Seen({})))


class _Seen(NamedTuple):
    """What a description met already: code, in its order, and the values that are open around it."""

    code: dict[int, object]  # holds the objects, so that no id is used twice
    open_ids: tuple[int, ...] = ()


def _describe(value: object, seen: _Seen) -> Any:
    """Describe a value as JSON-ready data: code without comments and positions, equal in every process."""
    if value is None or value is ... or type(value) in _SCALARS:
        return repr(value)
    if isinstance(value, _CODE) and not isinstance(value, types.GenericAlias):  # a type, to Python 3.10
        return _describe_code(value, seen)
    if id(value) in seen.open_ids:
        return ["cycle", seen.open_ids.index(id(value))]
    return _describe_value(value, _Seen(seen.code, (*seen.open_ids, id(value))))


def _describe_code(value: Any, seen: _Seen) -> Any:
    if isinstance(value, types.ModuleType) and not is_users_module(value):
        return f"{value.__name__} {_package_version(value.__name__)}"
    if not isinstance(value, types.ModuleType) and not _is_users(value):
        name = f"{value.__module__}.{value.__qualname__} {_package_version(value.__module__)}"
        is_made = isinstance(value, types.FunctionType) and "<locals>" in value.__qualname__  # `at_least(3)`
        return [name, _describe_reach(value, seen)] if is_made else name
    if id(value) in seen.code:
        return ["seen", list(seen.code).index(id(value))]
    seen.code[id(value)] = value
    if isinstance(value, types.ModuleType):
        return _describe_module(value, seen)
    return _describe_class(value, seen) if isinstance(value, type) else _describe_function(value, seen)


def _describe_function(function: types.FunctionType, seen: _Seen) -> list[Any]:
    attributes = {name: item for name, item in sorted(vars(function).items()) if not name.startswith("__")}
    values = (function.__defaults__, function.__kwdefaults__, attributes)
    # The source of the code: that of a decorated function would be the source of what it wraps. The source line of
    # a lambda holds more than itself, so its bytecode is described.
    code = function.__code__
    syntax = _syntax_of(source_of(code), code.co_name) or _describe_bytecode(code, function.__doc__)
    return ["function", syntax, _describe_reach(function, seen), *(_describe(item, seen) for item in values)]


def _describe_class(cls: type, seen: _Seen) -> list[Any]:
    """Describe a class by its bases and members: their source is found where that of a cell's class is not."""
    bases = [_describe(base, seen) for base in (type(cls), *cls.__bases__)]
    members = {name: item for name, item in sorted(vars(cls).items()) if _is_written(cls, name, item)}
    if issubclass(cls, Enum):
        members.update({name: item.value for name, item in cls.__members__.items()})
    infos = (cls.model_fields, cls.__private_attributes__) if issubclass(cls, BaseModel) else ()
    fields = [[name, _describe_field(info, seen)] for group in infos for name, info in group.items()]
    return ["class", cls.__name__, bases, _describe(members, seen), fields]


def _is_written(cls: type, name: str, member: object) -> bool:
    """Whether a member of a class is the user's work, as against bookkeeping of Python, enum or pydantic."""
    if isinstance(member, (types.MemberDescriptorType, types.GetSetDescriptorType)) or name == "_abc_impl":
        return False
    if name.startswith("__"):
        methods = (types.FunctionType, property, staticmethod, classmethod)
        return isinstance(member, methods) and not name.startswith("__annotate")
    if issubclass(cls, Enum):
        return name not in cls.__members__ and not (name.startswith("_") and name.endswith("_"))
    return not (issubclass(cls, BaseModel) and name in ("model_fields", "model_computed_fields"))


def _describe_field(info: Any, seen: _Seen) -> list[Any]:
    """Describe a field of a pydantic model, whose default is no member of the class."""
    annotation = re.sub(r" at 0x[0-9a-f]+", "", repr(getattr(info, "annotation", "")))
    default = "none" if info.default is PydanticUndefined else _describe(info.default, seen)
    return [annotation, default, _describe(info.default_factory, seen)]


def _describe_value(value: Any, seen: _Seen) -> Any:
    kind = type(value)
    if kind in (list, tuple):
        return [kind.__name__, *(_describe(item, seen) for item in value)]
    if kind in (dict, types.MappingProxyType):
        return ["dict", *([_describe(key, seen), _describe(item, seen)] for key, item in value.items())]
    if isinstance(value, (set, frozenset)):  # in no order: what one item reached must not number the next
        items = [_describe(item, _Seen({**seen.code}, seen.open_ids)) for item in value]
        return [_describe(kind, seen), *sorted(items, key=digest_of)]
    if isinstance(value, (SecretStr, SecretBytes)):
        return "secret"
    if isinstance(value, Code):
        return ["code", value.digest]
    if isinstance(value, Enum):
        return [_describe(kind, seen), _describe(value.value, seen)]
    if hasattr(kind, "set_fields") and hasattr(kind, "not_in_digest"):  # a step or a model
        fields = {name: item for name, item in value.set_fields() if name not in value.not_in_digest}
        return [_describe(kind, seen), *([name, _describe(item, seen)] for name, item in fields.items())]
    if kind.__module__.startswith("distilnb.") and hasattr(kind, "dump") and hasattr(kind, "digest"):
        return value.dump()
    if (parts := _parts_of(value)) is not None:
        return [f"{kind.__module__}.{kind.__qualname__}", *(_describe(part, seen) for part in parts)]
    # A live object has no content that could be named: it counts as new in every process.
    return f"{kind.__module__}.{kind.__qualname__}@{os.getpid()}:{id(value)}"


def _parts_of(value: Any) -> Sequence[object] | None:
    """Return what an object is made of, or None where that cannot be known."""
    kind = type(value)
    for wrapper, names in _WRAPPERS.items():
        if isinstance(value, wrapper):
            return [getattr(value, name) for name in names]
    if not (_is_users(kind) or kind.__module__.split(".")[0] in sys.stdlib_module_names):
        return None
    try:
        reduced = (copyreg.dispatch_table.get(kind) or (lambda item: item.__reduce_ex__(2)))(value)
    except Exception:  # noqa: BLE001 - a lock, an open file, or the user's own `__getstate__`
        return None
    parts = (getattr(value, "__module__", ""), reduced) if isinstance(reduced, str) else reduced
    return [list(part) if isinstance(part, Iterator) else part for part in parts]


@functools.lru_cache(maxsize=4096)
def _syntax_of(source: str, name: str = "") -> str:
    """Return the digest of source without comments and docstrings, or "" when it is not that one definition."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ""
    if name and [getattr(node, "name", "") for node in tree.body] != [name]:
        return ""
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return digest_of(ast.dump(tree))


def _describe_bytecode(code: types.CodeType, docstring: str | None = None) -> list[Any]:
    constants = [
        _describe_bytecode(item) if isinstance(item, types.CodeType) else _describe(item, _Seen({}))
        for item in code.co_consts
    ]
    if docstring and code.co_consts[0] == docstring:
        constants[0] = "None"
    names = ("names", "varnames", "freevars", "cellvars", "argcount", "posonlyargcount", "kwonlyargcount")
    signs = [*(getattr(code, f"co_{name}") for name in names), code.co_flags & _KINDS_OF_CODE]
    table = getattr(code, "co_exceptiontable", b"")  # since Python 3.11
    return [code.co_code.hex(), table.hex(), constants, signs, sys.version_info[:2]]


def _describe_reach(function: types.FunctionType, seen: _Seen) -> dict[str, Any]:
    """Describe the globals and closure values that a function's own code names."""
    reached: dict[str, Any] = {}
    words = {word for part in _parts_in(function.__code__) for word in part.co_names}
    for name in sorted(_names_in(function.__code__)):
        if name in function.__globals__ and not (name.startswith("__") and hasattr(builtins, name)):
            value = function.__globals__[name]
            reached[name] = _describe(value, seen)
            for module in _submodules_named(value, words) if isinstance(value, types.ModuleType) else ():
                reached[module.__name__] = _describe(module, seen)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            reached[name] = _describe(cell.cell_contents, seen)
        except ValueError:  # an empty cell: the name is bound later
            reached[name] = "unbound"
    return reached


def _names_in(code: types.CodeType) -> set[str]:
    """Return the global names that code reads; `co_names` would have those of attributes too."""
    reading = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
    steps = (step for part in _parts_in(code) for step in dis.get_instructions(part))
    return {str(step.argval) for step in steps if step.opname in reading}


def _parts_in(code: types.CodeType) -> list[types.CodeType]:
    """Return code and the code of all that is defined in it."""
    inner = [item for item in code.co_consts if isinstance(item, types.CodeType)]
    return [code, *(part for item in inner for part in _parts_in(item))]


def _submodules_named(module: types.ModuleType, names: set[str]) -> Iterator[types.ModuleType]:
    """Yield the user's modules below a package that code names, as in `package.part.function()`."""
    for name in sorted(names):
        below = sys.modules.get(f"{module.__name__}.{name}")
        if below is not None and is_users_module(below):
            yield below
            yield from _submodules_named(below, names)


def _is_users(value: Any) -> bool:
    """Whether code was written by the user: in a notebook, a script or a module beside it."""
    module = sys.modules.get(getattr(value, "__module__", "") or "")
    if module is None or module.__name__ == "__main__":
        return True
    return is_users_module(module)


def is_users_module(module: types.ModuleType) -> bool:
    """Whether a module is the user's own: no part of an installed package or of Python."""
    file = getattr(module, "__file__", None)
    if module.__name__.split(".")[0] == "distilnb" or not file:
        return False
    import sysconfig

    path = str(Path(file).resolve())
    python = tuple(str(Path(sysconfig.get_path(key)).resolve()) for key in ("stdlib", "platstdlib"))
    return "site-packages" not in path and "dist-packages" not in path and not path.startswith(python)


def _describe_module(module: types.ModuleType, seen: _Seen) -> list[Any]:
    """Describe a module of the user by its source, its constants, and what it takes from elsewhere."""
    source = source_of(module)
    words = set(re.findall(r"\w+", source))
    reached: dict[str, Any] = {}
    for name, member in sorted(vars(module).items()):
        if isinstance(member, types.ModuleType):
            # A module below it may be there only because somebody else imported it.
            is_reached = member.__name__ != f"{module.__name__}.{name}" or name in words
        elif isinstance(member, (types.FunctionType, type)):
            is_reached = member.__module__ != module.__name__
        else:
            is_reached = type(member) in _SCALARS
        if is_reached and not name.startswith("__"):
            reached[name] = _describe(member, seen)
    return ["module", module.__name__, _syntax_of(source), reached]


def _package_version(module_name: str) -> str:
    package = module_name.split(".", maxsplit=1)[0]
    if package in sys.stdlib_module_names:
        return ""
    from importlib import metadata  # a tenth of a second, for zip files and mail headers

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a module may bear another name than its package
        return str(getattr(sys.modules.get(package), "__version__", ""))


# --- the trip -----------------------------------------------------------------


def pack_code(objects: Mapping[str, object]) -> bytes:
    """Return the functions and classes as bytes that `unpack_code` reads in a fresh interpreter.

    Raises CodeNotPortableError when they hold a secret, a live object, or more than 10 MB.
    """
    import cloudpickle

    modules = {
        module
        for value in objects.values()
        if (module := sys.modules.get(getattr(value, "__module__", "") or "")) and is_users_module(module)
        if module.__name__ != "__main__"
    }
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        return _pack(objects, cloudpickle)
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _pack(objects: Mapping[str, object], cloudpickle: types.ModuleType) -> bytes:
    buffer = io.BytesIO()
    secrets: list[object] = []

    class Pickler(cloudpickle.CloudPickler):  # type: ignore[misc, name-defined]  # cloudpickle has no types
        def persistent_id(self, value: object) -> None:
            # The values are looked for, not the name: a task's class names SecretStr in its model's fields.
            if isinstance(value, (SecretStr, SecretBytes)):
                secrets.append(value)

    try:
        Pickler(buffer).dump(dict(objects))
    except Exception as error:
        raise CodeNotPortableError(
            f"The functions {_names(objects)} use something that cannot be sent to a worker: {error}.",
            "Make live objects (clients, locks, open files) inside the function, or in `load` of a step class.",
        ) from error
    blob = buffer.getvalue()
    _refuse_secrets(blob, objects, holds_secret=any(secrets))
    if len(blob) > MAX_BLOB_BYTES:
        raise CodeNotPortableError(
            f"The functions {_names(objects)} weigh {len(blob) / 1e6:.1f} MB with the globals they use: "
            f"{_largest_globals(objects)}. The limit is {MAX_BLOB_BYTES / 1e6:.0f} MB.",
            "Read large data inside the function, or pass it as a column.",
        )
    return blob


def unpack_code(blob: bytes) -> dict[str, Any]:
    """Return the objects of `pack_code`. Only a worker calls this, on the blob of its own run."""
    pickle = import_module("cloudpickle")
    objects: dict[str, Any] = pickle.loads(blob)
    return objects


def _refuse_secrets(blob: bytes, objects: Mapping[str, object], *, holds_secret: bool) -> None:
    for name, value in os.environ.items():
        if _SECRET_NAMES.search(name) and len(value) >= 8 and value.encode() in blob:
            raise CodeNotPortableError(
                f"The functions {_names(objects)} hold the value of the environment variable {name}.",
                f"Read it inside the function: os.environ[{name!r}].",
            )
    if holds_secret or _SECRET_PREFIXES.search(blob):
        raise CodeNotPortableError(
            f"The functions {_names(objects)} hold what looks like a secret key.",
            "Read it inside the function from the environment.",
        )


def _names(objects: Mapping[str, object]) -> list[str]:
    """Return what the user calls the objects; their keys are digests."""
    return sorted(getattr(value, "__name__", key) for key, value in objects.items())


def _largest_globals(objects: Mapping[str, object]) -> str:
    sizes: dict[str, int] = {}
    for value in objects.values():
        functions = [value] if isinstance(value, types.FunctionType) else list(vars(value).values())
        for function in functions:
            if isinstance(function, types.FunctionType):
                reached = _names_in(function.__code__) & function.__globals__.keys()
                sizes.update({name: _weight(function.__globals__[name]) for name in reached})
                closure = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
                sizes.update({name: _weight(cell) for name, cell in closure})
    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:3]
    heavy = [name for name in largest if sizes[name] >= MAX_BLOB_BYTES / 100]
    return ", ".join(repr(name) for name in heavy) or "none by name"


def _weight(value: object) -> int:
    import cloudpickle

    try:
        return len(cloudpickle.dumps(value))
    except Exception:  # noqa: BLE001 - only used to rank names in a message
        return 0

"""Functions and classes of the user as part of a pipeline: their identity, and their trip to a worker."""

from __future__ import annotations

import ast
import builtins
import dis
import inspect
import io
import os
import re
import sys
import textwrap
import types
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, SecretBytes, SecretStr

from distilnb.errors import CodeNotPortableError, SpecError
from distilnb.spec.digest import digest_of

MAX_BLOB_BYTES = 10_000_000
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
    return digest_of(_describe(value, set()))


def _describe(value: object, seen: set[int]) -> Any:
    """Describe code without its comments and positions; recursion stops at what was described already."""
    if id(value) in seen:
        return "seen"
    seen.add(id(value))
    if isinstance(value, types.ModuleType):
        return _describe_module(value)
    if isinstance(value, (types.FunctionType, types.MethodType, type)) and not _is_users(value):
        return f"{value.__module__}.{value.__qualname__} {_package_version(value.__module__)}"
    if isinstance(value, types.MethodType):
        return [_describe(value.__func__, seen), _describe(value.__self__, seen)]
    if isinstance(value, types.FunctionType):
        return [_describe_syntax(value), _describe_reach(value, seen), _plain(value.__defaults__, seen)]
    if isinstance(value, type):
        members = [
            member for _, member in sorted(vars(value).items()) if isinstance(member, types.FunctionType)
        ]
        return [_describe_syntax(value), [_describe_reach(member, seen) for member in members]]
    return _plain(value, seen)


def _describe_syntax(value: Any) -> str:
    """Syntax tree of a def or class; bytecode for a lambda, whose source line holds more than itself."""
    source = source_of(value)
    if source and getattr(value, "__name__", "") != "<lambda>":
        try:
            tree = ast.parse(source)
        except SyntaxError:
            return _describe_bytecode(value)
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)) and ast.get_docstring(
                node
            ):
                node.body = node.body[1:] or [ast.Pass()]
        return ast.dump(tree)
    return _describe_bytecode(value)


def _describe_bytecode(value: Any) -> str:
    if isinstance(value, type):
        members = [
            member for _, member in sorted(vars(value).items()) if isinstance(member, types.FunctionType)
        ]
        return "|".join(_describe_bytecode(member) for member in members)
    return _describe_code_object(value.__code__)


def _describe_code_object(code: types.CodeType) -> str:
    constants = [
        _describe_code_object(item) if isinstance(item, types.CodeType) else repr(item)
        for item in code.co_consts
    ]
    return repr((code.co_code, constants, code.co_names, code.co_varnames, sys.version_info[:2]))


def _describe_reach(function: types.FunctionType, seen: set[int]) -> dict[str, Any]:
    """Describe the globals and closure values that a function's own code names."""
    reached: dict[str, Any] = {}
    for name in sorted(_names_in(function.__code__)):
        if name in function.__globals__ and not hasattr(builtins, name):
            reached[name] = _describe(function.__globals__[name], seen)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            reached[name] = _describe(cell.cell_contents, seen)
        except ValueError:  # an empty cell: the name is bound later
            reached[name] = "unbound"
    return reached


def _names_in(code: types.CodeType) -> set[str]:
    """Return the global names that code reads; `co_names` would have those of attributes too."""
    reading = ("LOAD_GLOBAL", "LOAD_NAME")
    names = {str(step.argval) for step in dis.get_instructions(code) if step.opname in reading}
    for item in code.co_consts:
        if isinstance(item, types.CodeType):
            names |= _names_in(item)
    return names


def _plain(value: object, seen: set[int]) -> Any:
    if value is None or isinstance(value, (str, int, float, bool, bytes)):
        return repr(value)
    if isinstance(value, re.Pattern):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return [_plain_or_code(item, seen) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(item) for item in value)
    if isinstance(value, dict):
        return [[repr(key), _plain_or_code(item, seen)] for key, item in value.items()]
    dump = getattr(value, "dump", None)
    if callable(dump) and hasattr(value, "digest"):
        return dump()
    # A live object has no content that could be named: it counts as new in every process.
    return f"{type(value).__module__}.{type(value).__qualname__}@{os.getpid()}:{id(value)}"


def _plain_or_code(value: object, seen: set[int]) -> Any:
    return _describe(value, seen) if callable(value) else _plain(value, seen)


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
    path = str(Path(file).resolve())
    return (
        "site-packages" not in path and "dist-packages" not in path and not path.startswith(_python_folders())
    )


def _python_folders() -> tuple[str, ...]:
    import sysconfig

    return tuple({str(Path(sysconfig.get_path(key)).resolve()) for key in ("stdlib", "platstdlib")})


def _describe_module(module: types.ModuleType) -> str:
    if is_users_module(module):
        return f"{module.__name__} {digest_of(source_of(module))}"
    return f"{module.__name__} {_package_version(module.__name__)}"


def _package_version(module_name: str) -> str:
    package = module_name.split(".", maxsplit=1)[0]
    if package in sys.stdlib_module_names:
        return ""
    from importlib import metadata  # a tenth of a second, for zip files and mail headers

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


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

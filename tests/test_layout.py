"""The shape of the project: names and lengths of modules, imports of the package root, what locks hold."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from distilnb import errors

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "distilnb"
MODULES = sorted(PACKAGE.rglob("*.py"))
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))

NAMELESS = {"util", "utils", "helper", "helpers", "common", "misc"}
MAX_LINES = 450
MAY_IMPORT_ROOT = ("__init__", "notebook", "cli", "demo", "__main__")


def show(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room(module: Path) -> str:
    """Return the folder or file right under the package that a module belongs to."""
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_root(module: Path) -> bool:
    """Tell whether a module takes a name from `distilnb` itself rather than from a module in it."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found = any(alias.name == "distilnb" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module, node.level) == ("distilnb", 0):
            found = not all(is_submodule(alias.name) for alias in node.names)
        else:
            found = False
        if found:
            return True
    return False


def is_submodule(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


def test_there_is_something_to_check() -> None:
    assert MODULES
    assert {"core.txt", "lab.txt", "test.txt", "browser.txt"} <= {lock.name for lock in LOCKS}


def test_every_module_has_a_name_that_says_what_it_is() -> None:
    nameless = [m for m in MODULES if NAMELESS & {m.stem.strip("_"), *m.relative_to(PACKAGE).parent.parts}]
    assert [show(m) for m in nameless] == []


def test_no_module_is_longer_than_a_reader_can_hold() -> None:
    long = {show(m): n for m in MODULES if (n := len(m.read_text("utf-8").splitlines())) > MAX_LINES}
    assert long == {}


def test_nothing_below_the_front_ends_imports_the_package_root() -> None:
    """`from distilnb import Pipeline` in a lower room is an upward import that import-linter cannot see."""
    below = [m for m in MODULES if room(m) not in MAY_IMPORT_ROOT]
    assert [show(m) for m in below if imports_root(m)] == []


def test_every_error_of_a_run_or_its_files_says_what_to_do() -> None:
    """Of those raised by name: the first argument says what happened, the second what to do about it."""
    kinds = {kind.__name__ for kind in vars(errors).values() if isinstance(kind, type)}
    of_runs = {name for name in kinds if issubclass(getattr(errors, name), errors.RunError)}
    raised = [
        (f"{show(module)}:{call.lineno}", len(call.args) > 1 and not is_empty(call.args[1]))
        for module in MODULES
        for call in ast.walk(ast.parse(module.read_text("utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in of_runs
    ]
    assert len(raised) > 20
    assert [place for place, says_what_to_do in raised if not says_what_to_do] == []


def is_empty(argument: ast.expr) -> bool:
    return isinstance(argument, ast.Constant) and not argument.value


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_names_no_address(lock: Path) -> None:
    lines = lock.read_text("utf-8").splitlines()
    address = re.compile(r"://|@ |^\s*-(?:-(?:extra-)?index|-find-links|-trusted-host|[if] )|\bfile:|\bgit\+")
    assert [line for line in lines if address.search(line)] == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_pins_everything_with_hashes_and_holds_no_torch(lock: Path) -> None:
    entries = lock_entries(lock)
    assert entries
    pinned = re.compile(r"[\w.\[\],-]+==\S+ .*--hash=sha256:[0-9a-f]{64}")
    assert [entry for entry in entries if not pinned.match(entry)] == []
    assert [entry for entry in entries if re.match(r"(torch|nvidia|cuda|triton)\b", entry)] == []


def lock_entries(lock: Path) -> list[str]:
    """Return one line per pinned package, its hashes with it."""
    text = re.sub(r"(?m)^\s*#.*\n?", "", lock.read_text("utf-8"))
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def test_the_core_lock_holds_every_core_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = {normal(re.split(r"[\[<>=!~; ]", dependency)[0]) for dependency in project["dependencies"]}
    locked = {normal(entry.split("==")[0]) for entry in lock_entries(ROOT / "requirements" / "core.txt")}
    assert wanted - locked == set()


def test_a_lock_with_pytest_holds_what_the_root_conftest_imports() -> None:
    locked = {lock.name: {entry.split("==")[0] for entry in lock_entries(lock)} for lock in LOCKS}
    with_pytest = {name for name, packages in locked.items() if "pytest" in packages}
    assert {"litellm.txt", "test.txt"} <= with_pytest
    assert [name for name in sorted(with_pytest) if "hypothesis" not in locked[name]] == []


def normal(name: str) -> str:
    """Return a distribution's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()

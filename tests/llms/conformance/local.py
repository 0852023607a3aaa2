"""The parts of docs/llms.md on real engines and local models: from the classes, and from what the tests showed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from distilnb.errors import UnsupportedParameterError
from distilnb.llms.catalog import PROVIDERS as NAMES
from distilnb.llms.local import LocalLLM
from distilnb.spec.registry import LLMS, load_kind
from tests.llms.conformance.providers import REASONS, Behaviour
from tests.llms.conformance.record import LACKS, OF_ENGINES, current_tests, passed, pinned
from tests.llms.engines.real import IN_PROCESS, REAL_ENGINES, RealEngine

YES, NOT_RUN = "✓", "not run"

REAL_HEAD = """
## Real engines and servers

The same tests, where they can be asked of the real thing: `make test-engines` gives a tiny model to the libraries
in process and to the servers of two of them, on a CPU. `ClientvLLM` asks vLLM's server where no class is named.
A ✓ passed there, with {versions}.
A number tells why a test is not for it:

{reasons}
"""

HEAD = """
## Local models

They run on this machine, in a process of their own that all previews and runs share
([how](architecture/hosts.md)). `make test-engines` holds the real libraries to the behaviours below too;
`MlxLLM` is not among them: it runs on Apple's processors only.
"""


def local_kinds() -> list[str]:
    """Return the names of the classes of local models."""
    return [kind for kind in LLMS if issubclass(load_kind(kind), LocalLLM)]


def local_tables(values: dict[str, Any]) -> list[list[tuple[str, ...]]]:
    """Return the rows of three tables: classes, parameters, behaviours, each with its head."""
    kinds = local_kinds()
    classes: list[tuple[str, ...]] = [("class", "in `dn.llm`", "extra to install", "shapes")]
    parameters: list[tuple[str, ...]] = [("class", *(f"`{name}`" for name in values))]
    for kind in kinds:
        cls = load_kind(kind)
        assert issubclass(cls, LocalLLM)
        names = ", ".join(f"`{name}:`" for name, named in NAMES.items() if named == kind)
        shapes = "forced" if cls.forces else "told"
        classes.append((f"`{kind}`", names, f'`pip install "distilnb[{cls.extra_name}]"`', shapes))
        parameters.append((f"`{kind}`", *(_support(cls, name, value) for name, value in values.items())))
    behaviours = [("", *(engine.name for engine in IN_PROCESS))]
    behaviours += [(_words(test), *(_own(test, engine) for engine in IN_PROCESS)) for test in _own_tests()]
    return [classes, parameters, behaviours]


def real_head() -> str:
    """Return what is said before the table of real engines."""
    versions = ", ".join(f"{name} {version}" for name, version in pinned().items())
    reasons = "\n".join(f"{number}. {reason}" for number, reason in enumerate(REASONS, 1))
    return REAL_HEAD.format(versions=versions, reasons=reasons)


def real_table(behaviours: Iterable[Behaviour]) -> list[tuple[str, ...]]:
    """Return the rows of the table of real engines, its head first."""
    rows: list[tuple[str, ...]] = [("", *(engine.name for engine in REAL_ENGINES))]
    rows += [(one.title, *(_real(one, engine) for engine in REAL_ENGINES)) for one in behaviours]
    return rows


def _real(behaviour: Behaviour, engine: RealEngine) -> str:
    if reason := behaviour.not_of(engine):
        return str(REASONS.index(reason) + 1)
    return YES if passed(behaviour.test, engine) else NOT_RUN


def _own(test: str, engine: RealEngine) -> str:
    return LACKS.get((test, engine.name)) or (YES if passed(test, engine) else NOT_RUN)


def _support(cls: type[LocalLLM], name: str, value: Any) -> str:
    try:
        cls(model="m", generation_kwargs={name: value}).check_parameters()
    except UnsupportedParameterError:
        return "–"
    return YES


def _words(test: str) -> str:
    return test.removeprefix("test_").replace("_", " ")


def _own_tests() -> list[str]:
    text = OF_ENGINES.read_text(encoding="utf-8")
    return sorted((test for test in current_tests() if f"def {test}(" in text), key=text.index)

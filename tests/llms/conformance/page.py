"""The page docs/llms.md, made from the classes of models and from the behaviours of the suite."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path

from distilnb.errors import UnsupportedParameterError
from distilnb.llms.base import LLM
from distilnb.llms.catalog import EMBEDDING_PROVIDERS, IMAGE_PROVIDERS
from distilnb.llms.catalog import PROVIDERS as NAMES
from distilnb.llms.remote import RemoteLLM
from distilnb.spec.registry import EMBEDDINGS, IMAGE_MODELS
from tests.llms.conformance.local import HEAD, local_tables, real_head, real_table
from tests.llms.conformance.providers import BEHAVIOURS, PROVIDERS, UNTOLD, Behaviour, Provider
from tests.llms.conformance.test_requests import VALUES
from tests.llms.conformance.vectors import HEAD as VECTORS
from tests.llms.conformance.vectors import IMAGE_HEAD as IMAGES
from tests.llms.conformance.vectors import class_table

PAGE = Path(__file__).parents[3] / "docs" / "llms.md"
SUITES = ("test_replies", "test_shapes", "test_images", "test_failures", "test_requests")
YES, NO = "✓", "–"
ELSEWHERE = "other servers"

_HEAD = """# Models

<!-- Written by `make pages` from the classes and the tests; a test holds it to them. -->

Every model is asked in one way, whatever provider it has: `dn.llm("groq:llama-3.3-70b-versatile",
temperature=0.7)`, or its class, `GroqLLM(model="llama-3.3-70b-versatile", generation_kwargs={"temperature":
0.7})`. Other words for a parameter (`max_tokens`, `stop_sequences`, `random_seed` …) are understood. `n` is the
task's `num_generations`; `extra` holds fields of the server's own.

## Classes

A key is looked for in the environment, under the name below, when the pipeline is checked, before anything
runs. It goes to the provider's own host, or to the server that the address variable names, and nowhere else;
another `base_url=` gets the key that is given with `api_key=`. Which models can hand a run's requests over as
[offline batches](batches.md), and how many in one job, stands in the last column.
"""

_PARAMETERS = """
## Parameters

A parameter that a provider lacks is refused by name when the pipeline is checked. "other servers": not by the
provider's own host, but passed on to a server of another `base_url`.
"""

_BEHAVIOURS = """
## Behaviours

Each ✓ is a test that passes (`tests/llms/conformance/`): against a server on this machine that speaks the
provider's protocol, which the provider's own SDK has read before. "refused": the provider lacks it, and the
check says so by name. "n times": the provider brings one reply a request, so that n are asked for one by one.
"not told": its protocol has no word for it.
"""


def write_page() -> str:
    """Return the text of the page."""
    for name in SUITES:  # the behaviours are noted where the tests are
        importlib.import_module(f"tests.llms.conformance.{name}")
    remote = [_HEAD, *_classes(), _PARAMETERS, *_parameters(), _BEHAVIOURS, *_behaviours()]
    head, *rows = real_table(_in_order())
    real = [real_head().rstrip("\n"), "", *_table(head, rows)]
    local = [line for head, *rows in local_tables(VALUES) for line in ("", *_table(head, rows))]
    head, *rows = class_table(EMBEDDINGS, EMBEDDING_PROVIDERS)
    vectors = [VECTORS.rstrip("\n"), "", *_table(head, rows)]
    head, *rows = class_table(IMAGE_MODELS, IMAGE_PROVIDERS)
    vectors += [IMAGES.rstrip("\n"), "", *_table(head, rows)]
    return "\n".join([*remote, *real, HEAD.rstrip("\n"), *local, *vectors]) + "\n"


def _classes() -> list[str]:
    rows = []
    for provider in PROVIDERS:
        cls = provider.cls
        assert issubclass(cls, RemoteLLM)
        names = [name for name, kind in NAMES.items() if kind == provider.kind]
        extra = f'`pip install "distilnb[{cls.extra_name}]"`' if cls.extra_name else NO
        rows.append(
            (
                f"`{provider.kind}`",
                ", ".join(f"`{name}:`" for name in names) or NO,
                extra,
                _code(cls.key_variable),
                _code(cls.url_variable),
                NO if cls.batch_limits is None else f"{YES}, {cls.batch_limits.max_requests:,} a job",
            )
        )
    head = ("class", "in `dn.llm`", "extra to install", "key", "address", "offline batches")
    return _table(head, rows)


def _parameters() -> list[str]:
    rows = [
        (f"`{provider.kind}`", *(_support(provider.cls, name) for name in VALUES)) for provider in PROVIDERS
    ]
    return _table(("class", *(f"`{name}`" for name in VALUES)), rows)


def _behaviours() -> list[str]:
    rows = [
        (behaviour.title, *(_shown(behaviour, provider) for provider in PROVIDERS))
        for behaviour in _in_order()
    ]
    return _table(("", *(f"`{provider.kind}`" for provider in PROVIDERS)), rows)


def _in_order() -> list[Behaviour]:
    return sorted(BEHAVIOURS.values(), key=lambda behaviour: SUITES.index(behaviour.suite))


def _support(cls: type[LLM], name: str) -> str:
    own = cls(model="m", api_key="k", generation_kwargs={name: VALUES[name]})
    if _takes(own):
        return YES
    return ELSEWHERE if _takes(own.updated(base_url="http://127.0.0.1:1")) else NO


def _takes(model: LLM) -> bool:
    try:
        model.check_parameters()
    except UnsupportedParameterError:
        return False
    return True


def _shown(behaviour: Behaviour, provider: Provider) -> str:
    if behaviour.images and not provider.cls.takes_images & {behaviour.images}:
        return "refused"
    if behaviour.needs and behaviour.needs not in provider.cls.parameters:
        return "refused"
    if behaviour.title == "a filtered reply" and provider.kind in UNTOLD:
        return "not told"
    return "n times" if behaviour.title == "n replies" and provider.cls.max_n == 1 else YES


def _code(text: str) -> str:
    return f"`{text}`" if text else NO


def _table(head: Iterable[str], rows: Iterable[tuple[str, ...]]) -> list[str]:
    cells = list(head)
    lines = [cells, ["---"] * len(cells), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]

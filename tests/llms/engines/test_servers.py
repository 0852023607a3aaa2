"""What holds of the real servers alone; what holds of all models is in tests/llms/conformance."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import distilnb as dn
from distilnb.llms.base import LLM
from tests.llms.engines.real import KEY, SERVERS, RealEngine, Served

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

PROMPT = "Name three uses of argon."
ENGINES = {engine.server: engine for engine in SERVERS}

Make = Callable[..., LLM]


@pytest.fixture(params=sorted(ENGINES))
def name(request: pytest.FixtureRequest) -> str:
    """Return the catalog's name for a server."""
    return str(request.param)


@pytest.fixture
def make(name: str, serve: Callable[[RealEngine], Served]) -> Make:
    served = serve(ENGINES[name])

    def made(model: str = "tiny", **fields: Any) -> LLM:
        return dn.llm(f"{name}:{model}", base_url=served.url, api_key=KEY, **fields)

    return made


def test_free_text_inside_a_schema_is_read_whatever_characters_are_in_it(make: Make) -> None:
    """Guided decoding of vLLM lets control characters into strings, which strict JSON forbids."""
    schema = {
        "type": "object",
        "properties": {"text": {"type": "string", "maxLength": 12}},
        "required": ["text"],
        "additionalProperties": False,
    }
    for n in range(6):
        found = make(max_new_tokens=80, temperature=1.0).ask(f"{PROMPT} {n}", schema=schema, max_reasks=0)
        assert isinstance(found["text"], str)
        assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("name", ["llamacpp"])
def test_a_reply_that_no_server_held_to_its_pattern_is_refused(make: Make) -> None:
    with pytest.raises(dn.errors.DistilnbError, match=r"pattern|match"):
        make(max_new_tokens=8).ask(PROMPT, schema=r"[A-C]{2}-(red|blue)\d{1,3}", max_reasks=0)


@pytest.mark.parametrize("name", ["llamacpp"])
def test_a_server_of_one_model_answers_under_any_name(make: Make) -> None:
    assert make("nope", max_new_tokens=4).ask(PROMPT)


def test_a_run_with_sixteen_in_flight_is_whole(make: Make) -> None:
    llm = make(max_concurrency=16, max_new_tokens=4)
    rows = [{"instruction": f"{PROMPT} {n}"} for n in range(48)]
    distiset = dn.Pipeline("servers", llm=llm).from_dicts(rows).generate().run()
    answers = [row["generations"][0] for row in distiset.rows()]
    assert len(answers) == 48
    assert all(isinstance(answer, str) for answer in answers)

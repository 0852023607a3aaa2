"""Replies of a wanted shape: what each provider is asked for in its own way, and read in ours."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pydantic
import pytest

from tests.llms.conformance.providers import Provider, behaviour
from tests.servers import MockLLM, mock_llm


@pytest.fixture(scope="module")
def refusing_server() -> Iterator[MockLLM]:
    with mock_llm(refuses=("json_schema", "json_object_schema")) as running:
        yield running


@pytest.fixture
def refusing(refusing_server: MockLLM) -> MockLLM:
    refusing_server.reset()
    return refusing_server


class City(pydantic.BaseModel):
    """A city."""

    model_config = pydantic.ConfigDict(extra="forbid")

    name: str
    inhabitants: int = pydantic.Field(ge=0)
    twins: list[str] = pydantic.Field(max_length=3)


@behaviour("schema: a pydantic model")
def test_a_pydantic_model_comes_back_as_its_instance(provider: Provider, server: MockLLM) -> None:
    found = provider.model(server).ask("Tell of a city.", schema=City)
    assert isinstance(found, City)
    (form,) = server.stats()["by_form"]  # what was forced, at the first try
    assert form in ("json_schema", "json_object_schema", "structured_outputs")


@behaviour("schema: any JSON object")
def test_a_json_object_without_a_schema_is_a_dict(provider: Provider, server: MockLLM) -> None:
    model = provider.model(server, structured_output={"format": "json"})
    assert isinstance(json.loads(model.ask("Tell of a city.")), dict)
    assert server.stats()["by_form"]


@behaviour("schema: a choice")
def test_a_choice_comes_back_to_the_letter(provider: Provider, server: MockLLM) -> None:
    choices = ["yes", "no", "don't know"]
    assert provider.model(server).ask("Is it so?", schema=choices) in choices
    assert server.stats()["by_form"]


@behaviour("schema: a regular expression")
def test_a_pattern_is_matched(provider: Provider, server: MockLLM) -> None:
    assert provider.model(server).ask("Is it so?", schema="yes|no") in ("yes", "no")
    assert server.stats()["by_form"]


@behaviour("a schema that the server refuses")
def test_a_way_that_is_refused_gives_room_to_the_next(provider: Provider, refusing: MockLLM) -> None:
    free = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    found = provider.model(refusing).ask("Tell of a city.", schema=free)
    assert isinstance(found["text"], str)
    stats = refusing.stats()
    assert stats["requests"] == stats["rejected_form"] + 1 > 1

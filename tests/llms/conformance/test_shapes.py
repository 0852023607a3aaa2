"""Replies of a wanted shape: what each provider is asked for in its own way, and read in ours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import pydantic
import pytest

from distilnb.errors import RefusedRequestError
from distilnb.llms.request import Request
from distilnb.llms.shape import ReplyShape
from tests.llms.conformance.providers import (
    ALL_FORMS,
    NO_PATTERN,
    UNBOUNDED,
    Provider,
    Server,
    Subject,
    behaviour,
    send,
)
from tests.llms.engines.real import RealEngine
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


class Town(pydantic.BaseModel):
    """A town, all of it bounded: the tiny model would never end a string or a number."""

    model_config = pydantic.ConfigDict(extra="forbid")

    name: str = pydantic.Field(max_length=12)
    size: Literal["small", "large"]
    has_port: bool


ROOM: dict[str, Any] = {"generation_kwargs": {"max_new_tokens": 128, "temperature": 1.0}}


@behaviour("schema: a pydantic model")
def test_a_pydantic_model_comes_back_as_its_instance(provider: Subject, server: Server) -> None:
    if isinstance(provider, RealEngine):
        model = provider.model(server, **ROOM)
        for n in range(4):  # replies that differ; the first is to fit: it was forced
            assert isinstance(model.ask(f"Tell of town {n}.", schema=Town, max_reasks=0), Town)
        return
    found = provider.model(server).ask("Tell of a city.", schema=City)
    assert isinstance(found, City)
    (form,) = server.stats()["by_form"]  # what was forced, at the first try
    assert form in ("json_schema", "json_object_schema", "structured_outputs")


@behaviour("schema: any JSON object", unreal=UNBOUNDED)
def test_a_json_object_without_a_schema_is_a_dict(provider: Provider, server: MockLLM) -> None:
    model = provider.model(server, structured_output={"format": "json"})
    assert isinstance(json.loads(model.ask("Tell of a city.")), dict)
    assert server.stats()["by_form"]


@behaviour("schema: a choice")
def test_a_choice_comes_back_to_the_letter(provider: Subject, server: Server) -> None:
    if isinstance(provider, RealEngine):
        real = ["yes", "no, never", "don't know"]
        replies = {provider.model(server, **ROOM).ask(f"{n}?", schema=real, max_reasks=0) for n in range(6)}
        assert replies <= set(real)
        return
    choices = ["yes", "no", "don't know"]
    assert provider.model(server).ask("Is it so?", schema=choices) in choices
    assert server.stats()["by_form"]


@behaviour("schema: a regular expression", unreal={"llama.cpp's server, by `OpenAILLM`": NO_PATTERN})
def test_a_pattern_is_matched(provider: Subject, server: Server) -> None:
    if isinstance(provider, RealEngine):
        pattern = r"[A-C]{2}-(red|blue)\d{1,3}"
        for n in range(4):
            reply = provider.model(server, **ROOM).ask(f"Code {n}?", schema=pattern, max_reasks=0)
            assert re.fullmatch(pattern, reply)
        return
    assert provider.model(server).ask("Is it so?", schema="yes|no") in ("yes", "no")
    assert server.stats()["by_form"]


@behaviour(
    "a schema that the server refuses",
    unreal={"vLLM's server": ALL_FORMS, "vLLM's server, by `OpenAILLM`": ALL_FORMS, "in process": ALL_FORMS},
)
def test_a_way_that_is_refused_gives_room_to_the_next(
    provider: Subject, server: Server, request: pytest.FixtureRequest
) -> None:
    if isinstance(provider, RealEngine):
        model = provider.model(server, **ROOM)
        schema = Town.model_json_schema()
        messages = ({"role": "user", "content": "Tell of a town."},)
        with pytest.raises(RefusedRequestError):
            send(model, Request(messages, shape=ReplyShape("json", schema), mode="json_schema"))
        assert Town.model_validate(model.ask("Tell of a town.", schema=schema, max_reasks=0))
        return
    refusing: MockLLM = request.getfixturevalue("refusing")
    free = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    found = provider.model(refusing).ask("Tell of a city.", schema=free)
    assert isinstance(found["text"], str)
    stats = refusing.stats()
    assert stats["requests"] == stats["rejected_form"] + 1 > 1

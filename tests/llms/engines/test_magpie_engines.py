"""Magpie on every real engine: the user's part is written after the bare text, the reply as in any chat."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distilnb.llms.calling import answer_now
from distilnb.llms.local import LocalLLM
from distilnb.llms.magpie import RAW
from distilnb.llms.request import Answer, Request
from distilnb.tasks import Magpie
from tests.llms.engines.real import IN_PROCESS, RealEngine, Served

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

Make = Callable[..., LocalLLM]


@pytest.fixture(params=IN_PROCESS, ids=lambda engine: engine.kind)
def make(request: pytest.FixtureRequest, serve: Callable[[RealEngine], Served]) -> Make:
    """Return what makes the tiny model for an engine, with generation parameters."""
    engine: RealEngine = request.param
    served = serve(engine)

    def made(**generation: Any) -> LocalLLM:
        wanted = {"temperature": 1.0, "max_new_tokens": 12, **generation}
        llm = engine.model(served, magpie_pre_query_template="qwen2", generation_kwargs=wanted)
        assert isinstance(llm, LocalLLM)
        return llm

    return made


def raw(llm: LocalLLM, text: str) -> Answer:
    return answer_now(llm, Request(({"role": RAW, "content": text},)))


def test_a_bare_text_is_gone_on_with_as_it_is(make: Make, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    text = "<|im_start|>user\nName three"
    [reply] = raw(make(temperature=0), text).replies
    n_tokens = len(AutoTokenizer.from_pretrained(tiny_model)(text)["input_ids"])
    assert reply.text
    assert reply.input_tokens in (
        n_tokens,
        n_tokens + 1,
    )  # llama.cpp puts the token for the beginning before it
    assert reply.output_tokens == 12
    chat = answer_now(make(temperature=0), Request(({"role": "user", "content": text},)))
    assert chat.replies[0].input_tokens > reply.input_tokens  # type: ignore[operator]  # both engines count
    assert raw(make(temperature=0), text).replies[0].text == reply.text


def test_the_task_makes_conversations_of_it(make: Make) -> None:
    task = Magpie(name="talk", llm=make(), n_turns=2, system_prompt="Be brief.")
    task.check()
    [reply] = answer_now(task.llm, task.request({})).replies  # type: ignore[arg-type]  # it has a model
    turns = json.loads(reply.text or "")
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user", "assistant"][: len(turns)]
    assert turns
    assert reply.input_tokens
    assert reply.output_tokens

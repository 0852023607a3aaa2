"""Magpie on every real engine: the user's part is written after the bare text, the reply as in any chat."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from distilnb.llms import LlamaCppLLM, TransformersLLM, vLLM
from distilnb.llms.calling import answer_now
from distilnb.llms.local import LocalLLM
from distilnb.llms.magpie import RAW
from distilnb.llms.request import Answer, Request
from distilnb.tasks import Magpie

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

Make = Callable[..., LocalLLM]


@pytest.fixture(params=["transformers", "llama_cpp", "vllm"])
def make(request: pytest.FixtureRequest, tiny_model: Path) -> Make:
    """Return what makes the tiny model for an engine, with generation parameters."""
    if find_spec(request.param) is None:
        pytest.skip(f"the package {request.param!r} is not installed")
    fields: dict[str, Any] = {"model": str(tiny_model), "magpie_pre_query_template": "qwen2"}
    kind: type[LocalLLM] = TransformersLLM
    if request.param == "llama_cpp":
        kind = LlamaCppLLM
        fields |= {"model": str(request.getfixturevalue("tiny_gguf")), "n_ctx": 512}
    elif request.param == "vllm":
        kind = vLLM
        fields["extra_kwargs"] = {"enforce_eager": True, "max_model_len": 512, "max_num_seqs": 16}
    return lambda **generation: kind(**fields, generation_kwargs={"max_new_tokens": 12, **generation})


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

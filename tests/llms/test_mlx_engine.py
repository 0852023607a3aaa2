"""What goes to mlx-lm, as a stand-in for that library sees it: it runs on Apple's processors only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from distilnb.llms.engines.base import Ask, Completed
from distilnb.llms.engines.mlx import MlxEngine
from distilnb.llms.magpie import RAW

PROMPTS: list[Any] = []


class Tokenizer:
    chat_template = ""

    def apply_chat_template(
        self, messages: list[dict[str, str]], *, add_generation_prompt: bool
    ) -> list[str]:
        return ["chat", *[message["content"] for message in messages]]

    def encode(self, text: str) -> list[str]:
        return ["begin", text]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> MlxEngine:
    def stream_generate(_: object, __: object, prompt: Any, **___: Any) -> Iterator[Any]:
        PROMPTS.append(prompt)
        yield SimpleNamespace(text="Why", generation_tokens=1, finish_reason=None)
        yield SimpleNamespace(text="?", generation_tokens=2, finish_reason="stop")

    def module(name: str, **names: Any) -> None:
        made = ModuleType(name)
        made.__dict__.update(names)
        monkeypatch.setitem(sys.modules, name, made)

    PROMPTS.clear()
    random = SimpleNamespace(seed=lambda seed: None)
    module("mlx", core=SimpleNamespace(random=random))
    module("mlx.core", random=random)
    module("mlx_lm", load=lambda *_, **__: (object(), Tokenizer()), stream_generate=stream_generate)
    module(
        "mlx_lm.sample_utils",
        make_sampler=lambda **_: None,
        make_logits_processors=lambda **_: [],
    )
    settings = dict.fromkeys(("tokenizer_config", "mlx_model_config", "adapter_path", "chat_template"))
    loaded = MlxEngine({**settings, "model": "some/model"}, lambda: None)
    loaded.load()
    return loaded


def test_a_bare_text_goes_past_the_chat_template(engine: MlxEngine) -> None:
    raw = Ask([{"role": RAW, "content": "<|im_start|>user\n"}])
    chat = Ask([{"role": "user", "content": "Hi."}])
    for made in engine.generate([raw, chat]):
        assert isinstance(made, Completed)
        assert [one.text for one in made.completions] == ["Why?"]
    assert PROMPTS == [["begin", "<|im_start|>user\n"], ["chat", "Hi."]]
